"""The verb `mteb`: a run's models on tasks of MTEB, by the package of that name, beside the run's own scores."""

from dataclasses import dataclass

from kdkit.embeddings.evaluate.by_mteb import find_mteb_tasks, score_run
from kdkit.errors import UserError
from kdkit.report.embeddings.tables import mteb_table
from kdkit.report.tables import Table
from kdkit.runs.folder import Run
from kdkit.workflow.writers import run_folder

MODELS = ("student", "teacher")
KEY = "--tasks"


@dataclass(frozen=True)
class MtebRequest:
    """What the command asks for."""

    run: str
    tasks: list[str]
    models: list[str]
    runs_dir: str


def run_mteb(request: MtebRequest) -> Table:
    """Score the models, write `mteb.json` into the run, and return the table; see `score_run`.

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
    run = Run(folder, folder)
    results = score_run(run, find_mteb_tasks(request.tasks, KEY), request.models, KEY)
    return mteb_table(results, run.read_json("evaluation.json") if (run.path / "evaluation.json").is_file() else {})
