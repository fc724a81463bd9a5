"""Reading a configuration file and checking it against a schema; what a user reads where it does not fit."""

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from kdkit.config.built.from_teacher import start_options
from kdkit.config.losses import loss_options
from kdkit.config.types import BUILD, Section
from kdkit.config.values import apply_override, expand_home, flatten, load_yaml, resolve_aliases, suggest_key
from kdkit.errors import UserError

Schema = TypeVar("Schema", bound=Section)

CHOSEN_BY_NAME = ("loss", "divergence", "method", "from_teacher")
"""Settings that are a name with options: pydantic puts the name between the key and the option."""

MOST_SHOWN = 300
"""Characters of a value in a message."""

MODEL_FILE_NAMES = {
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "attention_dropout": "dropout",
    "max_position_embeddings": "max_length",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "tie_word_embeddings": "tie_embeddings",
}
"""Names in such files, and the setting of `student.build` that each one means."""


def read_values(path: str | Path) -> dict[str, Any]:
    """Read the nested values of a YAML file.

    Raises:
        UserError: no such file, not YAML, or no sections in it.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        has = f"{path.parent} has {', '.join(near)}" if near else f"there is no YAML file in {path.parent}"
        raise UserError(f"config: expected a YAML file, got {str(path)!r}, which does not exist; {has}")
    try:
        values = load_yaml(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config: expected YAML in {str(path)!r}, got: {reason}; correct the file") from None
    if not isinstance(values, dict):
        raise UserError(
            f"config: expected sections such as `train:` in {str(path)!r}, got {type(values).__name__}; "
            "see configs/demo.yaml"
        )
    return values


def read_model_file(path: str, key: str) -> dict[str, Any]:
    """Read the sizes of a model to build.

    Args:
        path: a .json file, such as `{"vocab_size": 30000, "hidden_size": 384, "num_layers": 6, ...}`.
        key: the setting that named it, for messages.

    Raises:
        UserError: no such file, not JSON, not an object, or a size under two names.
    """
    try:
        values = json.loads(expand_home(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = "which is not there" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(
            f"{key}: expected sizes, or a .json file with them, got {path!r}, {reason}; correct the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}: expected JSON in {path!r}, got: {error}; correct the file") from None
    if not isinstance(values, dict):
        raise UserError(f"{key}: expected an object of sizes in {path!r}, got {type(values).__name__}; write {{...}}")
    sizes: dict[str, Any] = {}
    for name, value in values.items():
        if (meant := MODEL_FILE_NAMES.get(name, name)) in sizes:
            raise UserError(f"{key}: expected {meant} once in {path!r}, got it also as {name!r}; keep one")
        sizes[meant] = value
    return sizes


def apply_overrides(
    schema: type[Section], values: dict[str, Any], overrides: list[str], aliases: dict[str, str]
) -> dict[str, Any]:
    """Return the values of a file with `section.key=value` items applied to them."""
    fields = schema.model_fields.items()
    sections = [name for name, f in fields if isinstance(f.annotation, type) and issubclass(f.annotation, Section)]
    # a section whose keys are all commented out reads as null
    values = values | {name: {} for name in sections if name in values and values[name] is None}
    values = resolve_aliases(values, aliases)
    for override in overrides:
        apply_override(values, override, aliases)
    return values


def check_values(
    schema: type[Schema], values: dict[str, Any], aliases: dict[str, str], options: dict[str, list[str]] | None = None
) -> Schema:
    """Check nested values against a schema.

    Args:
        options: of everything that is chosen by name, for messages; None: those of losses and starts.

    Raises:
        UserError: unknown key, wrong type, value out of range.
    """
    try:
        return schema.model_validate(resolve_aliases(values, aliases))
    except ValidationError as error:
        known = [*flatten(schema().model_dump()), *schema.model_fields, *aliases]
        raise UserError(
            _describe(error, known, loss_options() | start_options() if options is None else options)
        ) from None


def unread_sizes(config: Section) -> list[str]:
    """Say which settings of models to build nobody reads, as `path` names a model that is there; a sentence per model.

    No error: `-p teacher.path=...` beside a file that builds its teacher is how another one is tried.
    """
    values, defaults = config.model_dump(), type(config)().model_dump()
    models = [(name, values[name], defaults[name]) for name in ("teacher", "student")]
    members = values.get("teachers", {}).get("members", [])
    models += [(f"teachers.members.{member['name']}", member, defaults["teacher"]) for member in members]
    sentences = []
    for key, model, default in models:
        unread = [name for name, value in model.get("build", {}).items() if value != default["build"][name]]
        start, reason = model.get("from_teacher"), f"{key}.path is {model['path']!r}, not 'build'"
        if start:  # what its own tokenizer is trained by
            unread = [name for name in unread if start["tokenizer"] != "own" or name not in ("vocab_size", "digits")]
            reason = f"{key}.from_teacher is set"
        if unread and (start or model["path"] != BUILD):
            listed = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
            sentences.append(f"{key}.build is not read ({listed}), as {reason}")
    return sentences


def _describe(error: ValidationError, known: list[str], options: dict[str, list[str]]) -> str:
    """Turn the first problem that pydantic found into one line a user can act on."""
    first = error.errors()[0]
    loc = [_shown(str(part), "") for part in first["loc"]]
    # pydantic names the chosen loss between the key and its option: distill.loss.jsd.skew
    chosen = [part for part, before in zip(loc[1:], loc, strict=False) if before in CHOSEN_BY_NAME]
    # and, of a setting that may be one of several types, the type that it tried
    keys = [part for i, part in enumerate(loc) if not (i and loc[i - 1] in CHOSEN_BY_NAME) and "[" not in part]
    path = ".".join(keys)
    value, expected, near = first["input"], "", ""
    if first["type"] == "extra_forbidden":
        if chosen and chosen[-1] in options:
            takes = ", ".join(options[chosen[-1]]) or "no option"
            return f"{path}: expected an option that {chosen[-1]!r} takes ({takes}), got {loc[-1]!r}; leave it out"
        return f"{path}: expected a known key, got {path!r}; {suggest_key(path, known)}"
    context = first.get("ctx", {})
    if isinstance(context.get("error"), UserError):
        return str(context["error"])
    if first["type"] == "union_tag_invalid":
        value, expected = context["tag"], context["expected_tags"]
        near = _suggest_value(value, expected)
    elif first["type"] == "literal_error":
        near = _suggest_value(value, context["expected"])
    elif first["type"] == "union_tag_not_found":
        word = "kind" if loc[-1] == "from_teacher" else "name"
        expected = f"a {word}, or {{{word}: ..., options}}"
    elif first["type"] in ("too_long", "too_short"):
        limit = context.get("max_length", context.get("min_length"))
        expected = f"{'at most' if first['type'] == 'too_long' else 'at least'} {limit} items"
    constraint = expected or first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    more = f" ({len(error.errors()) - 1} more problem(s) after this one)" if len(error.errors()) > 1 else ""
    if near:
        return f"{path}: {near}Got {_shown(value)}, expected {constraint}; correct the value{more}"
    remedy = context.get("remedy", "correct the value")
    return f"{path}: expected {constraint}, got {_shown(value)} ({type(value).__name__}); {remedy}{more}"


def _shown(value: object, quote: str = "'") -> str:
    """Write a value on one line, and no more of it than a person reads.

    Args:
        quote: around a text; empty: none.
    """
    text = repr(value)
    text = text if quote or not isinstance(value, str) else text[1:-1]
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}... ({len(text):,} characters)"


def _suggest_value(value: object, expected: str) -> str:
    """Return which of the values in quotes was probably meant, as the beginning of a message; empty: none is near."""
    if not isinstance(value, str):
        return ""
    near = difflib.get_close_matches(value, re.findall(r"'([^']*)'", expected), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
