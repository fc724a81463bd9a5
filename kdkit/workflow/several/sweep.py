"""Sweep: variants of one configuration over the same seeds, compared in pairs; what `python -m kdkit sweep` does."""

import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config, dump_config
from kdkit.errors import UserError
from kdkit.evaluate.sweeps.comparison import AnyTrial, compare_variants
from kdkit.evaluate.sweeps.effects import add_effects
from kdkit.machine.budget import hand_on_start
from kdkit.machine.interrupt import Stopped, TimeIsUp
from kdkit.report.sweeps.page import write_sweep_report
from kdkit.report.tables import write_number
from kdkit.runs.folder import Run, default_run_name, describe_environment
from kdkit.runs.messages import say_time
from kdkit.runs.open_run import is_for_embeddings, open_side_run, plan_run
from kdkit.training.order import num_processes
from kdkit.workflow.several.confirm import confirm_runs
from kdkit.workflow.several.grid import Axis, make_grid, read_axes
from kdkit.workflow.several.processes import train_here, train_in_processes
from kdkit.workflow.several.trial import PlannedRun, identify_run, naming, share_answers
from kdkit.workflow.several.variants import SweepFile, as_override, choose_variants, folder_name, load_sweep
from kdkit.workflow.terminal import Terminal


@dataclass(frozen=True)
class SweepRequest:
    """Options of `python -m kdkit sweep`."""

    file: str
    """Of variants; of one run with `grid`."""
    overrides: list[str] = field(default_factory=list)
    """For every variant, before its own."""
    name: str = ""
    runs_dir: str = "runs"
    only: str = ""
    """Train these variants only: names, or their folders' names, separated by commas."""
    seeds: str = ""
    """In place of the file's: `0,1`; see `read_seeds`."""
    verbose: bool = False
    """Show all that the trainings print."""
    grid: list[str] = field(default_factory=list)
    """`section.key=VALUE,VALUE`: every combination is a variant."""
    processes: int = 0
    """Train so many runs at once, each in a process of its own; 0: one after the other, in this process."""
    yes: bool = False
    """Train a large grid without asking."""
    search: list[str] = field(default_factory=list)
    """`section.key=LOW:HIGH` or `section.key=VALUE,VALUE`: values are chosen trial by trial; see `run_search`."""
    trials: int | None = None
    """Of a search, in all; None: `kdkit.workflow.search.search.TRIALS`."""

    @property
    def command(self) -> str:
        """The command line with these options."""
        options = [("--name", self.name), ("--only", self.only), ("--seeds", self.seeds)]
        words = [self.file, *(word for axis in self.grid for word in ("--grid", axis))]
        words += [word for dimension in self.search for word in ("--search", dimension)]
        words += ["--trials", str(self.trials)] if self.trials is not None else []
        words += [word for override in self.overrides for word in ("-p", override)]
        words += [word for option, value in options if value for word in (option, value)]
        words += ["--processes", str(self.processes)] if self.processes else []
        words += ["--yes"] if self.yes else []
        words += ["--runs-dir", self.runs_dir] if self.runs_dir != "runs" else []
        return shlex.join(["python", "-m", "kdkit", "sweep", *words])


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
    axes = read_axes(request.grid)
    sweep = _open_sweep(request, axes, terminal)
    wanted = choose_variants(request.only, list(sweep.variants))
    folder = open_folder(request.name or default_name(request.file, request.overrides, axes), request.runs_dir)
    seeds = ", ".join(map(str, sweep.seeds))
    count = f"{len(sweep.seeds)} seeds ({seeds})" if len(sweep.seeds) > 1 else f"seed {seeds}"
    terminal.say(f"sweep {folder.name}: {len(wanted)} variants x {count}: {folder.path}")
    terminal.show("checking the variants, the models and the text")
    with terminal.capturing():
        planned = plan_runs(sweep, request, folder.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    chosen = [plan for plan in planned if plan.variant in wanted]
    failures = train_missing(chosen, folder, terminal, request.processes)
    page = _conclude(request, sweep, axes, planned, folder)
    if failures:
        others = f"{len(failures)} of {len(chosen)} runs failed; what the others came to: {page}"
        raise type(failures[0])(f"{failures[0]}; {others}") from failures[0]
    return folder


def _open_sweep(request: SweepRequest, axes: list[Axis], terminal: Terminal) -> SweepFile:
    """Read the file of variants, or make them of a grid, if that is wanted.

    Raises:
        UserError: see `load_sweep` and `make_grid`; a number of trials, which are a search's.
    """
    check_one_process()
    if request.trials is not None:
        without = replace(request, trials=None).command
        raise UserError(
            f"--trials: expected it beside --search alone, got --trials {request.trials}; a sweep trains all its "
            f"variants: {without}"
        )
    if not axes:
        return load_sweep(request.file, request.seeds)

    def confirm(words: str, count: int, seeds: int, config: Config | EmbeddingConfig) -> None:
        confirm_runs(words, count, seeds, config, request.yes, terminal)

    return make_grid(request.file, request.overrides, axes, request.seeds, confirm)


def default_name(file: str, overrides: list[str], axes: list[Axis]) -> str:
    """Name a sweep's folder after its file, what was changed by hand, and what a grid varies."""
    name = default_run_name(file, overrides)
    return "-".join([name, "grid", *(axis.label for axis in axes)])[:100] if axes else name


def open_folder(name: str, runs_dir: str) -> Run:
    """Return the folder of a sweep; not yet made.

    Raises:
        UserError: a run of that name.
    """
    folder = open_side_run(name, runs_dir, ".cache")
    if (folder.path / "config.yaml").is_file():
        raise UserError(f"--name: expected a sweep's folder, got {name!r}, which is a run's; choose another --name")
    return folder


def plan_runs(sweep: SweepFile, request: SweepRequest, name: str) -> list[PlannedRun]:
    """Check every variant with every seed; seed by seed, so that the first pairs are complete early.

    Raises:
        UserError: see `plan_run` and `identify_run`; two variants that are the same.
    """
    check_overrides(request.overrides)
    opened: dict[tuple[str, int], tuple[Any, Config | EmbeddingConfig, Run]] = {}
    for seed in sweep.seeds:
        for variant, settings in sweep.variants.items():
            own = [as_override(key, value) for key, value in settings.items()]
            overrides = [*request.overrides, *own, *fixed_settings(sweep.config, seed)]
            runs_dir = str(Path(request.runs_dir) / name)
            arguments = sweep.config, overrides, f"{folder_name(variant)}-seed-{seed}", runs_dir
            with naming(variant, seed):
                opened[variant, seed] = arguments, *plan_run(*arguments)
    _check_distinct({variant: opened[variant, sweep.seeds[0]][1] for variant in sweep.variants})
    planned = []
    for (variant, seed), (arguments, config, run) in opened.items():
        with naming(variant, seed):
            planned.append(PlannedRun(variant, seed, arguments, config, run, identify_run(config, run)))
    return share_answers(planned)


def check_one_process() -> None:
    """Refuse a launcher of several processes.

    Raises:
        UserError: naming how many there are.
    """
    if num_processes() > 1:
        raise UserError(
            f"sweep: expected one process, got {num_processes()}; start it without a launcher (several runs at once: "
            "--processes 2), or launch its runs one by one: accelerate launch -m kdkit run FILE"
        )


def check_overrides(overrides: list[str]) -> None:
    """Refuse a seed for all runs.

    Raises:
        UserError: naming what was given.
    """
    if taken := [override for override in overrides if override.partition("=")[0].strip() == "seed"]:
        raise UserError(f"-p: expected any setting but the seed, got {taken[0]!r}; use --seeds")


def fixed_settings(file: str, seed: int) -> list[str]:
    """Return what a sweep decides for all its runs: the seed, and no further trainings beside the student's."""
    return [f"seed={seed}", "compare=[]" if is_for_embeddings(file) else "distill.equal_time_baseline=false"]


def train_missing(
    planned: list[PlannedRun], folder: Run, terminal: Terminal, processes: int = 0
) -> list[UserError | RuntimeError]:
    """Train every run that has not finished; print each one's result and how long the others will take.

    Args:
        processes: see `SweepRequest.processes`.

    Returns:
        What trainings raised, with the variant's name: one that fails does not stop the others.
    """
    labels = {plan.name: f"[{number}/{len(planned)}] {plan.name}" for number, plan in enumerate(planned, 1)}
    missing = []
    for plan in planned:
        if plan.outcome() is None:
            missing.append(plan)
        else:
            terminal.say(f"{labels[plan.name]}: finished before, inputs unchanged, skipped")
    started, trained, failures = time.monotonic(), 0, []
    train = train_in_processes if processes else train_here
    for plan, outcome in train(missing, labels, folder, terminal, processes):
        if isinstance(outcome, UserError | RuntimeError):
            failures.append(outcome)
            terminal.say(f"{labels[plan.name]}: failed, and will be tried again by the same command: {outcome}")
            continue
        trained += 1
        whole = (time.monotonic() - started) / trained * len(missing)
        terminal.in_all = lambda step, whole=whole: whole  # all runs take about as long as those that are done
        left = say_time(whole / len(missing) * (len(missing) - trained))
        terminal.say(
            f"{labels[plan.name]}: {say_trial(outcome)}, {outcome.seconds:.1f} s of training; about {left} left"
        )
    return failures


def say_trial(trial: AnyTrial) -> str:
    """Write a result in words."""
    gap = "no gap to close" if trial.gap_closed is None else f"gap closed {trial.gap_closed:.2f}"
    levels = [trial.student, trial.teacher, trial.baseline]
    student, teacher, baseline = (write_number(level, f"{{:.{trial.MEASURE['digits']}f}}") for level in levels)
    return f"{student} {trial.MEASURE['name']}, {gap} (teacher {teacher}, baseline {baseline})"


def _conclude(
    request: SweepRequest, sweep: SweepFile, axes: list[Axis], planned: list[PlannedRun], folder: Run
) -> Path:
    """Compare the runs that have finished; write the figures and the report, and return its page."""
    trials = {(plan.variant, plan.seed): plan.outcome() for plan in planned}
    comparison = compare_variants(trials, sweep.reference, planned[0].kind.MEASURE)
    for entry in comparison["variants"]:
        entry |= {"settings": sweep.variants[entry["name"]], "folder": folder_name(entry["name"])}
    facts = {"name": folder.name, "command": request.command, "config": sweep.config, "runs_dir": request.runs_dir}
    facts |= comparison | {"environment": describe_environment(), "processes": max(request.processes, 1)}
    if axes:
        facts["grid"] = [{"key": axis.key, "values": list(axis.values), "names": axis.names()} for axis in axes]
        add_effects(facts)
    folder.write_json("sweep.json", facts)
    return write_sweep_report(folder)


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
