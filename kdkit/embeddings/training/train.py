"""The distillation stage for embeddings: one student per method, all from the same start (notebook 06)."""

from pathlib import Path
from typing import Any

import torch

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.method_base import Method
from kdkit.config.methods import (
    Cdm,
    Cosine,
    Dskd,
    Emo,
    LayerReduction,
    Leaf,
    MethodSettings,
    Rkd,
    SimilarityKL,
    Stella,
    Talas,
    TaskOnly,
)
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.methods.base import CosineMethod, PairFacts, SentenceMethod
from kdkit.embeddings.methods.cdm import CdmMethod
from kdkit.embeddings.methods.dskd import DskdMethod
from kdkit.embeddings.methods.emo import EmoMethod
from kdkit.embeddings.methods.projections import start_projections
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
from kdkit.embeddings.teacher.cache import CachedTeacher, LiveTeacher, open_embedding_teacher
from kdkit.embeddings.teacher.probe import load_teacher
from kdkit.embeddings.training.batches import layer_vectors
from kdkit.embeddings.training.follow import AfterEpoch, Follower
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.trainer import EmbeddingTrainer
from kdkit.errors import UserError
from kdkit.machine.session import Session

START_TEXTS = 1024
"""Sentences on which projections are fitted before the first step."""


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
        TaskOnly: TaskMethod,
    }
    return made_by[type(settings)](settings, facts)


def distill_all(
    session: Session[EmbeddingConfig],
    data: SentenceData,
    after_epoch: AfterEpoch | None = None,
    *,
    resume: bool = False,
) -> dict[str, dict[str, Any]]:
    """Train the student by the run's method, and by every method of `compare`, from the same start.

    Writes `training.json`, adds `cache` to `teacher/probe.json`; see `distill_embedding`.

    Returns:
        The entry of training.json of every method, by its name.
    """
    config = session.config
    probe = session.run.read_json("teacher/probe.json")
    student = make_embedding_student(config, data)
    facts = PairFacts(student.width, probe["width"], student.num_layers, probe["num_layers"], probe["causal"])
    methods = {
        str(settings): (settings, build_method(settings, facts)) for settings in (config.method, *config.compare)
    }
    _check_dimensions(config, facts, [method for _, method in methods.values()])
    needs = [method.needs for _, method in methods.values()]
    num_maps = max(need.attention_layers for need in needs)
    mapped = range(facts.student_layers)[facts.student_layers - num_maps :]
    teacher, asked = open_embedding_teacher(
        session,
        data,
        tokens=any(need.tokens for need in needs),
        attention_layers=[teacher_layer(layer, facts) for layer in mapped],
    )
    session.run.write_json("teacher/probe.json", probe | {"cache": asked})
    words = None
    if any(need.word_embeddings for need in needs):
        words = load_teacher(config, session.hardware).backbone.get_input_embeddings().weight.detach().clone()
    entries = {}
    for name, (settings, method) in methods.items():
        aligned = prepare_sentences(session, method.alignment) if method.alignment else data
        entries[name] = distill_embedding(
            session, aligned, teacher, facts, settings, after_epoch, teacher_words=words, resume=resume
        )
    return entries


def _check_dimensions(config: EmbeddingConfig, facts: PairFacts, methods: list[SentenceMethod]) -> None:
    """Refuse `evaluate.dimensions` that some student will not have, before it is trained."""
    width = min(facts.student_width if method.kept_head() is None else facts.teacher_width for method in methods)
    if too_wide := [number for number in config.evaluate.dimensions if number > width]:
        raise UserError(f"evaluate.dimensions: expected at most the width {width}, got {too_wide[0]}; leave it out")


def teacher_layer(student_layer: int, facts: PairFacts) -> int:
    """Return the teacher layer that a student layer is compared with, both counted from 0: proportional, last to last.

    Source: EMO (EMNLP 2025 main 385), its authors' code, which stops short of the last layer where the depths do not
    divide.
    """
    return max((student_layer + 1) * facts.teacher_layers // facts.student_layers - 1, 0)


def distill_embedding(
    session: Session[EmbeddingConfig],
    data: SentenceData,
    teacher: CachedTeacher | LiveTeacher,
    facts: PairFacts,
    settings: MethodSettings,
    after_epoch: AfterEpoch | None = None,
    *,
    teacher_words: torch.Tensor | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train one student by one method and save it as a sentence-transformers folder.

    The run's own method goes to `student/`, others to `compared/NAME/`.

    Args:
        teacher: answers for `data.texts`.
        facts: widths and depths of both models.
        after_epoch: scores the student before the first step, after every epoch and at the end.
        teacher_words: the teacher's word embeddings, where the method needs them.
        resume: go on from the checkpoint of an interrupted training.

    Returns:
        The training's entry of training.json.
    """
    config, run = session.config, session.run
    phase = str(settings)
    trainings = run.read_json("training.json") if (run.path / "training.json").is_file() else {}
    if resume and phase in trainings and student_folder(session, settings).is_dir():
        print(f"{phase}: trained before", flush=True)
        return trainings[phase]
    torch.manual_seed(config.seed)
    method = build_method(settings, facts)
    student = make_embedding_student(config, data, attentions=bool(method.needs.attention_layers))
    if any(True for _ in method.parameters()):
        ids = [data.student_tokens[text] for text in range(min(len(data.texts), START_TEXTS))]
        layers = layer_vectors(student, ids, config.evaluate.batch_size)
        start_projections(method.starts(torch.from_numpy(teacher.vectors[: len(ids)]), layers), config.seed)
    trainer = EmbeddingTrainer(config, student, method, data, teacher, session.hardware, teacher_words)
    checkpoint = run.path / "checkpoints" / f"{settings.folder}.pt"
    if resume and checkpoint.is_file():
        trainer.load(checkpoint)
    follower = Follower(config, run, phase, trainer, data.evaluation, after_epoch)
    follower.start(trainer.step)
    trainer.train(follower, checkpoint)
    entry = follower.finish()
    student.head = method.kept_head()
    folder = student_folder(session, settings)
    save_embedding_model(student.to("cpu").eval(), folder, other_heads=method.other_heads())
    run.write_json("training.json", trainings | {phase: entry})
    checkpoint.unlink(missing_ok=True)
    return entry


def student_folder(session: Session[EmbeddingConfig], settings: MethodSettings) -> Path:
    """Return where a trained student lies: `student/` for the run's method, `compared/NAME/` for the others."""
    run = session.run
    return run.path / "student" if settings == session.config.method else run.path / "compared" / settings.folder
