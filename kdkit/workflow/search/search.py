"""Search: trials of one configuration whose settings Optuna chooses; `python -m kdkit sweep CONFIG --search`.

Every trial is trained with every seed, each a run folder like those of a sweep; its level is the mean. Trials that are
worse than the median of the others at the same place of their learning curves are given up early.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from kdkit.config.language import dump_config
from kdkit.distill.checkpoints import STUDENT
from kdkit.errors import UserError
from kdkit.evaluate.sweeps.comparison import AnyTrial
from kdkit.machine.budget import hand_on_start
from kdkit.machine.interrupt import Stopped, TimeIsUp
from kdkit.report.search.page import write_search_report
from kdkit.runs.folder import Run, default_run_name, describe_environment, fingerprint
from kdkit.runs.open_run import plan_run
from kdkit.workflow.search.space import Dimension, read_space
from kdkit.workflow.search.study import STARTS, counted, first_number, importances, leave, next_trial, open_study
from kdkit.workflow.several.grid import load_any, refuse_variants
from kdkit.workflow.several.sweep import SweepRequest, check_one_process, check_overrides, fixed_settings, open_folder
from kdkit.workflow.several.trial import PlannedRun, identify_run, train_one
from kdkit.workflow.several.variants import as_override, check_seeds, read_seeds
from kdkit.workflow.terminal import Terminal

TRIALS = 20
"""Of a search where nobody says how many."""


@dataclass(frozen=True)
class Search:
    """A search that has been checked and opened."""

    request: SweepRequest
    space: list[Dimension]
    seeds: list[int]
    trials: int
    """In all, of all processes together."""
    folder: Run
    study: optuna.Study
    kind: type[AnyTrial]
    terminal: Terminal


def run_search(request: SweepRequest) -> Run:
    """Train trials until there are as many as wanted, all processes of this search together; write the report.

    Raises:
        UserError: anything that the user can correct, as far as possible before anything is trained.
        UserError, RuntimeError: every trial failed.
        Stopped: by the user, or by the time budget; the message holds the command that goes on.
    """
    hand_on_start()
    terminal = Terminal(request.verbose)
    search = open_search(request, terminal)
    try:
        failures = make_trials(search)
    except KeyboardInterrupt as error:
        terminal.erase()
        conclude(search)
        raise Stopped(f"{str(error) or 'finished trials are kept'}; to go on: {request.command}") from None
    except SystemExit:
        terminal.erase()
        conclude(search)
        raise TimeIsUp(f"time budget used up; all is saved; to go on: {request.command}") from None
    conclude(search)
    if failures and not search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise type(failures[0])(f"{failures[0]}; no trial has come to an end") from failures[0]
    return search.folder


def open_search(request: SweepRequest, terminal: Terminal) -> Search:
    """Check the options and open the study.

    Raises:
        UserError: see `read_space`, `read_seeds` and `open_study`; options that are for variants.
    """
    check_one_process()
    check_overrides(request.overrides)
    for option, given in (("--grid", request.grid), ("--only", request.only), ("--processes", request.processes)):
        if given:
            several = "; start the same command again beside it" if option == "--processes" else ""
            raise UserError(f"{option}: expected none beside --search, got {given!r}; leave it out{several}")
    refuse_variants(request.file, "--search")
    space = read_space(request.file, request.overrides, request.search)
    seeds = check_seeds(read_seeds(request.seeds, one_is_a_count=True) or [0])
    labels = [dimension.label for dimension in space]
    name = "-".join([default_run_name(request.file, request.overrides), "search", *labels])[:100]
    folder = open_folder(request.name or name, request.runs_dir)
    config = load_any(request.file, request.overrides)
    own = {each.key: each.own(request.file, request.overrides, config) for each in space}
    first = _plan(request, {}, seeds[0], folder, 0)
    made_from = fingerprint(dump_config(config), seeds)
    study = open_study(folder, space, first.kind.MEASURE["is_score"], made_from, {} if None in own.values() else own)
    trials = TRIALS if request.trials is None else request.trials
    words = f"{trials} trials x {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    terminal.say(f"search {folder.name}: {words}: {folder.path}")
    return Search(request, space, seeds, trials, folder, study, first.kind, terminal)


def make_trials(search: Search) -> list[UserError | RuntimeError]:
    """Make trials until there are enough; return what those that failed raised."""
    failures: list[UserError | RuntimeError] = []
    while True:
        with next_trial(search.study, search.folder, search.space, search.trials) as trial:
            if trial is None:
                return failures
            try:
                make_trial(search, trial)
            except (UserError, RuntimeError) as error:
                search.study.tell(trial, state=TrialState.FAIL)
                trial_says(search, trial, f"failed: {error}")
                failures.append(error)
            except (KeyboardInterrupt, SystemExit):
                leave(search.study, trial, trial.user_attrs.get(STARTS, 0))
                raise
            finally:
                gc.collect()


def make_trial(search: Search, trial: Trial) -> None:
    """Train one trial with every seed, and tell the study its level, or where it was given up."""
    settings = {each.key: each.value(trial.params[each.key]) for each in search.space}
    trial.set_user_attr("settings", settings)
    levels: list[float] = []
    seconds = 0.0
    trial_says(search, trial, show_only=True)
    try:
        for place, seed in enumerate(search.seeds):
            plan = _plan(search.request, settings, seed, search.folder, first_number(trial))
            with search.terminal.capturing():
                outcome = train_one(plan, search.folder, curve_watch(trial, plan, place), with_baseline=False)
            assert outcome is not None, "a trial belongs to one process"
            levels.append(outcome.student)
            seconds += outcome.seconds
            trial.set_user_attr("levels", levels)
            trial.set_user_attr("seconds", seconds)
    except optuna.TrialPruned:
        search.study.tell(trial, state=TrialState.PRUNED)
        last = max(search.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        trial_says(search, trial, f"given up at {last % 100 or 100} % of seed {search.seeds[len(levels)]}")
        return
    search.study.tell(trial, sum(levels) / len(levels))
    trial_says(search, trial, f"{_number(search, sum(levels) / len(levels))} {search.kind.MEASURE['name']}")


def curve_watch(trial: Trial, plan: PlannedRun, place: int) -> Callable[[dict[str, Any]], None]:
    """Return what reports the points of a run's learning curve to the study, and ends it where the study says so.

    A point's step is its percentage of the training, plus 100 for every seed before it.

    Raises:
        TrialPruned: when it is called.
    """

    def watch(line: dict[str, Any]) -> None:
        """Take a line of metrics."""
        value = curve_value(line)
        total = plan.run.progress().get("total_steps")
        if value is None or not total or not line["step"]:
            return
        trial.report(value, 100 * place + round(100 * line["step"] / total))
        if trial.should_prune():
            raise optuna.TrialPruned

    return watch


def curve_value(line: dict[str, Any]) -> float | None:
    """Return the level in a line of metrics: of a student on the curve's text, or of an embedding model's tasks."""
    if line.get("tasks"):
        return sum(line["tasks"].values()) / len(line["tasks"])
    return line.get("evaluation_bits_per_byte") if line.get("phase") == STUDENT else None


def conclude(search: Search) -> Path | None:
    """Write the figures and the report of what has been tried so far; None where nothing has."""
    trials = [trial for trial in counted(search.study) if trial.state != TrialState.WAITING]
    if not trials:
        return None
    shares, method = importances(search.study)
    request, measure = search.request, search.kind.MEASURE
    facts = {
        "name": search.folder.name,
        "command": request.command,
        "config": request.file,
        "overrides": request.overrides,
        "seeds": search.seeds,
        "measure": measure,
        "space": [
            {"key": each.key, "label": each.label, "words": each.words, "is_log": each.is_log} for each in search.space
        ],
        "trials": [_describe(trial) for trial in trials],
        "has_own": "fixed_params" in search.study.get_trials(deepcopy=False)[0].system_attrs,
        "importances": shares,
        "importance_by": method,
        "environment": describe_environment(),
    }
    search.folder.write_json("search.json", facts)
    return write_search_report(search.folder)


def trial_says(search: Search, trial: Trial, words: str = "", show_only: bool = False) -> None:
    """Print a line on a trial, or show it until the next one; its place stands before the progress of its trainings."""
    values = " ".join(f"{each.label}={_short(trial.params[each.key])}" for each in search.space)
    number = [other.number for other in counted(search.study)].index(trial.number) + 1
    place = f"[{number}/{search.trials}]"
    search.terminal.place = place
    if show_only:
        search.terminal.show(f"{place} {values}")
    else:
        search.terminal.say(f"{place} {values}: {words}{_best_so_far(search)}")


def _best_so_far(search: Search) -> str:
    complete = search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return f"; best so far {_number(search, search.study.best_value)}" if complete else ""


def _plan(request: SweepRequest, settings: dict[str, Any], seed: int, folder: Run, number: int) -> PlannedRun:
    """Check one run of a trial."""
    own = [as_override(key, value) for key, value in settings.items()]
    overrides = [*request.overrides, *own, *fixed_settings(request.file, seed)]
    name = f"trial-{number:03d}-seed-{seed}"
    arguments = request.file, overrides, name, str(Path(request.runs_dir) / folder.name)
    config, run = plan_run(*arguments)
    return PlannedRun(f"trial {number}", seed, arguments, config, run, identify_run(config, run))


def _describe(trial: FrozenTrial) -> dict[str, Any]:
    """Return what the report says of a trial."""
    return {
        "number": first_number(trial),
        "state": trial.state.name.lower(),
        "params": trial.params,
        "settings": trial.user_attrs.get("settings", trial.params),
        "level": trial.value,
        "levels": trial.user_attrs.get("levels", []),
        "seconds": trial.user_attrs.get("seconds"),
        "curve": sorted(trial.intermediate_values.items()),
    }


def _number(search: Search, level: float) -> str:
    return f"{level:.{search.kind.MEASURE['digits']}f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
