"""The verb `mteb`: a run's models on tasks of MTEB, by the package of that name, beside the run's own scores."""

from dataclasses import asdict, dataclass
from typing import Any

from kdkit.embeddings.evaluate.by_mteb import find_mteb_tasks, score_by_mteb
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.errors import UserError
from kdkit.report.tables import MISSING, Table
from kdkit.runs.folder import Run
from kdkit.workflow.writers import run_folder

RESULTS = "mteb.json"
"""Scores of a run by mteb: by model, then by task."""
MODELS = ("student", "teacher")


@dataclass(frozen=True)
class MtebRequest:
    """What the command asks for."""

    run: str
    tasks: list[str]
    models: list[str]
    runs_dir: str


def run_mteb(request: MtebRequest) -> Table:
    """Score the models, write `mteb.json` into the run, and return the table.

    Scores of an earlier call stay, unless the same model and task are scored again.

    Raises:
        UserError: no such run, or one without a student; a model or a task of another name.
    """
    if wrong := [name for name in request.models if name not in MODELS]:
        raise UserError(f"--models: expected {' or '.join(MODELS)}, got {wrong[0]!r}; name one of them")
    folder = run_folder(request.run, request.runs_dir)
    if folder is None:
        raise UserError(
            f"RUN: expected the name or folder of a run in {request.runs_dir!r}, got {request.run!r}; make one: "
            "python -m kdkit run configs/embedding_demo.yaml"
        )
    return score_run(Run(folder, folder), find_mteb_tasks(request.tasks), request.models)


def score_run(run: Run, tasks: list[Any], models: list[str]) -> Table:
    """Score models of a run on tasks of mteb; see `run_mteb`."""
    results = run.read_json(RESULTS) if (run.path / RESULTS).is_file() else {}
    for name in models:
        scores = score_by_mteb(_folder_of(run, name), tasks)
        results[name] = results.get(name, {}) | {score.task: asdict(score) for score in scores}
    run.write_json(RESULTS, results)
    return mteb_table(results, run.read_json("evaluation.json") if (run.path / "evaluation.json").is_file() else {})


def mteb_table(results: dict[str, Any], evaluation: dict[str, Any]) -> Table:
    """Put mteb's scores beside those of the run's tasks of the same name."""
    rows = []
    for model, tasks in results.items():
        own = next((entry for entry in evaluation.get("models", {}).values() if entry["role"] == model), {})
        for task, score in tasks.items():
            ours = own.get("tasks", {}).get(task)
            cells = [f"{score['main']:.2f}", MISSING if ours is None else f"{ours['main']:.2f}"]
            rows.append([task, model, score["metric"], *cells, score["splits"], score["revision"][:12]])
    return ["task", "model", "score", "by mteb", "by kdkit", "split", "revision"], rows


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
