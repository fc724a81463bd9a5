"""GGUF files: what stands in the header of one, checked before llama.cpp is given the file.

llama.cpp stops the whole process at some damaged files, so the header is read here first: its length, its counts and
the place of every tensor. The format: ggml-org/ggml, docs/gguf.md.
"""

import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from kdkit.errors import UserError
from kdkit.runs.paths import resolve_input

VERSIONS = (2, 3)
MAX_ENTRIES = 1_000_000
"""Metadata entries or tensors at most: no model has so many, and a damaged count would be believed."""
ALIGNMENT = 32
STRING, ARRAY = 8, 9
FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""How the values of fixed size are packed, by the number of their type."""
INSTALL = "pip install 'kdkit[gguf]'"


@dataclass(frozen=True)
class GGUFHeader:
    """What a file says of itself."""

    path: Path
    metadata: dict[str, Any]
    """By llama.cpp's names; of a list its length alone."""
    parameters: int
    weight_types: dict[str, int]
    """Parameters by how they are stored, such as `{"Q4_1": 106168320, "Q8_0": 28311552}`; the most frequent first."""

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return self.metadata["general.architecture"]

    @property
    def context(self) -> int | None:
        """Most tokens that it was made to read; None: not said."""
        return self.metadata.get(f"{self.architecture}.context_length")

    @property
    def quantisation(self) -> str:
        """How most of its weights are stored."""
        return next(iter(self.weight_types))


def is_gguf(path: str) -> bool:
    """Return whether a model's path names a GGUF file."""
    return path.lower().endswith(".gguf")


def resolve_gguf(path: str, key: str) -> Path:
    """Return the file that a path names.

    Raises:
        UserError: it does not exist.
    """
    file = resolve_input(path)
    if not file.is_file():
        raise UserError(
            f"{key}: expected a GGUF file, got {path!r}, which does not exist (in {Path.cwd()}); correct the path"
        )
    return file


def read_gguf_header(path: str, key: str) -> GGUFHeader:
    """Read the header of a file and check that all it names is there.

    Args:
        path: of a .gguf file.
        key: the setting that named it, for messages.

    Raises:
        UserError: no such file; another format or version; a header that does not hold together; a file cut short; no
            language model; no package `gguf`.
    """
    file = resolve_gguf(path, key)
    size = file.stat().st_size
    with file.open("rb") as stream:
        magic = stream.read(4)
        if magic != b"GGUF":
            raise UserError(
                f"{key}: expected a GGUF file, got {path!r}, which begins with {magic!r}, not 'GGUF'; name the .gguf "
                "file itself, or a folder of transformers"
            )
        try:
            header, needed = _parse(stream, file, size)
        except (struct.error, _DamagedError, UnicodeDecodeError) as error:
            raise UserError(
                f"{key}: expected a whole GGUF file, got {path!r} ({size:,} bytes), whose header is cut short or "
                f"damaged ({error}); copy it again"
            ) from None
    if size < needed:
        raise UserError(
            f"{key}: expected a GGUF file of {needed:,} bytes, as its header says, got {path!r} with {size:,}; it is "
            "cut short, copy it again"
        )
    _check_kind(header, path, key)
    return header


class _DamagedError(Exception):
    """A header that does not hold together."""


def _parse(stream: BinaryIO, file: Path, size: int) -> tuple[GGUFHeader, int]:
    """Read metadata and the table of tensors; return them with the bytes that the file must have."""
    (version,) = _unpack(stream, "<I")
    if version not in VERSIONS:
        raise _DamagedError(f"version {version}, expected 2 or 3, little-endian")
    num_tensors, num_values = _unpack(stream, "<QQ")
    if max(num_tensors, num_values) > MAX_ENTRIES:
        raise _DamagedError(f"{num_tensors} tensors and {num_values} values")
    metadata = {}
    for _ in range(num_values):
        name = _string(stream, size)
        metadata[name] = _value(stream, size, *_unpack(stream, "<I"))
    if not isinstance(metadata.get("general.architecture"), str):
        raise _DamagedError("no general.architecture")
    types, end, parameters = Counter(), 0, 0
    sizes = _block_sizes()
    for _ in range(num_tensors):
        name, (num_dims,) = _string(stream, size), _unpack(stream, "<I")
        if num_dims > 4:
            raise _DamagedError(f"{num_dims} dimensions of {name!r}")
        shape = _unpack(stream, f"<{num_dims}Q")
        kind, offset = _unpack(stream, "<IQ")
        if kind not in sizes:
            raise _DamagedError(f"weights of the unknown type {kind}")
        label, block, num_bytes = sizes[kind]
        types[label] += prod(shape)
        end = max(end, offset + prod(shape) // block * num_bytes)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _DamagedError(f"general.alignment {alignment!r}")
    parameters = sum(types.values())
    start = -(-stream.tell() // alignment) * alignment
    return GGUFHeader(file, metadata, parameters, dict(types.most_common())), start + end


def _check_kind(header: GGUFHeader, path: str, key: str) -> None:
    """Refuse files that hold something else than a causal language model with its vocabulary."""
    kind = header.metadata.get("general.type", "model")
    causal = header.metadata.get(f"{header.architecture}.attention.causal", True)
    if kind != "model" or not causal or not header.parameters:
        what = "no weights" if not header.parameters else "an encoder" if not causal else f"a file of type {kind!r}"
        raise UserError(
            f"{key}: expected a GGUF file of a causal language model, got {what} in {path!r} (architecture "
            f"{header.architecture!r}); name another file"
        )
    if "tokenizer.ggml.tokens" not in header.metadata:
        raise UserError(f"{key}: expected a GGUF file with its vocabulary, got none in {path!r}; name another file")


def _block_sizes() -> dict[int, tuple[str, int, int]]:
    """Return the name, the weights and the bytes of a block, by the number of a type."""
    try:
        from gguf import GGML_QUANT_SIZES
    except ModuleNotFoundError:
        raise UserError(f"GGUF: expected the Python package 'gguf', got none; {INSTALL}") from None
    return {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


def _unpack(stream: BinaryIO, pattern: str) -> tuple[Any, ...]:
    return struct.unpack(pattern, stream.read(struct.calcsize(pattern)))


def _string(stream: BinaryIO, size: int) -> str:
    (length,) = _unpack(stream, "<Q")
    if length > size - stream.tell():
        raise _DamagedError(f"a text of {length} bytes")
    return stream.read(length).decode("utf-8", errors="replace")


def _value(stream: BinaryIO, size: int, kind: int) -> Any:
    """Read a value; of a list its length."""
    if kind == STRING:
        return _string(stream, size)
    if kind != ARRAY:
        if kind not in FORMATS:
            raise _DamagedError(f"a value of the unknown type {kind}")
        return _unpack(stream, FORMATS[kind])[0]
    of, length = _unpack(stream, "<IQ")
    if of in FORMATS:
        width = struct.calcsize(FORMATS[of]) * length
        if width > size - stream.tell():
            raise _DamagedError(f"a list of {length} values")
        stream.seek(width, 1)
    elif of == STRING:
        for _ in range(length):
            (width,) = _unpack(stream, "<Q")
            if width > size - stream.tell():
                raise _DamagedError(f"a text of {width} bytes")
            stream.seek(width, 1)
    else:
        raise _DamagedError(f"a list of the type {of}")
    return length
