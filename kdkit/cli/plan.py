"""The verb `plan`."""

from typing import Annotated

import typer

from kdkit.cli.options import ConfigFile, Debug, Parameters

plan_app = typer.Typer()


@plan_app.command()
def plan(
    config: ConfigFile,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="p100, t4, t4x2, cpu, or auto: this machine, one P100 if it has none.")
    ] = "auto",
    parameter: Parameters = [],  # noqa: B006
    debug: Debug = False,
) -> None:
    """Say what a run will take before it is run: memory item by item, disk, time, and what to change if it is too much.

    From the configuration alone: no weights are downloaded, and no GPU is needed. Examples:

    python -m kdkit plan configs/p100.yaml --device t4

    python -m kdkit plan configs/t4x2.yaml --device t4x2 -p data.max_length=1024
    """
    from kdkit.planning.plan import describe_plan, plan_file

    print(describe_plan(plan_file(config, parameter, device), config))
