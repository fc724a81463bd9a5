"""Rendering of kernels: for each entry of `kaggle_kernel.json` a folder that Kaggle's own client takes.

build/kaggle/package/    dataset-metadata.json   kdkit/ configs/ notebooks/ requirements.txt
build/kaggle/01_data/    kernel-metadata.json    01_data.ipynb, its parameters set
"""

import json
import shlex
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell

from kdkit.config.embeddings import load_embedding_config
from kdkit.config.language import load_config
from kdkit.config.values import suggest_key
from kdkit.errors import UserError
from kdkit.runs.folder import check_run_name
from kdkit.runs.messages import note
from kdkit.runs.open_run import is_for_embeddings
from kdkit.runs.paths import find_root
from kdkit.workflow.kaggle.package import FOLDER, unpacking_cell, write_package
from kdkit.workflow.kaggle.source import Kernel, Source
from kdkit.workflow.notebook import check_parameter_names, set_by_hand

METADATA = "kernel-metadata.json"
MAX_BYTES = 1_000_000
"""Kaggle: "The kernel source must be less than 1 megabytes in size."."""
INSTALL = """\
# Installs what Kaggle's image lacks; no package that is there is replaced.
from kdkit.workflow.kaggle.needs import install_missing

install_missing()
"""
LAUNCH = """\
# Trains in {num_processes} processes, a GPU for each, before this one touches them; the cells below find it trained.
from kdkit.workflow.helpers import launch_training

launch_training({num_processes}, CONFIG, OVERRIDES, RUN, RUNS_DIR)
"""
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def render(source: Source, folder: Path, only: list[str] | None = None, embed: bool = False) -> list[Path]:
    """Write the folders of kernels, and of the data set that carries the package.

    Args:
        folder: where they are written, one below it for each.
        only: entries, or their first two characters; none: all.
        embed: put the package into the notebooks in place of a data set.

    Returns:
        The folders, in the order in which they must be pushed.

    Raises:
        UserError: an entry, a notebook, a parameter or a configuration that is none.
    """
    root = find_root()
    chosen = [name for name in source.notebooks if name in {choose(word, source) for word in only or source.notebooks}]
    prepared = {name: prepare_notebook(source.notebooks[name], name, root) for name in chosen}
    written = [] if embed else [write_package(root, folder / FOLDER, source.owner, source.package)]
    first = [("kdkit-package", unpacking_cell(root))] if embed else []
    for name, notebook in prepared.items():
        after = [("kdkit-needs", INSTALL)] if source.notebooks[name].enable_internet else []
        text = nbformat.writes(_with_cells(notebook, first, after), indent=None)
        if len(text.encode()) > MAX_BYTES:
            raise UserError(
                f"kaggle render: expected less than 1 MB of {name}, which is all that Kaggle takes, got "
                f"{len(text.encode()) / 1e6:.2f} MB; let a data set carry the package: leave out --embed"
            )
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.ipynb").write_text(text, encoding="utf-8")
        values = metadata_of(source, name, embed)
        (place / METADATA).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        written.append(place)
    return written


def choose(word: str, source: Source) -> str:
    """Return the entry of a name or a number: `03` is `03_distill`.

    Raises:
        UserError: there is none.
    """
    found = [name for name in source.notebooks if word in (name, name[:2])]
    if not found:
        hint = suggest_key(word, list(source.notebooks))
        raise UserError(f"kaggle: expected an entry of kaggle_kernel.json, got {word!r}; {hint}")
    return found[0]


def metadata_of(source: Source, name: str, embed: bool = False) -> dict[str, Any]:
    """Return the `kernel-metadata.json` of an entry."""
    kernel = source.notebooks[name]
    package = [] if embed else [f"{source.owner}/{source.package}"]
    values = {
        "id": f"{source.owner}/{source.slug(name)}",
        "title": source.title(name),
        "code_file": f"{name}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": kernel.is_private,
        "enable_gpu": kernel.enable_gpu,
        "enable_tpu": False,
        "enable_internet": kernel.enable_internet,
        "dataset_sources": [*package, *kernel.dataset_sources],
        "kernel_sources": source.sources_of(name),
        "competition_sources": kernel.competition_sources,
        "model_sources": kernel.model_sources,
        "keywords": kernel.keywords,
    }
    if kernel.enable_gpu:  # it would switch the GPU on by itself
        values["machine_shape"] = kernel.machine_shape
    if kernel.docker_image_pinning_type is not None:
        values["docker_image_pinning_type"] = kernel.docker_image_pinning_type
    return values


def prepare_notebook(kernel: Kernel, name: str, root: Path) -> nbformat.NotebookNode:
    """Return an entry's notebook with its parameters set, as `papermill --prepare-only` does, and no output.

    Raises:
        UserError: no such notebook or configuration, or a parameter that it does not have.
    """
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    path = root / "notebooks" / f"{kernel.notebook or name}.ipynb"
    if not path.is_file():
        hint = suggest_key(path.stem, sorted(file.stem for file in path.parent.glob("*.ipynb")))
        raise UserError(f"kaggle: {name}: expected a notebook of {path.parent}, got {path.stem!r}; {hint}")
    known = check_parameter_names(path, list(kernel.parameters))
    set_by_us = {
        "CONFIG": kernel.config,
        "OVERRIDES": shlex.join(kernel.overrides),
        "RUN": check_run_name(kernel.run or Path(kernel.config).stem),
        "RESUME": True,  # goes on where an input holds a checkpoint, and begins where none does
    }
    judges = "CONFIG" not in known  # it takes the run's own settings
    set_by_us = {key: value for key, value in set_by_us.items() if key in known and not (judges and key == "OVERRIDES")}
    is_embedding = _check_config(kernel, name, root)
    if kernel.num_processes > 1 and (not is_embedding or kernel.parameters):
        raise UserError(
            f"kaggle: {name}.num_processes: expected 1 but for notebook 06 without `parameters` of its own, "
            f"got {kernel.num_processes}; a language model has its teacher on the second GPU; set 06 by `overrides`"
        )
    by_hand = set_by_hand(path)
    if left_out := ", ".join(name for name in by_hand if name not in kernel.parameters):
        note(f"{path.name} sets {left_out}: not used here, where kaggle_kernel.json decides")
    notebook = parameterize_notebook(load_notebook_node(str(path)), by_hand | set_by_us | kernel.parameters)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    place = next(n for n, cell in enumerate(notebook.cells) if "injected-parameters" in cell.metadata.get("tags", []))
    notebook.cells[place].id = "kdkit-parameters"  # else another one at every rendering
    if kernel.num_processes > 1:
        launch = LAUNCH.format(num_processes=kernel.num_processes).rstrip("\n")
        notebook.cells.insert(place + 1, new_code_cell(launch, id="kdkit-launch"))
    return notebook


def _check_config(kernel: Kernel, name: str, root: Path) -> bool:
    """Read the configuration of an entry as its notebook will; return whether it is for embeddings."""
    path = (root / kernel.config).resolve()
    if not (path.is_file() and path.is_relative_to((root / "configs").resolve())):
        known = sorted(f"configs/{file.name}" for file in (root / "configs").glob("*.yaml"))
        raise UserError(
            f"kaggle: {name}.config: expected a file of {root / 'configs'}, which travels with the package, got "
            f"{kernel.config!r}; {suggest_key(kernel.config, known)}"
        )
    is_embedding = is_for_embeddings(path)
    (load_embedding_config if is_embedding else load_config)(path, kernel.overrides)
    return is_embedding


def _with_cells(
    notebook: nbformat.NotebookNode, before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> nbformat.NotebookNode:
    """Put cells before and after the one that finds the package, the first with code."""
    place = next(number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    made = [[new_code_cell(text.rstrip("\n"), id=name) for name, text in cells] for cells in (before, after)]
    found = notebook.cells[place]
    notebook.cells[place : place + 1] = [*made[0], found, *made[1]]
    return notebook
