"""The package as Kaggle gets it: a folder for a data set, or a cell that unpacks it."""

import base64
import io
import json
import lzma
import shutil
import tarfile
from pathlib import Path

import kdkit
from kdkit.errors import UserError
from kdkit.runs.folder import fingerprint_files

COMMANDS = ("kdkit/workflow/kaggle/", "kdkit/workflow/search/", "kdkit/workflow/deploy/", "kdkit/workflow/machines/")
"""What commands use and no notebook: left out of a cell, which must stay below 1 MB."""
FOLDER = "package"
"""Beside the kernels' folders."""
DATASET_FILE = "dataset-metadata.json"
UNPACK = """\
# The package itself: this kernel needs no data set. It is unpacked where nothing is kept after the session.
import base64
import io
import sys
import tarfile
import tempfile

place = f"{{tempfile.gettempdir()}}/kdkit-{key}"
package = io.BytesIO(base64.b85decode("{text}"))
tarfile.open(fileobj=package, mode="r:xz").extractall(place, filter="data")
sys.path.insert(0, place)
"""


def files_of_package(root: Path) -> dict[str, Path]:
    """Return what the notebooks need on another machine, by its path there.

    Args:
        root: the project, from `find_root`.
    """
    source = Path(kdkit.__file__).parent
    inside = [path for path in sorted(source.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    files = {f"kdkit/{path.relative_to(source).as_posix()}": path for path in inside}
    for pattern in ("configs/*.yaml", "notebooks/*.ipynb", "requirements.txt", "LICENSE"):
        files |= {path.relative_to(root).as_posix(): path for path in sorted(root.glob(pattern))}
    return files


def write_package(root: Path, folder: Path, owner: str, slug: str) -> Path:
    """Write the folder of a data set with the package and its `dataset-metadata.json`.

    Raises:
        UserError: something else lies in the folder.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / DATASET_FILE).is_file():
            raise UserError(
                f"kaggle render: expected an empty folder or an earlier package, got {folder}; "
                "choose another: --to FOLDER"
            )
        shutil.rmtree(folder)
    for name, path in files_of_package(root).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    values = {"id": f"{owner}/{slug}", "title": slug.replace("-", " "), "licenses": [{"name": "other"}]}
    (folder / DATASET_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return folder


def unpacking_cell(root: Path) -> str:
    """Return a cell that brings the package along: about 0.95 MB of text, of the one that Kaggle allows.

    It holds no notebook but the one by which the project is found, and nothing that only commands use.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, path in files_of_package(root).items():
            if not name.startswith(("notebooks/", *COMMANDS)) or name == "notebooks/01_data.ipynb":
                entry, content = tarfile.TarInfo(name), path.read_bytes()
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
    text = base64.b85encode(lzma.compress(archive.getvalue(), preset=9)).decode()
    return UNPACK.format(key=fingerprint_files(Path(kdkit.__file__).parent), text=text)
