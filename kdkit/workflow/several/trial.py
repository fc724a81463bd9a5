"""One variant with one seed: planned, trained and scored; what its seed's runs share is made once.

Every variant and seed is a run folder of its own below the sweep's, which the notebooks can open and
`python -m kdkit run` can repeat. The baseline has no teacher, so one per seed serves every variant, and the teacher is
scored once; an embedding model's baseline is the student before its first step.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config, dump_config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.checkpoints import BASELINE
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import TrainingPlan, plan_training, view_of
from kdkit.distill.train import distill, train_baseline
from kdkit.errors import UserError
from kdkit.evaluate.sweeps.comparison import AnyTrial, ScoreTrial, Trial
from kdkit.machine.open_session import open_embedding_session, open_session
from kdkit.machine.session import Session
from kdkit.models.loading import load_causal_lm
from kdkit.runs.disk import claiming, taking_turns
from kdkit.runs.folder import Run, describe_environment, fingerprint, link_folder
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import identify_teacher, prepare_teacher
from kdkit.training.score import Score
from kdkit.training.scoring import score_windows
from kdkit.workflow.code import fingerprint_code
from kdkit.workflow.inputs import check_inputs
from kdkit.workflow.several.embedding_trial import TRAINING as EMBEDDING_TRAINING
from kdkit.workflow.several.embedding_trial import train_embedding_trial

FORMAT = 1
"""Raise it when this module trains or scores in another way: finished runs are then made again."""

TRAINING = (
    "kdkit.data.prepare",
    "kdkit.distill.open_teacher",
    "kdkit.distill.plan",
    "kdkit.distill.train",
    "kdkit.models.loading",
    "kdkit.teachers.prepare",
    "kdkit.training.scoring",
)
"""What `train_one` calls. They and all that they import decide a figure; other code may change without a training."""

Watch = Callable[[dict[str, Any]], None]
"""Is told every line of a run's metrics as it is written; what it raises ends the training."""


@dataclass(frozen=True)
class PlannedRun:
    """One variant with one seed, checked."""

    variant: str
    seed: int
    arguments: tuple[str, list[str], str, str]
    """What `open_session` takes: configuration, overrides, name, folder of runs."""
    config: Config | EmbeddingConfig
    run: Run
    inputs: str
    """Fingerprint of all that decides the outcome."""
    temperatures: tuple[float, ...] = ()
    """What its teacher's answers are to serve, where they are cached: those of all runs that read the same."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def kind(self) -> type[Trial] | type[ScoreTrial]:
        """What its result is."""
        return ScoreTrial if isinstance(self.config, EmbeddingConfig) else Trial

    def outcome(self) -> AnyTrial | None:
        """Return the run's result; None if it has not finished, or was made from something else."""
        values = self.run.read_if_whole("trial.json") or {}
        return self.kind(**values["trial"]) if values.get("inputs") == self.inputs else None


@dataclass(frozen=True)
class WatchedRun(Run):
    """A run whose metrics are followed while they are written."""

    watch: Watch = field(kw_only=True)

    def append_metrics(self, values: dict[str, Any]) -> None:
        """See `Run.append_metrics`; then tell."""
        super().append_metrics(values)
        self.watch(values)


def identify_run(config: Config | EmbeddingConfig, run: Run) -> str:
    """Fingerprint all that decides a run's outcome; its text and its models are checked.

    Raises:
        UserError: see `check_inputs`.
    """
    entry_points = EMBEDDING_TRAINING if isinstance(config, EmbeddingConfig) else TRAINING
    return fingerprint(dump_config(config), check_inputs(config, run).source, code_fingerprint(entry_points))


@functools.cache
def code_fingerprint(entry_points: tuple[str, ...] = TRAINING) -> str:
    """Fingerprint the code that decides a figure, and the versions of the packages below it."""
    return fingerprint(
        FORMAT, fingerprint_code(entry_points, Path(__file__).parents[2]), describe_environment()["packages"]
    )


def share_answers(planned: list[PlannedRun]) -> list[PlannedRun]:
    """Let runs whose cached answers differ in nothing but the temperature read one cache, which serves all theirs."""
    parts = {"seed", "data", "teacher", "teachers", "student", "cache"}
    keys = [fingerprint(plan.config.model_dump(include=parts)) for plan in planned]
    served: dict[str, set[float]] = defaultdict(set)
    for key, plan in zip(keys, planned, strict=True):
        if isinstance(plan.config, Config):
            served[key].update(plan.config.answer_temperatures)
    return [replace(plan, temperatures=tuple(sorted(served[key]))) for key, plan in zip(keys, planned, strict=True)]


def baseline_key(config: Config, data: PreparedData) -> str:
    """Fingerprint what makes a baseline: all but the teacher and what is learned from it."""
    apart = {"distill", "router", "cache", "report", "cache_dir"}
    apart |= {"teacher"} if config.train.curriculum in ("none", "level") else set()  # else the teacher orders the text
    return fingerprint(data.key, config.model_dump(exclude=apart), code_fingerprint())


@contextmanager
def naming(variant: str, seed: int) -> Iterator[None]:
    """Put the variant before the message of what goes wrong."""
    try:
        yield
    except UserError as error:
        raise UserError(f"variant {variant!r}, seed {seed}: {error}") from error
    except RuntimeError as error:
        raise RuntimeError(f"variant {variant!r}, seed {seed}: {error}") from error


def train_one(
    plan: PlannedRun, folder: Run, watch: Watch | None = None, *, with_baseline: bool = True
) -> AnyTrial | None:
    """Train and score one variant with one seed, unless another process is at it.

    Args:
        folder: of the sweep, where runs of one seed share a baseline.
        watch: follows the learning curve.
        with_baseline: train the seed's baseline too, if nobody has; an embedding model's needs no training.

    Returns:
        The result, also where another process has just finished it; None: it is being trained elsewhere.

    Raises:
        UserError, RuntimeError: see `distill`, `open_teacher` and `train_embedding_trial`; the variant is named.
    """
    with naming(plan.variant, plan.seed), claiming(plan.run.path / ".training.lock") as is_mine:
        if not is_mine:
            return None
        return plan.outcome() or _train(plan, folder, watch, with_baseline)


def _train(plan: PlannedRun, folder: Run, watch: Watch | None, with_baseline: bool) -> AnyTrial:
    """Train and score, from where it was stopped if it was made from the same; keep the result."""
    is_embedding = isinstance(plan.config, EmbeddingConfig)
    session: Session[Any] = (open_embedding_session if is_embedding else open_session)(*plan.arguments)
    if watch is not None:
        session = replace(session, run=WatchedRun(session.run.path, session.run.cache_path, watch=watch))
    resume = session.run.status().get("sweep", {}).get("inputs") == plan.inputs
    session.run.set_status("sweep", state="running", inputs=plan.inputs)
    if is_embedding:
        trial: AnyTrial = train_embedding_trial(session, resume)
    else:
        temperatures = [*session.config.cache.temperatures, *plan.temperatures]
        cache = session.config.cache.model_copy(update={"temperatures": temperatures})
        # that others read them too must not make another run of it
        session = replace(session, config=session.config.model_copy(update={"cache": cache}))
        trial = _train_language(session, folder, resume, with_baseline)
    plan.run.write_json("trial.json", {"inputs": plan.inputs, "trial": asdict(trial)})
    plan.run.set_status("sweep", state="done", inputs=plan.inputs)
    return trial


def _train_language(session: Session[Config], folder: Run, resume: bool, with_baseline: bool) -> Trial:
    """Train and score one variant of a language model and, if that is wanted, its seed's baseline."""
    data = prepare_data(session)
    training = plan_training(session, data)
    teacher = open_teacher(training)
    # scored before the training, which may route it otherwise
    level = _share_teacher_level(training, teacher if isinstance(teacher, TextTeacher) else None, folder)
    result = distill(training, teacher, resume)
    baseline = _share_baseline(training, folder) if with_baseline else None
    student, parameters = _score_student(session, result.phase, data)
    return Trial(
        teacher=level,
        baseline=baseline,
        student=student.bits_per_byte,
        seconds=result.seconds,
        steps=result.steps,
        window_nats=student.window_nats.tolist(),
        window_bytes=student.window_bytes.tolist(),
        document_nats=None if student.document_nats is None else student.document_nats.tolist(),
        document_bytes=None if student.document_bytes is None else student.document_bytes.tolist(),
        parameters=parameters,
    )


def _share_teacher_level(training: TrainingPlan, teacher: TextTeacher | None, folder: Run) -> float:
    """Score a run's teacher, with its own routing, once for all runs in which it would say the same.

    Args:
        teacher: None: its answers are read from a cache; it is loaded only if nobody has scored it.
    """
    session, data = view_of(training.session, training.data)  # of several teachers the first
    evaluate, hardware = session.config.evaluate, session.hardware
    computed = [hardware.teacher_device, str(hardware.dtype), str(hardware.autocast_dtype), training.answer_precision]
    made_from = [identify_teacher(session, data), data.key, evaluate.max_sequences, computed, code_fingerprint()]
    file = f"teachers/{fingerprint(*made_from)}.json"
    if folder.read_if_whole(file) is None:
        asked = teacher or prepare_teacher(session, data)
        windows = data.evaluation.first(evaluate.max_sequences)
        score = score_windows(asked.reader(hardware.autocast_dtype), windows, "teacher", evaluate.batch_size)
        folder.write_json(file, {"bits_per_byte": score.bits_per_byte})
    return folder.read_json(file)["bits_per_byte"]


def _share_baseline(training: TrainingPlan, folder: Run) -> float:
    """Train the baseline of a run's seed, once for all variants; return its bits per byte.

    A variant that changes what a baseline depends on gets one of its own: the folder's name is the
    fingerprint of all that makes it, so whatever lies there may be continued. Of several processes one trains it.
    """
    session, data, run = training.session, training.data, training.session.run
    name = f"seed-{session.config.seed}-{baseline_key(session.config, data)}"
    shared = Run(folder.path / "baselines" / name, run.cache_path)
    shared.path.mkdir(parents=True, exist_ok=True)
    elsewhere = replace(session, run=shared)
    with taking_turns(shared.path.with_name(f".{name}.lock"), "the baseline of this seed"):
        if shared.read_if_whole("score.json") is None or not (shared.path / BASELINE).is_dir():
            train_baseline(replace(training, session=elsewhere), resume=True)
            score, _ = _score_student(elsewhere, BASELINE, data)
            shared.write_json("score.json", {"bits_per_byte": score.bits_per_byte})
    link_folder(shared.path / BASELINE, run.path / BASELINE)
    costs = {name: cost for name, cost in shared.read_json("training.json").items() if name.startswith(BASELINE)}
    run.write_json("training.json", run.read_json("training.json") | costs)
    run.drop_metrics(BASELINE)
    for line in shared.read_metrics():
        run.append_metrics(line)
    return shared.read_json("score.json")["bits_per_byte"]


def _score_student(session: Session[Config], phase: str, data: PreparedData) -> tuple[Score, int]:
    """Score what a phase has saved on the held-out text, and count its parameters."""
    student = load_causal_lm(str(session.run.path / phase), "student.path", device=session.hardware.device)
    evaluate, windows = session.config.evaluate, data.evaluation.first(session.config.evaluate.max_sequences)
    score = score_windows(student, windows, "student", evaluate.batch_size, session.hardware.autocast_dtype)
    return score, sum(parameter.numel() for parameter in student.parameters())
