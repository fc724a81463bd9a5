"""Sweep: variants of one configuration over the same seeds, compared in pairs; what `python -m kdkit sweep` does.

Every variant and seed is a run folder of its own below the sweep's, which the notebooks can open and
`python -m kdkit run` can repeat. The baseline has no teacher, so one per seed serves every variant; an embedding
model's is the student before its first step.
"""

import gc
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config, dump_config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.checkpoints import BASELINE
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import TrainingPlan, plan_training
from kdkit.distill.train import distill, train_baseline
from kdkit.errors import UserError
from kdkit.evaluate.comparison import AnyTrial, ScoreTrial, Trial, compare_variants
from kdkit.machine.budget import hand_on_start
from kdkit.machine.interrupt import Stopped, TimeIsUp
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.models.loading import load_causal_lm
from kdkit.report.sweep import write_sweep_report
from kdkit.report.tables import write_number
from kdkit.runs.folder import Run, default_run_name, describe_environment, fingerprint, link_folder
from kdkit.runs.messages import say_time
from kdkit.runs.open_run import is_for_embeddings, open_side_run, plan_run
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.order import num_processes
from kdkit.training.score import Score
from kdkit.training.scoring import score_windows
from kdkit.workflow.code import fingerprint_code
from kdkit.workflow.inputs import check_inputs
from kdkit.workflow.several.embedding_trial import TRAINING as EMBEDDING_TRAINING
from kdkit.workflow.several.embedding_trial import train_embedding_trial
from kdkit.workflow.several.variants import SweepFile, as_override, choose_variants, folder_name, load_sweep
from kdkit.workflow.terminal import Terminal

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


@dataclass(frozen=True)
class SweepRequest:
    """Options of `python -m kdkit sweep`."""

    file: str
    overrides: list[str] = field(default_factory=list)
    """For every variant, before its own."""
    name: str = ""
    runs_dir: str = "runs"
    only: str = ""
    """Train these variants only: names, or their folders' names, separated by commas."""
    seeds: str = ""
    """In place of the file's: `0,1`."""
    verbose: bool = False
    """Show all that the trainings print."""

    @property
    def command(self) -> str:
        """The command line with these options."""
        options = [("--name", self.name), ("--only", self.only), ("--seeds", self.seeds)]
        words = [self.file, *(word for override in self.overrides for word in ("-p", override))]
        words += [word for option, value in options if value for word in (option, value)]
        words += ["--runs-dir", self.runs_dir] if self.runs_dir != "runs" else []
        return shlex.join(["python", "-m", "kdkit", "sweep", *words])


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

    @property
    def kind(self) -> type[Trial] | type[ScoreTrial]:
        """What its result is."""
        return ScoreTrial if isinstance(self.config, EmbeddingConfig) else Trial

    def outcome(self) -> AnyTrial | None:
        """Return the run's result; None if it has not finished, or was made from something else."""
        values = self.run.read_json("trial.json") if (self.run.path / "trial.json").is_file() else {}
        return self.kind(**values["trial"]) if values.get("inputs") == self.inputs else None


def run_sweep(request: SweepRequest) -> Run:
    """Train what is missing, compare, and write the report into the sweep's folder.

    Raises:
        UserError: anything that the user can correct, as far as possible before anything is trained; the
            variant is named.
        UserError, RuntimeError: a training failed; the others are made before it is raised.
        Stopped: by the user, or by the time budget; the message holds what is saved and the command that goes on.
    """
    hand_on_start()
    terminal = Terminal(request.verbose)
    try:
        return _run_sweep(request, terminal)
    except KeyboardInterrupt as error:
        terminal.erase()
        saved = str(error) or "finished runs are kept"
        raise Stopped(f"{saved}; to go on: {request.command}") from None
    except SystemExit:  # of a training whose time was up
        terminal.erase()
        raise TimeIsUp(f"time budget used up; all is saved; to go on: {request.command}") from None


def _run_sweep(request: SweepRequest, terminal: Terminal) -> Run:
    """Do what `run_sweep` says, without a word on how to go on."""
    sweep = load_sweep(request.file, request.seeds)
    wanted = choose_variants(request.only, list(sweep.variants))
    name = request.name or default_run_name(request.file, request.overrides)
    folder = open_side_run(name, request.runs_dir, ".cache")
    if (folder.path / "config.yaml").is_file():
        raise UserError(f"--name: expected a sweep's folder, got {name!r}, which is a run's; choose another --name")
    terminal.say(f"sweep {name}: {len(wanted)} variants x {len(sweep.seeds)} seeds: {folder.path}")
    terminal.show("checking the variants, the models and the text")
    with terminal.capturing():
        planned = plan_runs(sweep, request, name)
    folder.path.mkdir(parents=True, exist_ok=True)
    chosen = [plan for plan in planned if plan.variant in wanted]
    failures = train_missing(chosen, folder, terminal)
    trials = {(plan.variant, plan.seed): plan.outcome() for plan in planned}
    comparison = compare_variants(trials, sweep.reference, planned[0].kind.MEASURE)
    for entry in comparison["variants"]:
        entry |= {"settings": sweep.variants[entry["name"]], "folder": folder_name(entry["name"])}
    facts = {"name": name, "command": request.command, "config": sweep.config, "runs_dir": request.runs_dir}
    folder.write_json("sweep.json", facts | comparison | {"environment": describe_environment()})
    page = write_sweep_report(folder)
    if failures:
        others = f"{len(failures)} of {len(chosen)} runs failed; what the others came to: {page}"
        raise type(failures[0])(f"{failures[0]}; {others}") from failures[0]
    return folder


def plan_runs(sweep: SweepFile, request: SweepRequest, name: str) -> list[PlannedRun]:
    """Check every variant with every seed; seed by seed, so that the first pairs are complete early.

    Raises:
        UserError: see `plan_run` and `check_inputs`; two variants that are the same.
    """
    if taken := [override for override in request.overrides if override.partition("=")[0].strip() == "seed"]:
        raise UserError(f"-p: expected any setting but the seed, got {taken[0]!r}; use --seeds")
    if num_processes() > 1:
        raise UserError(
            f"sweep: expected one process, got {num_processes()}; start it without a launcher, or launch its runs one "
            "by one: accelerate launch -m kdkit run FILE"
        )
    opened: dict[tuple[str, int], tuple[Any, Config | EmbeddingConfig, Run]] = {}
    fixed = "compare=[]" if is_for_embeddings(sweep.config) else "distill.equal_time_baseline=false"
    for seed in sweep.seeds:
        for variant, settings in sweep.variants.items():
            own = [as_override(key, value) for key, value in settings.items()]
            overrides = [*request.overrides, *own, f"seed={seed}", fixed]
            runs_dir = str(Path(request.runs_dir) / name)
            arguments = sweep.config, overrides, f"{folder_name(variant)}-seed-{seed}", runs_dir
            with _naming(variant, seed):
                opened[variant, seed] = arguments, *plan_run(*arguments)
    _check_distinct({variant: opened[variant, sweep.seeds[0]][1] for variant in sweep.variants})
    code, planned = code_fingerprint(EMBEDDING_TRAINING if is_for_embeddings(sweep.config) else TRAINING), []
    for (variant, seed), (arguments, config, run) in opened.items():
        with _naming(variant, seed):
            inputs = fingerprint(dump_config(config), check_inputs(config, run).source, code)
        planned.append(PlannedRun(variant, seed, arguments, config, run, inputs))
    return planned


def code_fingerprint(entry_points: tuple[str, ...] = TRAINING) -> str:
    """Fingerprint the code that decides a figure, and the versions of the packages below it."""
    return fingerprint(
        FORMAT, fingerprint_code(entry_points, Path(__file__).parents[2]), describe_environment()["packages"]
    )


def baseline_key(config: Config, data: PreparedData) -> str:
    """Fingerprint what makes a baseline: all but the teacher and what is learned from it."""
    apart = {"distill", "router", "cache", "report", "cache_dir"}
    apart |= {"teacher"} if config.train.curriculum in ("none", "level") else set()  # else the teacher orders the text
    return fingerprint(data.key, config.model_dump(exclude=apart), code_fingerprint())


def train_missing(planned: list[PlannedRun], folder: Run, terminal: Terminal) -> list[UserError | RuntimeError]:
    """Train every run that has not finished; print each one's result and how long the others will take.

    Returns:
        What trainings raised, with the variant's name: one that fails does not stop the others.
    """
    missing = [plan for plan in planned if plan.outcome() is None]
    started, trained, failures = time.monotonic(), 0, []
    for number, plan in enumerate(planned, 1):
        label = f"[{number}/{len(planned)}] {plan.variant}, seed {plan.seed}"
        if plan not in missing:
            terminal.say(f"{label}: finished before, inputs unchanged, skipped")
            continue
        terminal.place = f"{label}:"
        terminal.show(label)
        try:
            with _naming(plan.variant, plan.seed), terminal.capturing():
                trial = train_one(plan, folder)
        except (UserError, RuntimeError) as error:
            failures.append(error)
            terminal.say(f"{label}: failed, and will be tried again by the same command: {error}")
            continue
        finally:
            gc.collect()
        trained += 1
        whole = (time.monotonic() - started) / trained * len(missing)
        terminal.in_all = lambda step, whole=whole: whole  # all runs take about as long as those that are done
        left = say_time(whole / len(missing) * (len(missing) - trained))
        terminal.say(f"{label}: {say_trial(trial)}, {trial.seconds:.0f} s of training; about {left} left")
    return failures


def say_trial(trial: AnyTrial) -> str:
    """Write a result in words."""
    gap = "no gap to close" if trial.gap_closed is None else f"gap closed {trial.gap_closed:.2f}"
    levels = [trial.student, trial.teacher, trial.baseline]
    student, teacher, baseline = (write_number(level, f"{{:.{trial.MEASURE['digits']}f}}") for level in levels)
    return f"{student} {trial.MEASURE['name']}, {gap} (teacher {teacher}, baseline {baseline})"


def train_one(plan: PlannedRun, folder: Run) -> AnyTrial:
    """Train and score one variant with one seed, from where it was stopped if it was made from the same.

    Raises:
        UserError: see `distill`, `open_teacher` and `train_embedding_trial`.
    """
    is_embedding = isinstance(plan.config, EmbeddingConfig)
    trial = train_embedding_trial(plan.arguments, plan.inputs) if is_embedding else _train_language(plan, folder)
    plan.run.write_json("trial.json", {"inputs": plan.inputs, "trial": asdict(trial)})
    plan.run.set_status("sweep", state="done", inputs=plan.inputs)
    return trial


def _train_language(plan: PlannedRun, folder: Run) -> Trial:
    """Train and score one variant of a language model, and its seed's baseline."""
    session = open_session(*plan.arguments)
    run = session.run
    resume = run.status().get("sweep", {}).get("inputs") == plan.inputs
    run.set_status("sweep", state="running", inputs=plan.inputs)
    data = prepare_data(session)
    training = plan_training(session, data)
    teacher = open_teacher(training)
    # scored before the training, which may route it otherwise
    asked = teacher if isinstance(teacher, TextTeacher) else prepare_teacher(session, data)
    level = _score_teacher(session, asked, data)
    del asked
    result = distill(training, teacher, resume)
    baseline = _share_baseline(training, plan.seed, folder)
    student = _score_student(session, result.phase, data)
    return Trial(
        teacher=level.bits_per_byte,
        baseline=baseline,
        student=student.bits_per_byte,
        seconds=result.seconds,
        steps=result.steps,
        window_nats=student.window_nats.tolist(),
        window_bytes=student.window_bytes.tolist(),
        document_nats=None if student.document_nats is None else student.document_nats.tolist(),
        document_bytes=None if student.document_bytes is None else student.document_bytes.tolist(),
    )


def _share_baseline(training: TrainingPlan, seed: int, folder: Run) -> float:
    """Train the baseline of a run's seed, once for all variants; return its bits per byte.

    A variant that changes what a baseline depends on gets one of its own: the folder's name is the
    fingerprint of all that makes it, so whatever lies there may be continued.
    """
    session, data, run = training.session, training.data, training.session.run
    name = f"seed-{seed}-{baseline_key(session.config, data)}"
    shared = Run(folder.path / "baselines" / name, run.cache_path)
    shared.path.mkdir(parents=True, exist_ok=True)
    elsewhere = replace(session, run=shared)
    train_baseline(replace(training, session=elsewhere), resume=True)
    if not (shared.path / "score.json").is_file():
        score = _score_student(elsewhere, BASELINE, data)
        shared.write_json("score.json", {"bits_per_byte": score.bits_per_byte})
    link_folder(shared.path / BASELINE, run.path / BASELINE)
    costs = {name: cost for name, cost in shared.read_json("training.json").items() if name.startswith(BASELINE)}
    run.write_json("training.json", run.read_json("training.json") | costs)
    run.drop_metrics(BASELINE)
    for line in shared.read_metrics():
        run.append_metrics(line)
    return shared.read_json("score.json")["bits_per_byte"]


def _score_teacher(session: Session[Config], teacher: TextTeacher, data: PreparedData) -> Score:
    """Score the teacher, with its own routing, on the held-out text."""
    evaluate, windows = session.config.evaluate, data.evaluation.first(session.config.evaluate.max_sequences)
    return score_windows(teacher.reader(session.hardware.autocast_dtype), windows, "teacher", evaluate.batch_size)


def _score_student(session: Session[Config], phase: str, data: PreparedData) -> Score:
    """Score what a phase has saved on the held-out text."""
    student = load_causal_lm(str(session.run.path / phase), "student.path", device=session.hardware.device)
    evaluate, windows = session.config.evaluate, data.evaluation.first(session.config.evaluate.max_sequences)
    return score_windows(student, windows, "student", evaluate.batch_size, session.hardware.autocast_dtype)


@contextmanager
def _naming(variant: str, seed: int) -> Iterator[None]:
    """Put the variant before the message of what goes wrong."""
    try:
        yield
    except UserError as error:
        raise UserError(f"variant {variant!r}, seed {seed}: {error}") from error
    except RuntimeError as error:
        raise RuntimeError(f"variant {variant!r}, seed {seed}: {error}") from error


def _check_distinct(configs: dict[str, Config | EmbeddingConfig]) -> None:
    """Refuse two variants of the same configuration: their difference would be nothing, at full cost."""
    seen: dict[str, str] = {}
    for variant, config in configs.items():
        before = seen.setdefault(dump_config(config), variant)
        if before != variant:
            raise UserError(
                f"variants: expected settings of its own for every variant, got the same for {before!r} and "
                f"{variant!r}; change or remove one"
            )
