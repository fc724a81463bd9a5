"""The distillation stage for embeddings: one student per method, all from the same start (notebook 06).

First `plan_embedding_training` decides and checks everything, then `distill_embedding` trains one method after the
other.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdkit.config.embeddings import EmbeddingConfig, check_static
from kdkit.config.method_base import Method
from kdkit.config.methods import (
    Cdm,
    Cosine,
    Dskd,
    Emo,
    LateInteraction,
    LayerReduction,
    Leaf,
    ListKL,
    MarginMse,
    MethodSettings,
    Rkd,
    SimilarityKL,
    Stella,
    Talas,
    TaskOnly,
)
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.methods.base import CosineMethod, MethodNeeds, PairFacts, SentenceMethod
from kdkit.embeddings.methods.cdm import CdmMethod
from kdkit.embeddings.methods.dskd import DskdMethod
from kdkit.embeddings.methods.emo import EmoMethod
from kdkit.embeddings.methods.late_interaction import LateInteractionMethod
from kdkit.embeddings.methods.ranking import ListKLMethod, MarginMseMethod
from kdkit.embeddings.methods.simple import (
    LayerReductionMethod,
    LeafMethod,
    RkdMethod,
    SimilarityKLMethod,
    TaskMethod,
)
from kdkit.embeddings.methods.stella import StellaMethod
from kdkit.embeddings.methods.talas import TalasMethod
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.static import TokenTable
from kdkit.embeddings.teacher.answers import CachedTeacher, LiveTeacher
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.late_teacher import open_token_store
from kdkit.embeddings.teacher.lists import RankingLists, open_lists
from kdkit.embeddings.teacher.probe import load_teacher
from kdkit.embeddings.training.batches import Order, make_order
from kdkit.embeddings.training.begin import forget, go_on, start_method
from kdkit.embeddings.training.checks import check_batch, check_documents, check_method
from kdkit.embeddings.training.follow import AfterEpoch, Follower
from kdkit.embeddings.training.student import open_embedding_student
from kdkit.embeddings.training.trainer import EmbeddingTrainer, PlannedEmbeddingStage, plan_embedding_stages
from kdkit.errors import UserError
from kdkit.machine.interrupt import StopRequest, stop_when_saved
from kdkit.machine.session import Session
from kdkit.runs.disk import whole_folder, writing
from kdkit.runs.messages import note
from kdkit.training.arguments import check_checkpoint_room
from kdkit.training.order import num_processes
from kdkit.training.together import Processes, join_processes


def build_method(settings: MethodSettings, facts: PairFacts) -> SentenceMethod:
    """Make the module of a method."""
    made_by: dict[type[Method], type[SentenceMethod]] = {
        Talas: TalasMethod,
        Dskd: DskdMethod,
        Cdm: CdmMethod,
        Emo: EmoMethod,
        Stella: StellaMethod,
        Cosine: CosineMethod,
        Rkd: RkdMethod,
        Leaf: LeafMethod,
        SimilarityKL: SimilarityKLMethod,
        LayerReduction: LayerReductionMethod,
        MarginMse: MarginMseMethod,
        ListKL: ListKLMethod,
        LateInteraction: LateInteractionMethod,
        TaskOnly: TaskMethod,
    }
    return made_by[type(settings)](settings, facts)


@dataclass(frozen=True)
class EmbeddingPlan:
    """The trainings of a run: decided and checked once, before anything is trained."""

    facts: PairFacts
    """Widths and depths of both models."""
    methods: dict[str, SentenceMethod]
    """The run's own and those of `compare`, by name; their projections are still to be started."""
    order: Order
    """Micro-batches of every training."""
    stages: dict[str, list[PlannedEmbeddingStage]]
    """Stages of each method's training."""

    @property
    def needs(self) -> MethodNeeds:
        """What all methods together need of the teacher."""
        needs = [method.needs for method in self.methods.values()]
        return MethodNeeds(
            tokens=any(need.tokens for need in needs),
            attention_layers=max(need.attention_layers for need in needs),
            word_embeddings=any(need.word_embeddings for need in needs),
            lists=any(need.lists for need in needs),
            late=any(need.late for need in needs),
        )

    @property
    def teacher_layers(self) -> list[int]:
        """Layers of the teacher whose attention maps are needed, counted from 0."""
        first = self.facts.student_layers - self.needs.attention_layers
        return [teacher_layer(layer, self.facts) for layer in range(first, self.facts.student_layers)]


def plan_embedding_training(session: Session[EmbeddingConfig], data: SentenceData) -> EmbeddingPlan:
    """Build the methods of a run and plan their trainings; reads `teacher/probe.json`.

    Raises:
        UserError: see `open_embedding_student`, the methods, `make_order`, `plan_embedding_stages`;
            `evaluate.dimensions` that some student will not have.
    """
    config, probe = session.config, session.run.read_json("teacher/probe.json")
    student = open_embedding_student(session, data)
    if isinstance(student.backbone, TokenTable):
        check_static(config)
    widths = student.width, probe["width"], student.num_layers, probe["num_layers"]
    facts = PairFacts(*widths, probe["causal"], config.data.max_length, probe.get("token_vectors", False))
    methods = {}
    for settings in (config.method, *config.compare):
        torch.manual_seed(config.seed)  # so a method's weights do not depend on those beside it
        methods[str(settings)] = build_method(settings, facts)
        check_method(str(settings), methods[str(settings)], student, probe)
    kept = [facts.student_width if method.kept_head() is None else facts.teacher_width for method in methods.values()]
    if too_wide := [number for number in config.evaluate.dimensions if number > min(kept)]:
        raise UserError(f"evaluate.dimensions: expected at most the width {min(kept)}, got {too_wide[0]}; leave it out")
    check_documents(methods, data.second)
    check_batch(methods, config.train.per_device_train_batch_size * num_processes())
    if num_processes() > 1 and any(method.needs.late for method in methods.values()):
        raise UserError(
            f"method: expected another one than late_interaction in {num_processes()} processes, whose token vectors "
            "are not exchanged; start it without accelerate launch"
        )
    order = make_order(data, config.train, config.seed)
    stages = {name: plan_embedding_stages(config, student, method, order) for name, method in methods.items()}
    return EmbeddingPlan(facts, methods, order, stages)


def teacher_layer(student_layer: int, facts: PairFacts) -> int:
    """Return the teacher layer that a student layer is compared with, both counted from 0: proportional, last to last.

    Source: EMO (EMNLP 2025 main 385), its authors' code, which stops short of the last layer where the depths do not
    divide.
    """
    return max((student_layer + 1) * facts.teacher_layers // facts.student_layers - 1, 0)


def distill_all(
    session: Session[EmbeddingConfig],
    data: SentenceData,
    after_epoch: AfterEpoch | None = None,
    *,
    resume: bool | None = False,
) -> dict[str, dict[str, Any]]:
    """Train the student by the run's method, and by every method of `compare`, from the same start.

    Writes `training.json`, adds `cache` to `teacher/probe.json`; see `distill_embedding`. Of several processes that
    were launched together (see `kdkit.training.together`) all call it, and the first one alone writes.

    Args:
        resume: go on from a checkpoint; the first process decides. None from it: there is nothing to train.

    Returns:
        The entry of training.json of every method, by its name.
    """
    processes, hardware = join_processes(session.hardware)
    resume, session = processes.agree(resume), replace(session, hardware=hardware)
    if resume is None:
        return {}
    with processes.first_before_others():
        plan = plan_embedding_training(session, data)
        teacher, lists = _open_signals(session, data, plan, processes)
    words = None
    if plan.needs.word_embeddings:
        words = load_teacher(session.config, session.hardware).backbone.get_input_embeddings().weight.detach().clone()
    entries = {}
    for name, method in plan.methods.items():
        with processes.first_before_others():
            aligned = prepare_sentences(session, method.alignment) if method.alignment else data
        entries[name] = distill_embedding(
            session,
            aligned,
            teacher,
            plan,
            name,
            after_epoch,
            teacher_words=words,
            lists=lists,
            resume=resume,
            processes=processes,
        )
    return entries


def _open_signals(
    session: Session[EmbeddingConfig], data: SentenceData, plan: EmbeddingPlan, processes: Processes
) -> tuple[CachedTeacher | LiveTeacher, RankingLists | None]:
    """Open what the teacher says of the sentences and, where a method needs them, of their lists; note both."""
    needs, lists = plan.needs, None
    teacher, asked = open_embedding_teacher(session, data, tokens=needs.tokens, attention_layers=plan.teacher_layers)
    facts = {"cache": asked}
    if needs.lists:
        lists, mined = open_lists(session, data, teacher)
        facts["negatives"] = mined
    if needs.late and plan.facts.late_teacher:
        teacher = replace(teacher, tokens=open_token_store(session, data))
    if processes.is_first:
        session.run.write_json("teacher/probe.json", session.run.read_json("teacher/probe.json") | facts)
    return teacher, lists


def distill_embedding(
    session: Session[EmbeddingConfig],
    data: SentenceData,
    teacher: CachedTeacher | LiveTeacher,
    plan: EmbeddingPlan,
    name: str,
    after_epoch: AfterEpoch | None = None,
    *,
    teacher_words: torch.Tensor | None = None,
    lists: RankingLists | None = None,
    resume: bool = False,
    processes: Processes = Processes(),  # noqa: B008 - it cannot be changed
) -> dict[str, Any]:
    """Train one student by one method and save it as a sentence-transformers folder.

    The run's own method goes to `student/`, others to `compared/NAME/`.

    Args:
        teacher: its signals for `data.texts`.
        name: of the method in the plan.
        after_epoch: scores the student before the first step, after every epoch and at the end.
        teacher_words: the teacher's word embeddings, where the method needs them.
        lists: documents of every training row, where the method needs them.
        resume: go on from the checkpoint of an interrupted training.
        processes: that train together; what is said here of saving and scoring is the first one's work.

    Returns:
        The training's entry of training.json; empty but in the first process.

    Raises:
        Stopped, SystemExit: by the user, or by the time budget; what was trained is saved.
    """
    config, run, method = session.config, session.run, plan.methods[name]
    folder = student_folder(session, method.settings)
    trainings = run.read_json("training.json") if (run.path / "training.json").is_file() else {}
    if processes.agree(resume and name in trainings and folder.is_dir()):
        note(f"{name}: trained before, kept")
        return trainings[name]
    if processes.is_first:
        forget(run, trainings, name, folder)
    torch.manual_seed(config.seed)
    student = open_embedding_student(session, data, attentions=bool(method.needs.attention_layers))
    start_method(method, student, data, teacher, config)
    stages, more = plan.stages[name], (teacher_words, lists, processes)
    trainer = EmbeddingTrainer(config, student, method, data, teacher, session.hardware, plan.order, stages, *more)
    checkpoint = run.path / "checkpoints" / f"{method.settings.folder}.pt"
    check_checkpoint_room(
        checkpoint.parent,
        sum(p.numel() for p in trainer.model.parameters()),
        trainer.total_steps,
        config.train.save_every,
    )
    go_on(trainer, name, checkpoint, resume, is_first=not trainings)
    if not processes.is_first:
        trainer.train(lambda step, logs: None, checkpoint, StopRequest())
        if trainer.step < trainer.total_steps:
            raise SystemExit(0)  # the first one has stopped, too
        return {}
    follower = Follower(config, run, name, trainer, data.evaluation, after_epoch)
    return _train_and_save(trainer, follower, folder, checkpoint)


def _train_and_save(trainer: EmbeddingTrainer, follower: Follower, folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Train to the end, save the student and its entry of training.json, and return that."""
    run, name, method, student = follower.run, follower.phase, trainer.method, trainer.student
    with stop_when_saved(run, follower.config.train.time_budget_hours) as request, follower.copy:
        with follower.shown(request):
            follower.start(trainer.step)
            trainer.train(follower, checkpoint, request)
            if trainer.step < trainer.total_steps:
                request.check(f"{name}: step {trainer.step} of {trainer.total_steps} is saved")
        entry = follower.finish()
        trainer.model.to("cpu").eval()  # the method too: the plan keeps it
        method.dress(student)
        with writing(folder, "--runs-dir"), whole_folder(folder) as partial:
            save_embedding_model(student, partial, other_heads=method.other_heads())
        trainings = run.read_json("training.json") if (run.path / "training.json").is_file() else {}
        run.write_json("training.json", trainings | {name: entry})
        checkpoint.unlink(missing_ok=True)
        run.set_progress("finished", phase=name, step=trainer.step, total_steps=trainer.total_steps)
        request.check(f"{name}: its {trainer.total_steps} steps are done and saved")
    return entry


def student_folder(session: Session[EmbeddingConfig], settings: MethodSettings) -> Path:
    """Return where a trained student lies: `student/` for the run's method, `compared/NAME/` for the others."""
    run = session.run
    return run.path / "student" if settings == session.config.method else run.path / "compared" / settings.folder
