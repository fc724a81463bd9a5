"""The verbs that ask other evaluators: mteb, lm-eval."""

from typing import Annotated

import typer

from kdkit.cli.options import Debug, RunsDir, interruptible

evaluators_app = typer.Typer(rich_markup_mode=None)


@evaluators_app.command()
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


@evaluators_app.command("lm-eval")
def lm_eval(
    run: Annotated[str, typer.Argument(help="A run of language models.")],
    tasks: Annotated[
        str, typer.Option(metavar="TASK,...", help="Names of the harness, .yaml files of tasks, or folders of them.")
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL,...", help="Of the run: teacher, student, baseline; default: all of them.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of a task at most; default: all.")] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Solved examples before each question; default: the task's own.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask by the models' chat template.")] = False,
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Score a run's language models by EleutherAI's harness, beside each other (pip install "kdkit[lm-eval]").

    Files of your own need no network; scores are kept in lm_eval.json of the run and shown in its report. Examples:

    python -m kdkit lm-eval demo --tasks hellaswag,piqa --limit 200

    python -m kdkit lm-eval demo --tasks my_tasks/ --model student,baseline
    """
    from kdkit.evaluate.harness.score import Asking
    from kdkit.report.terminal import to_text
    from kdkit.workflow.evaluators.harness import HarnessRequest, run_harness

    wanted, which = ([part.strip() for part in words.split(",") if part.strip()] for words in (tasks, model))
    request = HarnessRequest(run, wanted, which, Asking(limit, num_fewshot, chat), runs_dir)
    with interruptible("nothing is kept"):
        print(to_text(run_harness(request)))
