"""The verb of solved problems: solve."""

from typing import Annotated

import typer

from kdkit.cli.options import Debug, RunsDir, interruptible

solve_app = typer.Typer(rich_markup_mode=None)


@solve_app.command()
def solve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run that learnt to solve problems.")],
    problem: Annotated[str, typer.Option(metavar="TEXT", help="A problem, in plain text or LaTeX.")] = "",
    random: Annotated[bool, typer.Option("--random", help="Draw one of the run's held-out problems.")] = False,
    file: Annotated[str, typer.Option(metavar="FILE", help="A .json or .jsonl file of problems with answers.")] = "",
    model: Annotated[str, typer.Option(help="Of the run: teacher, student, baseline.")] = "student",
    samples: Annotated[
        int, typer.Option(min=1, help="Solutions to choose from, by steps and a vote; 1: the greedy one.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    html: Annotated[str, typer.Option(metavar="FILE", help="Also write a page that needs no other file.")] = "",
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Solve a problem step by step; every step and the answer are checked.

    Examples:
    python -m kdkit solve maths_demo --problem "Find the derivative of f(x) = x³ - 2x² + 4x - 1"

    python -m kdkit solve maths_demo --random --seed 3 --samples 8 --html solution.html

    python -m kdkit solve maths_demo --file problems.jsonl --model teacher
    """
    from kdkit.report.maths.solution import LEGEND
    from kdkit.workflow.solve import SolveRequest, describe_solved, solve_problems

    request = SolveRequest(run, problem, random, file, model, samples, seed, html, runs_dir)
    with interruptible("nothing is kept"):
        solved = solve_problems(request)
    print("\n\n".join(each.to_text() for each in solved))
    print(f"\n{LEGEND}")
    if len(solved) > 1:
        print(describe_solved(solved))
    if html:
        print(f"page: {html}")
