"""Nested settings as plain values: flattening, aliases, overrides, suggestions. Knows no schema."""

import copy
import difflib
from pathlib import Path
from typing import Any

import yaml

from kdkit.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is written twice, and an anchor that holds itself.

    Of a key written twice the first value would be lost without a word.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self._open: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value; its anchor is open until the value is whole."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open:
            raise yaml.MarkedYAMLError(
                problem=f"the anchor {event.anchor!r} within itself", problem_mark=event.start_mark
            )
        self._open.append("" if isinstance(event, yaml.AliasEvent) else event.anchor or "")
        node = super().compose_node(parent, index)
        self._open.pop()
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Compose a mapping, and compare its keys as they are written."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return node


def load_yaml(text: str) -> Any:
    """Return what YAML says: plain values only, no objects of Python.

    Raises:
        yaml.YAMLError: no YAML, a key written twice, an anchor within itself, a value that does not exist (30
            February), brackets too deep.
    """
    try:
        return yaml.load(text, _Loader)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from None


def expand_home(path: str | Path) -> Path:
    """Return a path with `~` resolved; that of a user who does not exist stays as it is, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into `{"section.key": value}`."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def apply_override(values: dict[str, Any], override: str, aliases: dict[str, str]) -> None:
    """Set one `section.key=value` in nested values, in place; the value is read as YAML.

    Raises:
        UserError: no `=`, or a section that is a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"-p: expected section.key=value, got {override!r}; write e.g. distill.temperature=2")
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        value = text
    if "\n" in text and not isinstance(value, dict | list) and text.lstrip()[:1] not in ("'", '"'):
        value = text  # YAML would fold line ends, or drop them
    *sections, last = aliases.get(key.strip(), key.strip()).split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(
                f"-p: expected a section before the dot, got {override!r}; `{section}` holds a value: set it whole, "
                f"-p {section}=..."
            )
    values[last] = value


def resolve_aliases(values: dict[str, Any], aliases: dict[str, str]) -> dict[str, Any]:
    """Replace aliases in the sections by the declared keys.

    Args:
        aliases: `{"section.alias": "section.key"}`; the key may lie deeper, as `section.part.key`.

    Raises:
        UserError: a key and its alias are both given, or a part that is a value.
    """
    resolved = {}
    for section, content in values.items():
        if isinstance(content, dict):
            names = {key: aliases.get(f"{section}.{key}", f"{section}.{key}").split(".")[1:] for key in content}
            renamed = copy.deepcopy({key: value for key, value in content.items() if names[key] == [key]})
            for key, (*parts, last) in names.items():
                if [*parts, last] != [key]:
                    _place(renamed, parts, last, content[key], f"{section}.{key}")
            content = renamed
        resolved[section] = content
    return resolved


def _place(content: dict[str, Any], parts: list[str], last: str, value: object, given: str) -> None:
    """Set a value inside the parts of a section, in place, which may not hold it yet.

    Args:
        given: the alias, for messages.
    """
    for part in parts:
        content = content.setdefault(part, {})
        if not isinstance(content, dict):
            raise UserError(f"{given}: expected {part} to hold settings, got {content!r}; set them there, one by one")
    if last in content:
        raise UserError(f"{given}: expected one of {last} and its alias, got both; keep one")
    content[last] = value


def suggest_key(path: str, known: list[str]) -> str:
    """Say what an unknown key was probably meant to be, or what is known in its section.

    Args:
        path: `section.key`.
        known: all keys that there are, as paths.
    """
    section, _, key = path.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    near = [siblings[name] for name in difflib.get_close_matches(key, siblings, n=1)]
    near = near or difflib.get_close_matches(path, known, n=1, cutoff=0.75)
    same_name = [name for name in known if name.rpartition(".")[2] == key]
    hint = (near or same_name)[:1]
    return f"did you mean {hint[0]!r}?" if hint else f"known here: {', '.join(siblings)}"
