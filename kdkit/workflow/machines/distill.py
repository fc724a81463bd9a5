"""What `python -m kdkit distill` does: train what notebook 03 or 06 trains, without it, in one process or in several.

The first process makes what is made once (data, teacher, caches), alone. Then all meet and train, and it alone writes.
`python -m kdkit run` finds the trainings in the run's folder, shows them, and does the rest.
"""

import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.errors import UserError
from kdkit.machine.budget import hand_on_start
from kdkit.machine.hardware import Hardware, find_hardware
from kdkit.machine.interrupt import Stopped, TimeIsUp
from kdkit.machine.session import Session
from kdkit.runs.disk import check_writable
from kdkit.runs.folder import Run, fingerprint_files
from kdkit.runs.open_run import open_embedding_run, open_run, plan_run, run_words
from kdkit.training.order import num_processes
from kdkit.workflow.embedding_training import train_embeddings
from kdkit.workflow.helpers import LOST, dismiss_helpers, help_training
from kdkit.workflow.inputs import check_inputs, keep_inputs, known_inputs
from kdkit.workflow.pipeline import TRAINED, is_trained, trained_from
from kdkit.workflow.terminal import Terminal

PROCESSES_FOLDER = Path("/proc")
GRACE = 10.0
"""Seconds in which the first process says what is wrong, where it is so for all, before another one does."""


@dataclass(frozen=True)
class DistillRequest:
    """Options of `python -m kdkit distill`."""

    config: str
    overrides: list[str] = field(default_factory=list)
    name: str = ""
    runs_dir: str = "runs"
    resume: bool = False
    """Continue an interrupted training from its checkpoint."""
    verbose: bool = False
    """Show all that is printed on the way."""

    @property
    def command(self) -> str:
        """The command line that goes on with the training, with its launcher."""
        words = run_words(self.config, self.overrides, self.name, self.runs_dir)
        return shlex.join([*launcher(), "distill", *words, "--resume"])


def launcher() -> list[str]:
    """Return the words before the verb of the command that started this process, `accelerate launch ... -m kdkit`."""
    if (size := num_processes()) == 1:
        return ["python", "-m", "kdkit"]
    said = PROCESSES_FOLDER / str(os.getppid()) / "cmdline"
    words = said.read_text(encoding="utf-8").split("\0") if said.is_file() else []
    if "kdkit" not in words:
        return ["torchrun", "--nproc_per_node", str(size), "-m", "kdkit"]  # on CPUs too, unlike accelerate alone
    words = words[: words.index("kdkit") + 1]
    is_script = Path(words[1]).is_file()  # of this Python: /.../bin/accelerate
    return [Path(words[1]).name, *words[2:]] if is_script else ["python", *words[1:]]


def distill_run(request: DistillRequest) -> Run:
    """Train the student of a configuration, and the baselines beside it; return the run.

    Raises:
        UserError: anything that the user can correct.
        RuntimeError: another process has ended.
        Stopped: by the user, or by the time budget; the message holds what is saved and the command that goes on.
    """
    hand_on_start()
    if (rank := int(os.environ.get("RANK", "0"))) > 0:
        return _help(request, rank)
    from kdkit.training.together import alone

    terminal = Terminal(request.verbose)
    config, run = plan_run(request.config, request.overrides, request.name, request.runs_dir)
    check_sharing(config)
    hardware = find_hardware(config.train.device, config.train.precision)
    is_embedding = isinstance(config, EmbeddingConfig)
    stage = "06_embedding_distillation" if is_embedding else "03_distill"
    with _telling_others(config, run, hardware), alone():
        config, run, source = _open(request, run, terminal)
        terminal.say(f"run {run.name}: {run.path}")
        if is_done := is_trained(config, run, stage, source):
            terminal.say(f"{stage}: trained before, inputs unchanged")
        inputs = trained_from(config, stage, source)
        # what an earlier try left may be continued only if it was made from the same inputs
        resume = request.resume and run.status().get(stage, {}).get("inputs") == inputs
        if not is_done:
            terminal.say(f"hardware: {hardware.reason}")
            with _kept_status(request, run, stage, inputs), terminal.capturing():
                _make_ready(Session(config, run, hardware))
    if is_done:
        _dismiss(config, run, hardware)
        return run
    with _kept_status(request, run, stage, inputs), terminal.capturing():
        if isinstance(config, EmbeddingConfig):
            train_embeddings(Session(config, run, hardware), resume)
        else:
            _train(config, run, hardware, resume)
    _set_status(run, stage, inputs, TRAINED)
    return run


def _dismiss(config: Config | EmbeddingConfig, run: Run, hardware: Hardware) -> None:
    """Let the other processes go: there is nothing to train."""
    if isinstance(config, EmbeddingConfig):
        dismiss_helpers(config)
    else:
        _train(config, run, hardware, None)


def check_sharing(config: Config | EmbeddingConfig) -> None:
    """Refuse what cannot be trained while FSDP2 shares the student out.

    Raises:
        UserError: naming the setting.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return
    if isinstance(config, EmbeddingConfig):
        asked = {"method": True}
    else:
        stages, parts = config.train.stages, [name for name, weight in config.distill.weights if weight > 0.0]
        asked = {
            "train.stages": len(stages) > 1 or any(stage.on_policy is not None for stage in stages),
            "train.optimizer": config.train.optimizer != "adamw",
            "train.average.kind": config.train.average.kind != "none",
            "train.multi_token.num_tokens": bool(config.train.multi_token.num_tokens),
            "student.lora": config.student.lora is not None,
            "distill.weights": bool(set(parts) - {"logits"}),
            "router.kind": config.router.kind != "none",
            "teacher.average_decay": config.teacher.average_decay is not None,
            "teachers.members": bool(config.teachers.members),
        }
    if wanted := [key for key, is_asked in asked.items() if is_asked]:
        raise UserError(
            f"{wanted[0]}: expected one stage of a language model with AdamW and one teacher's predictions where FSDP2 "
            "shares the student out, got more; leave it out, or launch with configs/accelerate/ddp_two_gpus.yaml"
        )


def _open(request: DistillRequest, run: Run, terminal: Terminal) -> tuple[Config | EmbeddingConfig, Run, str]:
    """Open the run, after its inputs were checked if they are not known; return also the fingerprint of its source."""
    arguments = request.config, request.overrides, request.name, request.runs_dir
    config, run = plan_run(*arguments)
    check_writable(run.path, "--runs-dir")
    check_writable(run.cache_path, "cache_dir")
    is_embedding = isinstance(config, EmbeddingConfig)
    with terminal.capturing():
        inputs = known_inputs(config, run) or check_inputs(config, run)
        config, run = open_embedding_run(*arguments) if is_embedding else open_run(*arguments)
    keep_inputs(config, run, inputs)
    return config, run, inputs.source + fingerprint_files(Path(__file__).parents[2])


def _make_ready(session: Session[Any]) -> None:
    """Make the data of a language model, and all that its trainings need made once; the other kind does it itself."""
    if isinstance(session.config, EmbeddingConfig):
        return
    from kdkit.data.prepare import prepare_data
    from kdkit.distill.open_teacher import make_ready
    from kdkit.distill.plan import plan_training

    make_ready(plan_training(session, prepare_data(session)))


def _train(config: Config, run: Run, hardware: Hardware, resume: bool | None) -> None:
    """Meet the other processes and train what notebook 03 trains.

    Args:
        resume: the first process decides; None from it: nothing is trained.
    """
    from kdkit.data.prepare import prepare_data
    from kdkit.distill.open_teacher import open_teacher
    from kdkit.distill.plan import plan_training
    from kdkit.distill.train import distill, train_baseline, train_equal_time_baseline, train_reused_baseline
    from kdkit.training.together import join_processes

    processes, hardware = join_processes(hardware)
    if (resume := processes.agree(resume)) is not None:
        session = Session(config, replace(run, writes=processes.is_first), hardware)
        plan = plan_training(session, prepare_data(session))
        with processes.first_before_others():
            opened = [open_teacher(plan)]
        distill(plan, opened.pop(), resume)  # no name keeps the teacher in memory after that
        train_baseline(plan, resume)
        if config.distill.equal_time_baseline:
            train_equal_time_baseline(plan, resume)
            train_reused_baseline(plan, resume)
    processes.leave()


def _help(request: DistillRequest, rank: int) -> Run:
    """Take part in the training as another process than the first: it reads, and nobody sees what it prints."""
    try:
        config, run = plan_run(request.config, request.overrides, request.name, request.runs_dir)
        check_sharing(config)
        hardware = find_hardware(config.train.device, config.train.precision)
    except UserError as error:
        time.sleep(GRACE)  # with this process the launcher would end the first one, too
        raise UserError(f"process {rank}: {error}") from None
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would not see it while this process waits for the first one
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stdout(nothing):
        if isinstance(config, EmbeddingConfig):
            help_training(request.config, request.overrides, request.name, request.runs_dir)
            return replace(run, writes=False)
        with _lost_others(request):
            try:
                _train(config, run, hardware, None)
            except UserError:  # the first process says the same
                time.sleep(GRACE)
                raise
            except KeyboardInterrupt:
                raise SystemExit(0) from None  # the first one has saved, or it says that nothing was begun
    return replace(run, writes=False)


def trained_lines(run: Run) -> list[str]:
    """Say in a line each what was trained, how long it took, and how to go on."""
    entries = {name: e for name, e in run.read_json("training.json").items() if isinstance(e, dict) and "steps" in e}
    lines = [f"{name}: {entry['steps']:,} steps in {entry['seconds']:,.1f} s" for name, entry in entries.items()]
    return [*lines, f"student: {run.path / 'student'}", f"to see and score it: {run.command}"]


@contextmanager
def _telling_others(config: Config | EmbeddingConfig, run: Run, hardware: Hardware) -> Iterator[None]:
    """Let the other processes go where the first one fails before they have met: they wait for it."""
    try:
        yield
    except Exception:
        _dismiss(config, run, hardware)
        raise


@contextmanager
def _lost_others(request: DistillRequest) -> Iterator[None]:
    """Turn what gloo says where another process has gone into one line.

    Raises:
        RuntimeError: that line.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        raise RuntimeError(
            f"process {rank} of {size}: expected the others to train with, got none: one of them has ended, and says "
            f"why if it could; to go on from the last checkpoint: {request.command}"
        ) from error


@contextmanager
def _kept_status(request: DistillRequest, run: Run, stage: str, inputs: str) -> Iterator[None]:
    """Keep in the run's status how its training goes and how it ends, and how to go on with it.

    Raises:
        Stopped: with what is saved and the command that goes on.
    """
    _set_status(run, stage, inputs, "running")
    run.set_progress("running", phase=stage)
    try:
        with _lost_others(request):
            yield
    except KeyboardInterrupt as error:
        saved = str(error) or "nothing of this step is saved, checkpoints before it are"
        _set_status(run, stage, inputs, "interrupted", "stopped by the user")
        reason = f"stopped by its user; {saved}"
        run.set_progress("stopped", resume_needed=True, reason=reason, command=request.command)
        raise Stopped(f"{saved}; to go on: {request.command}") from None
    except SystemExit:
        if not (progress := run.progress())["resume_needed"]:
            raise
        _set_status(run, stage, inputs, "interrupted", progress["reason"])
        run.set_progress("stopped", resume_needed=True, reason=progress["reason"], command=request.command)
        raise TimeIsUp(f"{progress['reason']}; to go on: {request.command}") from None
    except (UserError, RuntimeError) as error:
        message = " ".join(str(error).split())
        _set_status(run, stage, inputs, "failed", message)
        run.set_progress("failed", reason=message)
        raise


def _set_status(run: Run, stage: str, inputs: str, state: str, message: str = "") -> None:
    """Keep the entry of the stage, by which `kdkit run` knows what was trained, and in how many processes."""
    run.set_status(stage, state=state, message=message, inputs=inputs, processes=num_processes())
