"""Scores by the package mteb, an evaluator of other hands, with sentence-transformers: tasks by their names there."""

import difflib
import importlib.util
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.models.pooling import has_token_vectors
from kdkit.errors import UserError
from kdkit.runs.folder import Run

RESULTS = "mteb.json"
"""Scores of a run by mteb: by model, then by task."""


@dataclass(frozen=True)
class MtebScore:
    """A model's score on a task."""

    task: str
    metric: str
    """Name of the main score there."""
    main: float
    """The mean over the task's subsets, times 100."""
    splits: str
    """Splits that were scored."""
    revision: str
    """Of the data set."""
    seconds: float


def find_mteb_tasks(names: Iterable[str], key: str) -> list[Any]:
    """Return the tasks of these names.

    Args:
        key: the setting or option that has the names, for messages.

    Raises:
        UserError: mteb is not installed; no name, or one that MTEB does not have; the nearest are named.
    """
    if missing := [name for name in ("mteb", "sentence_transformers") if importlib.util.find_spec(name) is None]:
        raise UserError(f"{key}: expected the package {missing[0]}, got none installed; pip install 'kdkit[mteb]'")
    import mteb

    names = list(names)
    if not names:
        raise UserError(f"{key}: expected names of MTEB, got none; name some: STSBenchmark, SciFact")
    known = {task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)}
    for name in names:
        if name not in known:
            alike = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            raise UserError(
                f"{key}: expected the name of a task of MTEB {mteb.__version__}, got {name!r}; "
                f"{'did you mean ' + ', '.join(alike) + '?' if alike else 'see its documentation'}"
            )
    return list(mteb.get_tasks(tasks=names, exclude_superseded=False))


def score_run(run: Run, tasks: list[Any], models: list[str], key: str) -> dict[str, dict[str, Any]]:
    """Score a run's models and write `mteb.json`; scores of other models and tasks that stand there stay.

    Args:
        tasks: see `score_by_mteb`.
        models: `student`, `teacher`.
        key: see `find_mteb_tasks`.

    Returns:
        model -> task -> the fields of `MtebScore`, with those of earlier calls.

    Raises:
        UserError: the run has no student; see `score_by_mteb`.
    """
    results = run.read_json(RESULTS) if (run.path / RESULTS).is_file() else {}
    for name in models:
        print(f"mteb: {name} on {', '.join(task.metadata.name for task in tasks)}", flush=True)
        scores = score_by_mteb(_folder_of(run, name), tasks, key)
        results[name] = results.get(name, {}) | {score.task: asdict(score) for score in scores}
    run.write_json(RESULTS, results)
    return results


def _folder_of(run: Run, model: str) -> str:
    """Return where a model of a run lies."""
    if model == "teacher":
        return resolve_embedding_path(run.read_json("teacher/probe.json")["path"], "teacher.path")
    folder = run.path / "student"
    if not (folder / "modules.json").is_file():
        raise UserError(
            f"run {run.name!r}: expected a student that is an embedding model, got none in {folder}; train one first: "
            "python -m kdkit run configs/embedding_demo.yaml"
        )
    return str(folder)


def score_by_mteb(
    folder: str, tasks: list[Any], key: str, *, device: str = "cpu", batch_size: int = 64
) -> list[MtebScore]:
    """Score a sentence-transformers folder, or a model of the hub, on tasks of mteb, whose own cache is left alone.

    Args:
        folder: of the model.
        tasks: as `find_mteb_tasks` returns them, or own ones.
        key: see there.

    Raises:
        UserError: a task's data cannot be read; a model with a vector for every token.
    """
    if has_token_vectors(folder):
        raise UserError(
            f"{key}: expected models with one vector for a text, got {folder!r} with a vector for every token; "
            "score it by evaluate.tasks"
        )
    import mteb
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device=device)
    scores = []
    for task in tasks:
        metadata = task.metadata
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = mteb.evaluate(
                    model, task, cache=None, encode_kwargs={"batch_size": batch_size}, show_progress_bar=False
                )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{key}: expected the data of {metadata.name!r} ({metadata.dataset['path']}) to be readable, got "
                f"{type(error).__name__}: {reason}; check the network"
            ) from None
        (found,) = result.task_results
        scores.append(
            MtebScore(
                metadata.name,
                metadata.main_score,
                100.0 * float(found.get_score()),
                ", ".join(found.scores),
                metadata.dataset["revision"],
                float(found.evaluation_time),
            )
        )
    return scores
