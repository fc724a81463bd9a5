"""Run of the notebooks in order with papermill: what `python -m kdkit run` does.

A stage is skipped only if it finished and everything that went into it is unchanged: configuration,
notebook, package, corpus, teacher, and the stages before it.
"""

import difflib
import os
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.errors import UserError
from kdkit.evaluate.pairs.files import BUILT_IN, find_pair_files
from kdkit.machine.budget import find_budget, hand_on_start
from kdkit.machine.interrupt import Stopped, TimeIsUp
from kdkit.runs.disk import check_writable
from kdkit.runs.folder import Run, fingerprint, fingerprint_files
from kdkit.runs.messages import say_time
from kdkit.runs.open_run import open_embedding_run, open_run, plan_run, run_words
from kdkit.runs.paths import find_config, find_root
from kdkit.workflow.forecast import Forecast, seconds_before
from kdkit.workflow.helpers import dismiss_helpers
from kdkit.workflow.inputs import check_inputs, keep_inputs, known_inputs
from kdkit.workflow.notebook import run_notebook, set_by_hand
from kdkit.workflow.terminal import Terminal

TRAINING = ("03_distill", "06_embedding_distillation")
"""Stages that can go on from a checkpoint by their parameter RESUME."""
TRAINED = "trained"
"""State of a training stage that `kdkit distill` has trained: its notebook shows it and trains nothing."""
JUDGING = ("04_evaluate", "05_report")
"""Stages that read the run's own configuration."""


@dataclass(frozen=True)
class RunRequest:
    """Options of `python -m kdkit run`."""

    config: str
    overrides: list[str] = field(default_factory=list)
    name: str = ""
    runs_dir: str = "runs"
    first: str = ""
    """Run from this stage on, even if it is done: `03` or `03_distill`."""
    only: str = ""
    """Run these stages only, even if they are done: `04,05`."""
    resume: bool = False
    """Continue an interrupted training from its checkpoint."""
    verbose: bool = False
    """Show all that the notebooks print."""

    def command(self, only: list[str]) -> str:
        """Return the command line that goes on with the run, without `--from`, which would do over what is done.

        Args:
            only: stages that are left of those that were asked for; empty: all that are not done.
        """
        words = run_words(self.config, self.overrides, self.name, self.runs_dir)
        words += ["--only", ",".join(name[:2] for name in only)] if only else []
        words += ["--verbose"] if self.verbose else []
        return shlex.join(["python", "-m", "kdkit", "run", *words, "--resume"])


@dataclass(frozen=True)
class _Stage:
    """One notebook of a run, and whether it must be executed."""

    name: str
    notebook: Path
    place: str
    """Among all: `[2/5]`."""
    is_chosen: bool
    """Whether it is executed even if it is done."""


def run_notebooks(request: RunRequest) -> Run:
    """Run the notebooks of a request and return the run.

    Raises:
        UserError: anything that the user can correct; found before the first notebook where possible.
        RuntimeError: a notebook failed.
        Stopped: by the user, or by the time budget; the message holds what is saved and the command that goes on.
    """
    hand_on_start()
    arguments = request.config, request.overrides, request.name, request.runs_dir
    config, run = plan_run(*arguments)
    is_embedding = isinstance(config, EmbeddingConfig)
    found = find_stages(find_root(), config)
    chosen = choose_stages(found, request.first, request.only)
    check_writable(run.path, "--runs-dir")
    check_writable(run.cache_path, "cache_dir")
    terminal = Terminal(request.verbose)
    stages = [
        _Stage(name, notebook, f"[{number}/{len(found)}]", name in chosen)
        for number, (name, notebook) in enumerate(found.items(), 1)
        if not request.only or name in chosen
    ]
    package = fingerprint_files(Path(__file__).parents[1])
    inputs = known_inputs(config, run)
    if inputs is None or _left(config, run, stages, inputs.source + package):
        # all of it is read again: what has the same name, size and time may still be gone from the cache
        started = time.monotonic()
        terminal.show("checking the configuration, the models and the text")
        with terminal.capturing():
            inputs = check_inputs(config, run)
        terminal.say(f"checked configuration, models and text in {time.monotonic() - started:.1f} s")
        for line in inputs.sizes:
            terminal.say(line)
        with terminal.capturing():
            config, run = open_embedding_run(*arguments) if is_embedding else open_run(*arguments)
        keep_inputs(config, run, inputs)
    terminal.say(f"run {run.name}: {run.path}")
    source = inputs.source + package
    left = _left(config, run, stages, source)
    forecast = Forecast(left, inputs.work, seconds_before(config, run, left))
    terminal.in_all = forecast.in_all
    if (seconds := forecast.at_start()) is not None:
        terminal.say(f"about {say_time(seconds)} in all, as an earlier run took")
    for stage in stages:
        made_from = _made_from(config, run, stage, source)
        if _is_done(run, stage, made_from):
            terminal.say(f"{stage.place} {stage.name}: done before, inputs unchanged, skipped")
            if isinstance(config, EmbeddingConfig):
                dismiss_helpers(config)
            continue
        forecast.begin(stage.name)
        left = [later.name for later in stages[stages.index(stage) :]]
        command = request.command(left if request.only else [])
        _check_time(config, run, stage, command)
        trained = trained_from(config, stage.name, source) if stage.name in TRAINING else ""
        _run_stage(request, run, stage, made_from, trained, command, terminal)
    run.set_progress("finished")
    return run


def _check_time(config: Config | EmbeddingConfig, run: Run, stage: _Stage, command: str) -> None:
    """Begin no notebook when the session's time is up.

    Raises:
        TimeIsUp: it is.
    """
    budget = find_budget(config.train.time_budget_hours)
    if budget is not None and budget.is_used_up():
        reason = f"time budget of {budget.hours} used up; {stage.name} was not begun, those before it are kept"
        run.set_progress("stopped", resume_needed=True, reason=reason, command=command)
        raise TimeIsUp(f"{reason}; to go on: {command}")


def find_stages(root: Path, config: Config | EmbeddingConfig) -> dict[str, Path]:
    """Return the numbered notebooks of a story, in order, by name: five for language models, one for embeddings.

    Several teachers have one more, and so has `report.look_inside`.
    """
    if isinstance(config, EmbeddingConfig):
        patterns = ["06_*.ipynb"]
    else:
        more = ["07_*.ipynb"] * config.teachers.are_several + ["08_*.ipynb"] * config.report.look_inside
        patterns = ["0[1-5]_*.ipynb", *more]
    files = [path for pattern in patterns for path in (root / "notebooks").glob(pattern)]
    return {path.stem: path for path in sorted(files)}


def choose_stages(stages: dict[str, Path], first: str, only: str) -> set[str]:
    """Resolve `--from` and `--only` to the stages that must run.

    Raises:
        UserError: no stage of that name or number.
    """

    def resolve(text: str, option: str) -> str:
        """Return the stage of a number or a name."""
        found = [stage for stage in stages if text in (stage, stage[:2], stage[3:])]
        if not found:
            near = difflib.get_close_matches(text, [name for stage in stages for name in (stage, stage[3:])], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "use the number or the name"
            raise UserError(f"{option}: expected one of {', '.join(stages)}, got {text!r}; {hint}")
        return found[0]

    if only:
        return {resolve(text.strip(), "--only") for text in only.split(",")}
    if first:
        start = list(stages).index(resolve(first, "--from"))
        return set(list(stages)[start:])
    return set()


def _left(config: Config | EmbeddingConfig, run: Run, stages: list[_Stage], source: str) -> list[str]:
    """Return the stages that will be executed: one that is not done makes new inputs for all after it."""
    for number, stage in enumerate(stages):
        if not _is_done(run, stage, _made_from(config, run, stage, source)):
            return [later.name for later in stages[number:]]
    return []


def _is_done(run: Run, stage: _Stage, made_from: str) -> bool:
    """Return whether a stage need not be executed."""
    status = run.status().get(stage.name, {})
    return not stage.is_chosen and status.get("state") == "done" and status.get("inputs") == made_from


def _made_from(config: Config | EmbeddingConfig, run: Run, stage: _Stage, source: str) -> str:
    """Fingerprint all that goes into a stage: settings, notebook, package, models, and when those before ended."""
    before = {name: entry.get("finished", "") for name, entry in run.status().items() if name < stage.name}
    settings = _settings_of(config, stage.name)
    return fingerprint(settings, source, fingerprint_files(stage.notebook), before)


def is_trained(config: Config | EmbeddingConfig, run: Run, stage: str, source: str) -> bool:
    """Return whether a stage's trainings are done, by `kdkit distill` or its notebook, and their inputs unchanged."""
    made_by = _Stage(stage, find_stages(find_root(), config)[stage], "", False)
    entry = run.status().get(stage, {})
    is_launched = entry.get("state") == TRAINED and entry.get("inputs") == trained_from(config, stage, source)
    return is_launched or _is_done(run, made_by, _made_from(config, run, made_by, source))


def trained_from(config: Config | EmbeddingConfig, stage: str, source: str) -> str:
    """Fingerprint what goes into a training that `kdkit distill` makes: what `_made_from` does, less the notebooks."""
    return fingerprint("distill", _settings_of(config, stage), source)


def _settings_of(config: Config | EmbeddingConfig, stage: str) -> dict[str, Any]:
    """Return the settings that a stage's results depend on: what 04 measures and 05 writes decides no training."""
    values = config.model_dump()
    del values["train"]["time_budget_hours"]
    if isinstance(config, EmbeddingConfig):
        return values
    if stage < "04":
        values["evaluate"] = {"curve_sequences": config.evaluate.curve_sequences}
        del values["maths"]["judging"]
    else:
        values["judged_on"] = [fingerprint_files(file) for file in _files_judged_on(config)]
    if stage < "05":
        del values["report"]
    return values


def _files_judged_on(config: Config) -> list[Path]:
    """Return the files that 04 alone reads."""
    from kdkit.evaluate.maths.sets import find_problem_file  # torch behind it: a run that goes on need not wait for it

    pairs, problems = config.evaluate.minimal_pairs, config.maths.judging.path
    files = find_pair_files(pairs) if pairs not in (None, BUILT_IN) else []
    return [*files, find_problem_file(problems)] if problems is not None else files


def _parameters(request: RunRequest, run: Run, stage: _Stage, resume: bool, terminal: Terminal) -> dict[str, object]:
    """Return what a stage's notebook is given; say which of its own settings are not used."""
    by_hand = set_by_hand(stage.notebook)
    if by_hand:
        names = ", ".join(by_hand)
        terminal.say(f"note: {stage.notebook.name} sets {names}: not used here, where the configuration and -p decide")
    parameters: dict[str, object] = {**by_hand, "RUN": run.name, "RUNS_DIR": str(run.path.parent)}
    if stage.name not in JUDGING:
        parameters["CONFIG"] = str(find_config(request.config).resolve())
        parameters["OVERRIDES"] = shlex.join(request.overrides)
    if stage.name in TRAINING:
        parameters["RESUME"] = resume
    return parameters


@contextmanager
def _planned_for(processes: int) -> Iterator[None]:
    """Let a notebook plan what a step reads, and so what a cache holds, as for so many processes."""
    if processes == 1:
        yield
        return
    from kdkit.training.order import PROCESSES  # torch behind it

    os.environ[PROCESSES] = str(processes)
    try:
        yield
    finally:
        os.environ.pop(PROCESSES)


def _run_stage(
    request: RunRequest, run: Run, stage: _Stage, inputs: str, trained: str, command: str, terminal: Terminal
) -> None:
    """Execute one stage and keep its status.

    Args:
        inputs: fingerprint of what it is made from.
        trained: the same of a training by `kdkit distill`.
        command: that goes on from here.
    """
    before = run.status().get(stage.name, {})
    # what an earlier try left may be continued only if it was made from the same inputs
    unfinished = before.get("state", "done") != "done"
    is_launched = bool(trained) and before.get("inputs") == trained
    is_shown = is_launched and before["state"] == TRAINED and not stage.is_chosen
    resume = is_shown or (request.resume and unfinished and (is_launched or before.get("inputs") == inputs))
    if is_shown:
        terminal.say(f"{stage.place} {stage.name}: trained before by kdkit distill, shown here")
    if request.resume and unfinished and not resume and stage.name in TRAINING:
        terminal.say(f"{stage.name}: its inputs are not those of the training that was stopped, so it starts over")
    terminal.place = stage.place
    terminal.show(f"{stage.place} {stage.name}")
    parameters = _parameters(request, run, stage, resume, terminal)
    start = time.monotonic()
    run.set_status(stage.name, **(before if is_shown else {"state": "running", "inputs": inputs}))
    run.set_progress("running", phase=stage.name)

    def finish(state: str, message: str = "") -> None:
        """Keep how the stage ended; what was trained before it began stays so."""
        if is_shown and state != "done":
            return
        seconds = round(time.monotonic() - start, 1)
        finished = datetime.now(UTC).isoformat(timespec="milliseconds")
        run.set_status(stage.name, state=state, seconds=seconds, message=message, inputs=inputs, finished=finished)

    try:
        with _planned_for(before.get("processes", 1) if resume else 1):
            run_notebook(stage.notebook, run.path / "notebooks" / stage.notebook.name, parameters, terminal)
    except KeyboardInterrupt as error:
        terminal.erase()
        finish("interrupted", "stopped by the user")
        saved = str(error) or f"{stage.name} was not finished, those before it are kept"
        run.set_progress("stopped", resume_needed=True, reason=f"stopped by its user; {saved}", command=command)
        raise Stopped(f"{saved}; to go on: {command}") from None
    except (UserError, RuntimeError) as error:
        terminal.erase()
        finish("failed", message := re.sub(r"\s+", " ", str(error)))
        run.set_progress("failed", reason=message)
        raise
    if (progress := run.progress())["resume_needed"]:  # the notebook has ended without an error: its time was up
        terminal.erase()
        finish("interrupted", progress["reason"])
        run.set_progress("stopped", resume_needed=True, reason=progress["reason"], command=command)
        raise TimeIsUp(f"{progress['reason']}; to go on: {command}")
    finish("done")
    terminal.say(f"{stage.place} {stage.name}: done in {time.monotonic() - start:.1f} s")
