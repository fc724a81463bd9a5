"""A small run on conversations of two kinds, with two teachers of other tokenizers and templates, for tests."""

import json
from pathlib import Path
from typing import Any

from kdkit.config.language import Config
from tests.tiny import WORDS, make_config

LINES = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""A template of text alone."""
SEA = "ship sails harbour wall bell deep water noon rope anchor gull storm".split()  # noqa: SIM905


def write_chats(folder: Path, odd_rows: bool = False, rows: int = 60) -> dict[str, str]:
    """Write conversations of two kinds, whose words differ; return `data.sources`.

    Args:
        odd_rows: write `odd` into every fifth question.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = {}
    for kind, words in (("land", WORDS), ("sea", SEA)):
        lines = []
        for n in range(rows):
            said = [words[(n * 3 + i * (1 + n % 4)) % len(words)] for i in range(3 + n % 5)]
            name = "sails" if kind == "sea" else "fields"
            odd = "odd " * (odd_rows and n % 5 == 0)
            turns = [("user", f"{odd}{name} {n}?"), ("assistant", f"{name} {' '.join(said)} {n}.")]
            turns += [("user", f"{name} and {n + 1}?"), ("assistant", f"{name} {said[0]}!")] * (n % 3 == 0)
            lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
        (folder / f"{kind}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        sources[kind] = str(folder / f"{kind}.jsonl")
    return sources


def chat_committee(
    place: Path,
    teachers: dict[str, Any] | None = None,
    folder: Path | None = None,
    odd_rows: bool = False,
    **changes: Any,
) -> Config:
    """Return a configuration with two teachers that are built here: one reads ChatML, the other `LINES`.

    Args:
        folder: of the conversations; None: `place`.
        odd_rows: the second teacher's template changes every content with `odd` in it.
    """
    build = {"hidden_size": 16, "num_layers": 2, "moe_intermediate_size": 16, "max_steps": 4, "batch_size": 4}
    template = LINES
    if odd_rows:
        template = LINES.replace("message['content']", "message['content'] | replace('odd ', 'even ')")
    members = [
        {"name": "farmer", "trained_on": ["land"], "build": build | {"vocab_size": 330}},
        {"name": "sailor", "trained_on": ["sea"], "build": build | {"vocab_size": 300}, "chat_template": template},
    ]
    sources = write_chats(folder or place, odd_rows)
    data = {"sources": sources, "max_length": 96, "evaluation_fraction": 0.2, "near_duplicates": "keep"}
    data |= changes.pop("data", {})
    return make_config(place, data=data, teachers={"members": members} | (teachers or {}), **changes)
