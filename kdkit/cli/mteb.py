"""The verb that asks another evaluator: mteb."""

from typing import Annotated

import typer

from kdkit.cli.options import Debug, RunsDir, interruptible

mteb_app = typer.Typer(rich_markup_mode=None)


@mteb_app.command()
def mteb(
    run: Annotated[str, typer.Argument(help="A run of embedding models.")],
    tasks: Annotated[str, typer.Option(metavar="TASK,...", help="Names of MTEB: STSBenchmark,SciFact.")],
    models: Annotated[str, typer.Option(metavar="MODEL,...", help="student, teacher.")] = "student",
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Score a run's embedding models by the package mteb, beside the run's own scores (pip install "kdkit[mteb]").

    The data come from the hub; scores are kept in mteb.json of the run. Example:

    python -m kdkit mteb embedding_tasks --tasks STSBenchmark,Banking77Classification --models student,teacher
    """
    from kdkit.report.terminal import to_text
    from kdkit.workflow.vectors.mteb import MtebRequest, run_mteb

    wanted, which = ([part.strip() for part in words.split(",") if part.strip()] for words in (tasks, models))
    request = MtebRequest(run, wanted, which, runs_dir)
    with interruptible("nothing is kept"):
        print(to_text(run_mteb(request)))
