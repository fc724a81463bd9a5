"""Every setting for a terminal: `python -m kdkit settings [WORD]`, from the same rows as docs/settings.md."""

import difflib
import re
import textwrap

from kdkit.config.describe import Part, settings_parts
from kdkit.config.embeddings import ALIASES as EMBEDDING_ALIASES
from kdkit.config.language import ALIASES
from kdkit.errors import UserError

WIDTH = 100


def list_settings(wanted: str = "") -> str:
    """Return settings with what they take, their default and their meaning, in lines of at most 100 columns.

    Args:
        wanted: a section (`distill`, `teacher.build`, `masking` of `train.masking`), a setting
            (`distill.temperature`, or another name of it), a loss or a method by its name; else a word that names,
            values or meanings of settings hold; empty: all.

    Raises:
        UserError: there is nothing of that name; the nearest one is the first suggestion.
    """
    parts = settings_parts()
    aliases = EMBEDDING_ALIASES | ALIASES
    name = next((key for alias, key in aliases.items() if wanted in (alias, alias.rpartition(".")[2])), wanted)
    found = [part for part in parts if not name or part.name == name or part.name.startswith(f"{name}.")]
    found = found or [part for part in parts if part.is_section and part.name.rpartition(".")[2] == name]
    found += [part for part in parts if name and part.group.lower() == name.lower()]
    found = found or [chosen for part in parts if (chosen := part.only(name)).settings]
    found = found or [chosen for part in parts if (chosen := part.about(wanted.strip())).settings]
    if not found:
        known = {part.name for part in parts} | {setting.name for part in parts for setting in part.settings}
        known |= {full.rpartition(".")[2] for full in known}
        near = difflib.get_close_matches(wanted, sorted(known), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        sections = dict.fromkeys(part.name.partition(".")[0] for part in parts if part.is_section)
        raise UserError(
            f"settings: {hint}Got {wanted!r}, expected a section ({', '.join(sections)}), losses, methods, the name of "
            "a setting, a loss or a method, or a word that settings are about"
        )
    return "\n\n".join(_lines(part) for part in found)


def _lines(part: Part) -> str:
    """Write one part: a heading, its words, and every setting with its meaning below it."""
    lines = [f"# {part.group}: {part.name}", *textwrap.wrap(_plain(part.words), WIDTH)]
    for setting in part.settings:
        default = f", default {_plain(setting.default)}" if setting.default else ""
        head = f"{setting.name}: {_plain(setting.takes)}{default}"
        lines += textwrap.wrap(head, WIDTH, subsequent_indent="        ", break_on_hyphens=False)
        lines += textwrap.wrap(_plain(setting.meaning), WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Remove the marks of Markdown."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").replace("\\|", "|")
