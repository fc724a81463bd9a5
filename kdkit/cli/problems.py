"""The verb that lists the kinds of maths problems: problems."""

from typing import Annotated

import typer

from kdkit.cli.options import Debug, interruptible

problems_app = typer.Typer(rich_markup_mode=None)


@problems_app.command()
def problems(
    domain: Annotated[str, typer.Option(metavar="DOMAIN", help="Only of this field; else all of them.")] = "",
    debug: Debug = False,
) -> None:
    """List the kinds of maths problems with their levels and an example: the names of `maths.problems.templates`.

    They have these names in settings and in reports. Examples:

    python -m kdkit problems

    python -m kdkit problems --domain linear_algebra
    """
    from kdkit.maths.problems.describe import list_problems

    with interruptible("nothing is changed"):
        print(list_problems(domain), end="")
