"""The verb `sweep`."""

from typing import Annotated

import typer

from kdkit.cli.options import Debug, Parameters, RunsDir, Verbose, interruptible

sweep_app = typer.Typer()


@sweep_app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="A YAML file of variants; with --grid that of one run.")],
    grid: Annotated[
        list[str], typer.Option(metavar="SECTION.KEY=A,B,C", help="Vary a setting; several make all combinations.")
    ] = [],  # noqa: B006 - typer reads the default and never changes it
    parameter: Parameters = [],  # noqa: B006
    seeds: Annotated[
        str,
        typer.Option(
            metavar="N or N,N",
            help="Seeds: 0,1 or 7, are these; a number alone is how many, of a file of variants the seed.",
        ),
    ] = "",
    only: Annotated[str, typer.Option(metavar="VARIANT,...", help="Train these variants only.")] = "",
    search: Annotated[
        list[str],
        typer.Option(metavar="SECTION.KEY=LOW:HIGH[:log]", help="Let Optuna choose a setting, from a range or values."),
    ] = [],  # noqa: B006
    trials: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trials of a search, in all.  [default: 20]")
    ] = None,
    processes: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Train N runs at once in processes of their own; 0: all in this one."),
    ] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Train a grid of more than 50 runs without asking.")] = False,
    name: Annotated[str, typer.Option(help="Name of the sweep's folder; default: made as a run's.")] = "",
    runs_dir: RunsDir = "runs",
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train variants of one configuration over several seeds, and test which differences are real.

    Finished runs are skipped, so the same command goes on after Ctrl-C, and started twice the two share the runs; one
    that fails does not stop the others.

    Examples:
    python -m kdkit sweep configs/ablation_router.yaml

    python -m kdkit sweep configs/ablation_embedding.yaml --seeds 0

    python -m kdkit sweep configs/ablation_router.yaml --only all-experts,knowledge-augmentation --seeds 0

    python -m kdkit sweep configs/demo.yaml --grid distill.temperature=1.5,2,3 --grid distill.kd_ratio=0.3,0.9 --seeds 3

    python -m kdkit sweep configs/demo.yaml --grid "distill.loss=jsd,{name: alm}" --seeds 0,1 --processes 2

    python -m kdkit sweep configs/demo.yaml --search distill.temperature=1:8:log --search distill.kd_ratio=0:1
    """
    from kdkit.workflow.several.sweep import SweepRequest, run_sweep

    request = SweepRequest(file, parameter, name, runs_dir, only, seeds, verbose, grid, processes, yes, search, trials)
    with interruptible("nothing was begun"):
        if search:
            from kdkit.workflow.search.search import run_search

            finished = run_search(request)
        else:
            finished = run_sweep(request)
    print(f"report: {finished.path / 'report.html'}")
