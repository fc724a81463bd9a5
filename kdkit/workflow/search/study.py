"""The study of a search: Optuna's journal in the search's folder, which several processes and machines may share.

A trial belongs to the process that holds its lock. One that its process left, by Ctrl-C or because it was killed, is
begun again under a new number with the same values and run folders: its training goes on from its checkpoint.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from kdkit.errors import UserError
from kdkit.runs.disk import claiming, taking_turns
from kdkit.runs.folder import Run
from kdkit.workflow.search.space import Dimension

JOURNAL = "search.journal"
FEWEST = 6
"""Trained trials below which an importance of settings would be drawn from a hat."""
CONTINUES, FIRST, STARTS = "continues", "first", "starts"
"""Attributes of a trial: the number of the one it goes on with, of the first of them, and how often it was killed."""
MOST_STARTS = 2
"""A trial whose process was killed so often is given up: it may be what kills."""
UNTOUCHED = 20
"""Percent of a trial's first training before which it is not pruned."""


def open_study(
    folder: Run, space: list[Dimension], is_score: bool, made_from: str, own: dict[str, Any]
) -> optuna.Study:
    """Open the study of a folder, or begin it with the configuration's own values as the first trial.

    Args:
        is_score: higher levels are better.
        made_from: fingerprint of all that trials share; one study compares nothing else.
        own: the configuration's own value of every setting; empty where one lies outside.

    Raises:
        UserError: the folder's study searches elsewhere, or began from something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    described = {"space": {each.key: each.words for each in space}, "made_from": made_from}
    folder.path.mkdir(parents=True, exist_ok=True)
    with taking_turns(folder.path / ".search.lock", "the next trial"):
        study = optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(folder.path / JOURNAL))),
            direction="maximize" if is_score else "minimize",
            pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=UNTOUCHED),
            load_if_exists=True,
        )
        if not study.user_attrs:
            for name, value in described.items():
                study.set_user_attr(name, value)
            if own:
                study.enqueue_trial(own)
    if (before := study.user_attrs["space"]) != described["space"]:
        raise UserError(
            f"--search: expected the space that {folder.name!r} was begun with ({_say(before)}), got "
            f"({_say(described['space'])}); choose another --name"
        )
    if study.user_attrs["made_from"] != made_from:
        raise UserError(
            f"--search: expected the settings and seeds that {folder.name!r} was begun with, got others; choose "
            "another --name"
        )
    return study


@contextmanager
def next_trial(study: optuna.Study, folder: Run, space: list[Dimension], limit: int) -> Iterator[Trial | None]:
    """Yield a trial that this process holds: one that was left, or a new one; None: there are enough.

    Args:
        limit: trials of all processes together.
    """
    with ExitStack() as held:
        with taking_turns(folder.path / ".search.lock", "the next trial"):
            _begin_left_ones_again(study, folder)
            waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting and len(counted(study)) >= limit:
                trial = None
            else:
                # by the number, so that no two processes draw the same values
                study.sampler = _sampler(len(study.get_trials(deepcopy=False)))
                trial = study.ask({each.key: each.distribution() for each in space})
                held.enter_context(claiming(_lock(folder, trial.number)))
        yield trial


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials, one that was left and begun again once."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs[CONTINUES] for trial in trials if CONTINUES in trial.user_attrs}
    return [trial for trial in trials if trial.number not in again]


def leave(study: optuna.Study, trial: Trial | FrozenTrial, starts: int) -> None:
    """Give a trial up for whoever asks for the next one: it goes on there.

    Args:
        starts: how often it was begun without coming to an end by itself.
    """
    study.tell(trial.number, state=TrialState.FAIL)
    first = trial.user_attrs.get(FIRST, trial.number)
    study.enqueue_trial(trial.params, {CONTINUES: trial.number, FIRST: first, STARTS: starts})


def first_number(trial: Trial | FrozenTrial) -> int:
    """Return the number that a trial had when it was begun first, which its run folders carry."""
    return trial.user_attrs.get(FIRST, trial.number)


def _begin_left_ones_again(study: optuna.Study, folder: Run) -> None:
    """Put the trials of processes that are no more back into the line."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        with claiming(_lock(folder, trial.number)) as is_left:
            if not is_left:
                continue
            starts = trial.user_attrs.get(STARTS, 0) + 1
            if starts >= MOST_STARTS:
                study.tell(trial.number, state=TrialState.FAIL)
            else:
                leave(study, trial, starts)


def importances(study: optuna.Study) -> tuple[dict[str, float], str]:
    """Return each setting's share in how much the levels vary, and by what method; empty where nobody can know.

    Source: Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance (fANOVA), which needs
    scikit-learn; without it Watanabe et al. 2023, PED-ANOVA.
    """
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < FEWEST:
        return {}, ""
    with _quietly(), suppress(ValueError, RuntimeError, ZeroDivisionError):  # all the same
        if find_spec("sklearn") is not None:
            fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
            return optuna.importance.get_param_importances(study, evaluator=fanova), "fANOVA"
        ped_anova = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(study, evaluator=ped_anova), "PED-ANOVA"
    return {}, ""


def _sampler(seed: int) -> TPESampler:
    """Return a sampler of trees of Parzen estimators over all settings together.

    Trials that others have begun are taken for bad ones: several processes spread out.
    """
    with _quietly():
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _lock(folder: Run, number: int) -> Path:
    return folder.path / "trials" / f".{number}.lock"


def _say(space: dict[str, str]) -> str:
    return "; ".join(f"{key}: {words}" for key, words in space.items())
