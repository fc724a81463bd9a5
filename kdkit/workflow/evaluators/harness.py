"""The verb `lm-eval`: a run's models on tasks of EleutherAI's harness, beside each other."""

from dataclasses import dataclass

from kdkit.data.prepare import open_data
from kdkit.evaluate.harness.score import Asking, score_run
from kdkit.evaluate.harness.tasks import open_tasks
from kdkit.machine.open_session import open_trained_session
from kdkit.report.measures.harness import harness_table
from kdkit.report.tables import Table
from kdkit.workflow.writers import run_folder


@dataclass(frozen=True)
class HarnessRequest:
    """What the command asks for."""

    run: str
    """Its name or its folder."""
    tasks: list[str]
    models: list[str]
    """Empty: all of the run."""
    asking: Asking
    runs_dir: str


def run_harness(request: HarnessRequest) -> Table:
    """Score the models, write `lm_eval.json` into the run, and return the table; see `score_run`.

    Raises:
        UserError: no such run, or one without a student; see also `open_tasks` and `score_run`.
    """
    folder = run_folder(request.run, request.runs_dir)
    name, runs_dir = (folder.name, folder.resolve().parent) if folder is not None else (request.run, request.runs_dir)
    session = open_trained_session(name, runs_dir=runs_dir)  # which says what there is, where this is not
    tasks = open_tasks(request.tasks)
    results = score_run(session, open_data(session.run.path / "data"), tasks, request.models, request.asking)
    return harness_table(results)
