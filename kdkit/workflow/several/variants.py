"""Configuration file of a sweep: variants of one configuration, and the seeds that each is trained with.

It holds values only. Every variant is a name and the settings that it changes.
"""

import difflib
import re
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from kdkit.config.types import Section
from kdkit.config.values import load_yaml, suggest_key
from kdkit.errors import UserError
from kdkit.runs.paths import find_config, resolve_input


class SweepFile(Section):
    """Checked content of a sweep's YAML file."""

    config: str
    """Configuration that every variant starts from; beside this file, or relative to the project."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, default_factory=lambda: [0, 1, 2])]
    """Every variant is trained once with each."""
    reference: str
    """Variant that the others are compared with."""
    variants: Annotated[dict[str, dict[str, Any]], Field(min_length=2)]
    """`{name: {section.key: value}}`: what each one changes."""

    @model_validator(mode="after")
    def _names(self) -> "SweepFile":
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds: expected every seed once, got {self.seeds}; a seed twice is no second witness")
        folders = [folder_name(name) for name in self.variants]
        for name, folder in zip(self.variants, folders, strict=True):
            if not folder or folders.count(folder) > 1:
                raise UserError(
                    f"variants: expected names that differ in their letters or digits, got {name!r}, whose folder "
                    f"would be {folder!r}; rename it"
                )
        find_variant(self.reference, list(self.variants), "reference")
        for name, key in ((name, key) for name, settings in self.variants.items() for key in settings):
            if "." not in key and key != "method":
                raise UserError(
                    f"variants: expected section.key, such as router.kind, got {key!r} in {name!r}; write the "
                    "section before the key (the seed is not a variant's, see seeds)"
                )
        return self


def load_sweep(path: str, seeds: str = "") -> SweepFile:
    """Read and check a sweep's file.

    Args:
        seeds: in place of the file's, see `read_seeds`; empty: the file's.

    Raises:
        UserError: no such file, not YAML, an unknown key or variant, too few variants, a seed twice.
    """
    file = find_config(path)
    try:
        values = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"sweep: expected YAML in {path!r}, got: {reason}; correct the file") from None
    if not isinstance(values, dict):
        raise UserError(
            f"sweep: expected config, seeds, reference and variants in {path!r}, got {type(values).__name__}; "
            "see configs/ablation_router.yaml"
        )
    if "variants" not in values:
        raise UserError(
            f"sweep: expected config, seeds, reference and variants, got {path!r}, the file of a single run; run it: "
            f"python -m kdkit run {path}, or add what to vary: --grid distill.temperature=1,2,4"
        )
    if isinstance(values["variants"], dict):  # a variant that changes nothing may be written as nothing
        values["variants"] = {name: settings or {} for name, settings in values["variants"].items()}
    if seeds:
        values["seeds"] = read_seeds(seeds, one_is_a_count=False)
    sweep = check_sweep(values)
    beside = resolve_input(file.parent / sweep.config)
    return sweep.model_copy(update={"config": str(beside)}) if beside.is_file() else sweep


def check_sweep(values: dict[str, Any]) -> SweepFile:
    """Check the content of a sweep's file, or what stands for one.

    Raises:
        UserError: an unknown key or variant, too few variants, a seed twice.
    """
    try:
        return SweepFile.model_validate(values)
    except ValidationError as error:
        raise UserError(_describe(error)) from None


def read_seeds(text: str, one_is_a_count: bool) -> list[int | str]:
    """Read `--seeds`: a list has a comma, `0,1` or `7,`; a number alone is a seed of a file, a count of a grid.

    Args:
        one_is_a_count: `3` means the seeds 0, 1, 2, as for grids and searches, which have no seeds of their own.

    Returns:
        What stands there, checked by `SweepFile`; empty for an empty text.

    Raises:
        UserError: no count.
    """
    if one_is_a_count and text and "," not in text:
        if not text.strip().isdecimal() or int(text) < 1:
            raise UserError(
                f"--seeds: expected how many, such as 3, or which, such as 0,1, got {text!r}; for seed 0 alone: "
                "--seeds 0,"
            )
        return list(range(int(text)))
    return [int(seed) if seed.strip().isdecimal() else seed for seed in text.removesuffix(",").split(",") if text]


def check_seeds(seeds: list[int | str]) -> list[int]:
    """Check seeds as a file's are.

    Raises:
        UserError: no number, or a seed twice.
    """
    two = {"a": {}, "b": {}}
    return check_sweep({"config": "", "seeds": seeds, "reference": "a", "variants": two}).seeds


def choose_variants(only: str, names: list[str]) -> list[str]:
    """Resolve `--only` to variants; all of them if it is empty.

    Raises:
        UserError: no variant of that name.
    """
    if not only:
        return names
    # a name may hold a comma itself, as long as it stands alone
    parts = [only] if only in names else only.split(",")
    return [find_variant(part.strip(), names, "--only") for part in parts]


def find_variant(text: str, names: list[str], key: str) -> str:
    """Return the variant that a name, or the name of its folder, means.

    Raises:
        UserError: there is none.
    """
    for name in names:
        if text in (name, folder_name(name)):
            return name
    near = difflib.get_close_matches(text, [*names, *map(folder_name, names)], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "name one of these"
    raise UserError(f"{key}: expected a variant among {', '.join(map(folder_name, names))}, got {text!r}; {hint}")


def folder_name(variant: str) -> str:
    """Return a variant's name as a folder's: `student-aware, progressive` -> `student-aware-progressive`."""
    return re.sub(r"[^A-Za-z0-9]+", "-", variant.replace("'", "")).strip("-")[:80]


def as_override(key: str, value: Any) -> str:
    """Write a setting as `section.key=value`, in YAML on one line that reads back as the same value."""
    # a list of one is written in brackets; a value alone would end in a document marker
    return f"{key}={yaml.safe_dump([value], default_flow_style=True, width=float('inf')).strip()[1:-1]}"


def _describe(error: ValidationError) -> str:
    """Turn the first problem that pydantic found into one line a user can act on."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if isinstance(found := first.get("ctx", {}).get("error"), UserError):
        return str(found)
    if first["type"] == "extra_forbidden":
        return f"{path}: expected a known key, got {path!r}; {suggest_key(path, list(SweepFile.model_fields))}"
    if first["type"] == "missing":
        return f"{path}: expected a value, got none; add it (see configs/ablation_router.yaml)"
    constraint = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{path}: expected {constraint}, got {first['input']!r}; correct the value"
