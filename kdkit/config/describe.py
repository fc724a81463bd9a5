"""Every setting, from the schemas and their docstrings; as a page of Markdown it is docs/settings.md.

python -c "from kdkit.config.describe import describe_settings; print(describe_settings(), end='')" > docs/settings.md
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, get_args

from pydantic.fields import FieldInfo

from kdkit.config.built.from_teacher import AnyStart
from kdkit.config.built.lora import LoraSettings
from kdkit.config.embeddings import ALIASES as EMBEDDING_ALIASES
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import ALIASES, Config
from kdkit.config.losses import LossSettings
from kdkit.config.methods import AnyMethod
from kdkit.config.tasks import Task
from kdkit.config.teachers import MemberConfig
from kdkit.config.training import OnPolicy, ParameterRule, StageSettings
from kdkit.config.types import Section

COMMAND = "python -c \"from kdkit.config.describe import describe_settings; print(describe_settings(), end='')\""
"""What makes the page."""

INTRODUCTION = f"""# Settings

A YAML file of `configs/` holds what differs from these defaults, and nothing else. On the command line a setting is
changed with `-p section.key=value`. What is unknown, of the wrong type or out of range is refused, with the path, what
was expected and what we got. A file with `method:` is one for embedding models.

This page is generated from the schemas in `kdkit/config/`; change them, then

```bash
{COMMAND} > docs/settings.md
```
"""

METHODS = """## Methods

Values of `method`. A method is its name, or its name with options: `{name: talas, form: paper}`. `form` sets a group of
options at once: `recommended` is ours, `paper` and `seed` follow the publication and the source that asked for the
method. `projection` says how a projection between the models' widths starts: `identity` needs equal widths; `fitted`
takes the teacher's principal directions, turned towards the student's first vectors; `orthogonal`: random directions;
`random`: small normal numbers; `auto`: `identity` where the widths are equal, else `fitted`.
"""

STARTS = "Students from the teacher"
"""Heading of the kinds of `student.from_teacher`."""

LISTS = "Teachers, stages, rules, the student's own text"
"""Heading of what stands inside lists."""

MEMBERS = "Items of `teachers.members`; `build` holds settings of `teacher.build`."

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
"""How the limits of a number are written."""

SECTION_LINKS = {
    "MemberConfig": "[teachers](#a-teacher-of-several)",
    "ParameterRule": "[rules](#rules-of-learning-rates)",
    "StageSettings": "[stages](#a-stage)",
    "EmbeddingStage": "[stages](#a-stage-of-embeddings)",
    "OnPolicy": "[section](#on-policy)",
    "LoraSettings": "[section](#lora)",
    "Task": "[tasks](#a-task)",
}
"""Schemas that stand inside lists, and where the page describes them."""


@dataclass(frozen=True)
class Setting:
    """One setting in words, with the marks of Markdown."""

    name: str
    takes: str
    """Type, range or choices."""
    default: str
    """Empty: there is none."""
    meaning: str


@dataclass(frozen=True)
class Part:
    """Settings that stand together: a section, an item of a list, or a choice with its options."""

    group: str
    """Heading above it: `Language models`, `Losses`, ..."""
    name: str
    """`distill.weights`, `A stage`, `jsd`."""
    words: str
    settings: list[Setting]

    @property
    def is_section(self) -> bool:
        """Whether its name stands before those of its settings."""
        return any(setting.name.startswith(f"{self.name}.") for setting in self.settings)

    def only(self, name: str) -> "Part":
        """Return the part with those settings alone that have this name, with or without their section."""
        chosen = [setting for setting in self.settings if name in (setting.name, setting.name.rpartition(".")[2])]
        return replace(self, settings=chosen)

    def about(self, word: str) -> "Part":
        """Return the part with those settings alone whose name, values or meaning hold a word, or its plural, whole."""
        whole = re.compile(rf"(?<![^\W_]){re.escape(word)}s?(?![^\W_])", re.IGNORECASE)
        values = {each.name: re.findall(r"`[^`]*`", each.takes) for each in self.settings}
        chosen = [each for each in self.settings if whole.search(f"{each.name} {values[each.name]} {each.meaning}")]
        return replace(self, settings=chosen)


def settings_parts() -> list[Part]:
    """Return all settings of the schemas, part by part: what docs/settings.md and `kdkit settings` show."""
    losses, *_ = get_args(LossSettings)
    stage = next(part for part in _schemas_of(EmbeddingConfig) if part.__name__ == "EmbeddingStage")
    lists = LISTS
    return [
        *_sections(Config, "", "Language models"),
        *(_chosen(member, "Losses") for member in get_args(losses)),
        *(_chosen(member, STARTS, "kind") for member in get_args(AnyStart)),
        _named(lists, "A teacher of several", MEMBERS, MemberConfig, {"build"}),
        _named(lists, "A stage", "Items of `train.stages`.", StageSettings),
        _named(lists, "Rules of learning rates", "Items of `train.parameter_lr_multipliers`.", ParameterRule),
        _named(lists, "On policy", "`on_policy` of a stage.", OnPolicy),
        _named(lists, "LoRA", "`student.lora`.", LoraSettings),
        *_sections(EmbeddingConfig, "", "Embedding models"),
        _named("Embedding models", "A stage of embeddings", "Items of `train.stages`.", stage),
        _named("Embedding models", "A task", "Items of `evaluate.tasks`.", Task),
        *(_chosen(member, "Methods") for member in get_args(AnyMethod)),
    ]


def describe_settings() -> str:
    """Return the whole page, ending with a line break."""
    openings = {
        "Language models": "## Language models",
        "Losses": "## Losses\n\nValues of `distill.loss`. A loss is its name, or its name with options: "
        "`{name: jsd, teacher_weight: 0.1}`.\nAn option that a loss does not take is refused.",
        STARTS: f"## {STARTS}\n\nValues of `student.from_teacher`: the kind alone, or with options: "
        "`{kind: layers, num_layers: 2}`.\nHow each one works: [from_teacher.md](from_teacher.md).",
        LISTS: f"## {LISTS}",
        "Embedding models": "## Embedding models",
        "Methods": METHODS,
    }
    names = "### Other names{}\n\nThe names on the left are understood too."
    closings = {
        "Language models": [names.format(""), _alias_table(ALIASES)],
        "Embedding models": [names.format(" of embedding settings"), _alias_table(EMBEDDING_ALIASES)],
    }
    texts = [INTRODUCTION]
    for group, parts in groupby(settings_parts(), key=lambda part: part.group):
        texts += [openings[group], *map(_markdown, parts), *closings.get(group, [])]
    return "\n\n".join(text.strip("\n") for text in texts) + "\n"


def _sections(schema: type[Section], prefix: str, group: str) -> Iterator[Part]:
    """Describe a schema and, after it, every section inside it."""
    inner = {name: field.annotation for name, field in schema.model_fields.items() if _is_section(field.annotation)}
    if any(name not in inner for name in schema.model_fields):
        name = prefix.rstrip(".") or "Top level"
        yield Part(group, name, _first_words(schema), _settings(schema, prefix, set(inner)))
    for name, part in inner.items():
        yield from _sections(part, f"{prefix}{name}.", group)


def _named(group: str, name: str, words: str, schema: type[Section], left_out: Collection[str] = ()) -> Part:
    """Describe a schema that stands inside a list."""
    return Part(group, name, f"{words} {_first_words(schema)}", _settings(schema, "", set(left_out)))


def _chosen(schema: type[Section], group: str, by: str = "name") -> Part:
    """Describe something that is chosen by its name, or kind, with its options."""
    settings = _settings(schema, "", {by})
    words = _first_words(schema) + ("" if settings else " No options.")
    return Part(group, schema.model_fields[by].default, words, settings)


def _settings(schema: type[Section], prefix: str, left_out: set[str]) -> list[Setting]:
    """Describe the settings of one schema: what they take, their default and their docstring."""
    properties = schema.model_json_schema()["properties"]
    settings = []
    for name, field in schema.model_fields.items():
        if name not in left_out:
            facts, text = properties[name], _description(schema, name)
            default = "" if field.is_required() else f"`{_as_yaml(facts.get('default', _made(field)))}`"
            settings.append(Setting(f"{prefix}{name}", _takes(facts, _limits(field)), default, _cell(text)))
    return settings


def _markdown(part: Part) -> str:
    """Write a part as a heading, words and a table."""
    lines = ["| setting | takes | default | |", "|---|---|---|---|"]
    lines += [f"| `{s.name}` | {s.takes} | {s.default} | {s.meaning} |" for s in part.settings]
    return "\n\n".join([f"### {part.name}", part.words, *(["\n".join(lines)] if part.settings else [])])


def _takes(facts: dict[str, Any], limits: str) -> str:
    """Say in words what a JSON schema allows.

    Args:
        limits: of the field's numbers, which the schema leaves out for those that are read from text.
    """
    if "$ref" in facts:
        return SECTION_LINKS.get(facts["$ref"].rpartition("/")[2], "section")
    if "discriminator" in facts:
        names = facts["discriminator"]["mapping"]
        if "layers" in names:
            return "[kind](#students-from-the-teacher)"
        kind = "method" if "talas" in names else "loss" if "auto" in names else "divergence"
        return f"[{kind}]({'#methods' if kind == 'method' else '#losses'})"
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(_takes(part, limits) for part in facts["anyOf"]))
    if "enum" in facts or "const" in facts:
        return ", ".join(f"`{_as_yaml(value)}`" for value in facts.get("enum", [facts.get("const")]))
    words = {"string": "text", "integer": "whole number", "boolean": "`true`, `false`", "null": "`null`"}
    kind = facts.get("type", "any")
    if kind == "array":
        items = _takes(facts["items"], limits)
        return items if items.startswith("[rules") or "stages" in items or "[t" in items else f"list of {items}"
    if kind == "object":
        return "mapping"
    return f"{words.get(kind, kind)} {limits if kind in ('number', 'integer') else ''}".strip()


def _limits(field: FieldInfo) -> str:
    """Return the least and the largest value that a field's annotation names."""
    metadata = list(field.metadata)
    for part in get_args(field.annotation):
        metadata += getattr(part, "__metadata__", ())
    metadata += [inner for part in metadata if isinstance(part, FieldInfo) for inner in part.metadata]
    return ", ".join(
        f"{sign} {getattr(part, name):g}" for part in metadata for name, sign in BOUNDS.items() if hasattr(part, name)
    )


def _description(schema: type[Section], name: str) -> str:
    """Return a field's docstring, or that of the field that it takes the place of."""
    found = (
        base.model_fields[name].description for base in schema.__mro__ if name in getattr(base, "model_fields", ())
    )
    return next((text for text in found if text), "")


def _alias_table(aliases: dict[str, str]) -> str:
    """List other names of settings."""
    return "\n".join(["| name | setting |", "|---|---|", *(f"| `{name}` | `{key}` |" for name, key in aliases.items())])


def _first_words(schema: type[Section]) -> str:
    """Return a schema's docstring in one line."""
    return " ".join((schema.__doc__ or "").split()).replace("||", "\\|\\|")


def _cell(text: str) -> str:
    """Make a docstring fit into a cell; the page itself lists the options that a file is named for."""
    return re.sub(r" ?Options: \S+\.py\.$", "", " ".join(text.split())).replace("|", "\\|")


def _as_yaml(value: Any) -> str:
    """Write a value as it would be set on the command line."""
    if isinstance(value, dict) and value.get("name"):
        return str(value["name"])
    return value if isinstance(value, str) and value else json.dumps(value)


def _made(field: FieldInfo) -> Any:
    """Return a default that is made anew each time."""
    value = field.get_default(call_default_factory=True)
    return value.model_dump() if isinstance(value, Section) else value


def _is_section(annotation: Any) -> bool:
    """Say whether a field is a section and not a choice among several."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _schemas_of(schema: type[Section]) -> Iterator[type[Section]]:
    """Yield the schemas inside lists of a schema's sections."""
    for field in schema.model_fields.values():
        if _is_section(field.annotation):
            yield from _schemas_of(field.annotation)
        for part in get_args(field.annotation):
            yield from (inner for inner in (part, *get_args(part)) if _is_section(inner))
