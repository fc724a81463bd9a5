"""The verb that trains without notebooks, in one process or in several: distill."""

import typer

from kdkit.cli.options import ConfigFile, Debug, Parameters, Resume, RunName, RunsDir, Verbose, interruptible

distill_app = typer.Typer(rich_markup_mode=None)


@distill_app.command()
def distill(
    config: ConfigFile,
    parameter: Parameters = [],  # noqa: B006 - typer reads the default and never changes it
    name: RunName = "",
    runs_dir: RunsDir = "runs",
    resume: Resume = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train what notebook 03 (or 06) trains, without notebooks; launched in several processes they train as one.

    `train.batch_size` is the part of each process. `kdkit run` then shows the training and does the rest. Examples:

    python -m kdkit distill configs/demo.yaml

    accelerate launch --config_file configs/accelerate/ddp_two_gpus.yaml -m kdkit distill configs/demo.yaml

    Ctrl-C saves the training at its present step and names the command that goes on.
    """
    from kdkit.workflow.machines.distill import DistillRequest, distill_run, trained_lines

    with interruptible("nothing was begun"):
        run = distill_run(DistillRequest(config, parameter, name, runs_dir, resume, verbose))
    if run.writes:
        print("\n".join(trained_lines(run)))
