"""A small run with two teachers of two kinds of text, for tests."""

from pathlib import Path
from typing import Any

from kdkit.config.language import Config
from tests.tiny import make_config

SEA = "a tall ship sails past the grey harbour wall and its old bell rings across cold deep waters at noon".split()  # noqa: SIM905


def write_kinds(folder: Path, documents: int = 60) -> dict[str, str]:
    """Write texts of two kinds, whose words differ; return `data.sources`."""
    land = make_config(folder).data.path
    texts = []
    for number in range(documents):
        words = (SEA[(number * 3 + i * (1 + number % 4)) % len(SEA)] for i in range(4 + (number * 5) % 19))
        texts.append(f"{' '.join(words)} {number}!")
    (folder / "sea.txt").write_text("<|endoftext|>".join(texts), encoding="utf-8")
    return {"land": land, "sea": str(folder / "sea.txt")}


def committee_config(folder: Path, teachers: dict[str, Any] | None = None, **changes: Any) -> Config:
    """Return a configuration with two teachers that are built here, each on a kind of text, with other tokenizers."""
    build = {"hidden_size": 16, "num_layers": 2, "moe_intermediate_size": 16, "max_steps": 4, "batch_size": 4}
    members = [
        {"name": "farmer", "trained_on": ["land"], "build": build | {"vocab_size": 320}},
        {"name": "sailor", "trained_on": ["sea"], "build": build | {"vocab_size": 300, "num_layers": 3}},
    ]
    data = {"sources": write_kinds(folder), "max_length": 24, "evaluation_fraction": 0.2} | changes.pop("data", {})
    return make_config(folder, data=data, teachers={"members": members} | (teachers or {}), **changes)
