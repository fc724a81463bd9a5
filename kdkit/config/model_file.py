"""A model's sizes in a JSON file of their own, in the names of this kit or those that other toolkits use."""

import json
from pathlib import Path
from typing import Any

from kdkit.errors import UserError

NAMES = {
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "attention_dropout": "dropout",
    "max_position_embeddings": "max_length",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
}
"""Names in such files, and the setting of `student.build` that each one means."""


def read_model_file(path: str, key: str) -> dict[str, Any]:
    """Read the sizes of a model to build.

    Args:
        path: a .json file, such as `{"vocab_size": 30000, "hidden_size": 384, "num_layers": 6, ...}`.
        key: the setting that named it, for messages.

    Raises:
        UserError: no such file, not JSON, not an object, or a size under two names.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(
            f"{key}: expected sizes, or a .json file with them, got {path!r}, which is not there; correct the path"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: expected JSON in {path!r}, got: {error}; correct the file") from None
    if not isinstance(values, dict):
        raise UserError(f"{key}: expected an object of sizes in {path!r}, got {type(values).__name__}; write {{...}}")
    sizes: dict[str, Any] = {}
    for name, value in values.items():
        if (meant := NAMES.get(name, name)) in sizes:
            raise UserError(f"{key}: expected {meant} once in {path!r}, got it also as {name!r}; keep one")
        sizes[meant] = value
    return sizes
