"""The verbs for Kaggle: render, push, status, output."""

from pathlib import Path
from typing import Annotated

import typer

from kdkit.cli.options import Debug, interruptible
from kdkit.errors import UserError

kaggle_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Notebooks at Kaggle: render kaggle_kernel.json; push, look and fetch, which need the package kaggle.",
)

Names = Annotated[
    list[str], typer.Argument(metavar="[NN ...]", help="Entries of kaggle_kernel.json: 01 02; none: all.")
]
Rendered = Annotated[str, typer.Option("--from", metavar="FOLDER", help="Where they were rendered.")]
FOLDER = "build/kaggle"


@kaggle_app.command()
def render(
    names: Names = [],  # noqa: B006
    owner: Annotated[str, typer.Option(help="Your name at Kaggle; default: as in the file, or KAGGLE_USERNAME.")] = "",
    to: Annotated[str, typer.Option(metavar="FOLDER", help="Where to write a folder for each.")] = FOLDER,
    source: Annotated[str, typer.Option(metavar="FILE", help="Default: kaggle_kernel.json of the repository.")] = "",
    embed: Annotated[bool, typer.Option("--embed", help="Put the package into the notebooks; no data set.")] = False,
    debug: Debug = False,
) -> None:
    """Write a folder for each notebook, with its metadata and its parameters, and one for the package.

    Example: python -m kdkit kaggle render --owner my-name
    """
    from kdkit.runs.paths import find_root
    from kdkit.workflow.kaggle.render import render as render_all
    from kdkit.workflow.kaggle.source import FILE, read_source

    read = read_source(Path(source) if source else find_root() / FILE, owner)
    for folder in render_all(read, Path(to), names, embed):
        print(folder)


@kaggle_app.command()
def push(names: Names = [], rendered: Rendered = FOLDER, debug: Debug = False) -> None:  # noqa: B006
    """Push rendered folders in order; each kernel runs at once, and the next one waits until it is complete.

    Example: python -m kdkit kaggle push package 01
    """
    from kdkit.workflow.kaggle import remote

    folders = _folders(names, Path(rendered))
    api = remote.open_api()
    with interruptible("what was pushed runs on at Kaggle: python -m kdkit kaggle status"):
        for number, folder in enumerate(folders):
            print(remote.push(folder, api), flush=True)
            if number < len(folders) - 1:
                print(f"{folder.name}: complete {remote.wait_for(folder, api)}".rstrip(), flush=True)


@kaggle_app.command()
def status(names: Names = [], rendered: Rendered = FOLDER, debug: Debug = False) -> None:  # noqa: B006
    """Say of each kernel whether it runs, has ended, or must go on in another session."""
    from kdkit.workflow.kaggle import remote

    folders = [folder for folder in _folders(names, Path(rendered)) if (folder / remote.METADATA).is_file()]
    api = remote.open_api()
    for folder in folders:
        state, words = remote.look_at(folder, api)
        print(f"{folder.name:<24} {state.lower()} {words}".rstrip())


@kaggle_app.command()
def output(
    name: Annotated[str, typer.Argument(metavar="NN", help="An entry: 03.")],
    rendered: Rendered = FOLDER,
    to: Annotated[str, typer.Option(metavar="FOLDER", help="Default: output/ in the kernel's folder.")] = "",
    debug: Debug = False,
) -> None:
    """Download what a kernel has left, its run folder among it, and its log."""
    from kdkit.workflow.kaggle import remote

    (folder,) = _folders([name], Path(rendered))
    place = Path(to) if to else folder / "output"
    for file in remote.fetch(folder, place, remote.open_api()):
        print(file)


def _folders(names: list[str], rendered: Path) -> list[Path]:
    """Return the rendered folders of some names or numbers; of none all, the package first."""
    found = sorted(path.parent for path in rendered.glob("*/*-metadata.json"))
    found.sort(key=lambda folder: folder.name != "package")
    if not found:
        raise UserError(f"kaggle: expected rendered kernels in {rendered}, got none; python -m kdkit kaggle render")
    chosen = []
    for name in names:
        match = [folder for folder in found if name in (folder.name, folder.name[:2])]
        if not match:
            raise UserError(
                f"kaggle: expected one of {', '.join(folder.name for folder in found)}, got {name!r}; render it first: "
                "python -m kdkit kaggle render"
            )
        chosen.append(match[0])
    return chosen or found
