"""Grid of settings: every combination of their values is a variant of one configuration.

python -m kdkit sweep configs/demo.yaml --grid distill.temperature=1.5,2 --grid distill.kd_ratio=0.3,0.9 --seeds 3
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from kdkit.config.embeddings import EmbeddingConfig, load_embedding_config
from kdkit.config.language import Config, dump_config, load_config
from kdkit.config.values import load_yaml
from kdkit.errors import UserError
from kdkit.runs.folder import fingerprint
from kdkit.runs.open_run import is_for_embeddings
from kdkit.runs.paths import find_config
from kdkit.workflow.several.variants import SweepFile, as_override, check_sweep, folder_name, read_seeds

LONGEST_VALUE = 24
"""Characters of a value in a variant's name; of a longer one its place among the values is named."""
EXAMPLE = "distill.temperature=1.5,2,3"


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes."""

    key: str
    """`section.key`, or `method`."""
    values: tuple[Any, ...]

    @property
    def label(self) -> str:
        """Its name without the sections."""
        return self.key.rpartition(".")[2]

    def names(self) -> list[str]:
        """Write its values for the names of variants: `2`, `jsd`; lists and mappings by their places, `#1`."""
        texts = [as_override("", value)[1:] for value in self.values]
        if any(isinstance(value, list | dict) for value in self.values) or max(map(len, texts)) > LONGEST_VALUE:
            return [f"#{place}" for place in range(1, len(texts) + 1)]
        return texts


def read_axis(text: str, option: str = "--grid") -> Axis:
    """Read `section.key=VALUE,VALUE,...`; values are YAML, so lists and mappings may be among them.

    Args:
        option: that it was given by, for messages.

    Raises:
        UserError: no key, the seed, no YAML, fewer than two values, or one twice.
    """
    key, equals, listed = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise UserError(f"{option}: expected section.key=VALUE,VALUE, got {text!r}; write e.g. {option} {EXAMPLE}")
    check_key(key, option)
    try:
        values = load_yaml(f"[{listed}]")
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{option}: expected YAML values with commas between, got {text!r} ({reason}); close brackets and quotes"
        ) from None
    written = [as_override(key, value) for value in values]
    if len(values) < 2:
        raise UserError(
            f"{option}: expected at least two values of {key}, got {len(values)} in {text!r}; set a single one by -p"
        )
    if twice := [one for one in written if written.count(one) > 1]:
        raise UserError(f"{option}: expected every value once, got {twice[0]!r} twice in {text!r}; remove one")
    return Axis(key, tuple(values))


def check_key(key: str, option: str) -> None:
    """Refuse what no variant can change.

    Raises:
        UserError: the seed, or a key without its section.
    """
    if key == "seed":
        raise UserError(f"{option}: expected any setting but the seed, got {key!r}; use --seeds")
    if "." not in key and key != "method":
        raise UserError(f"{option}: expected section.key, such as distill.temperature, got {key!r}; write the section")


def read_axes(texts: list[str]) -> list[Axis]:
    """Read every `--grid`.

    Raises:
        UserError: see `read_axis`; a key twice.
    """
    axes = [read_axis(text) for text in texts]
    keys = [axis.key for axis in axes]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"--grid: expected every key once, got {twice[0]} twice; write all its values behind one")
    return axes


def make_grid(
    file: str,
    overrides: list[str],
    axes: list[Axis],
    seeds: str,
    confirm: Callable[[str, int, int, Config | EmbeddingConfig], None],
) -> SweepFile:
    """Make a variant of every combination of values.

    The reference is the configuration's own combination, as far as its own values are among those of the grid; the
    first value stands for one that is not.

    Args:
        file: of one run.
        overrides: `section.key=value`, for every variant.
        seeds: how many (`3`) or which (`0,1`); empty: three.
        confirm: is told what will be trained, in words, how many runs and seeds that are, and the configuration; raises
            unless it is wanted.

    Raises:
        UserError: a file of variants; a mistake in the file, a key or a value; see also `confirm`.
    """
    refuse_variants(file, "--grid")
    own = load_any(file, overrides)
    _check_values(file, overrides, axes)
    sizes, seed_list = [len(axis.values) for axis in axes], read_seeds(seeds, one_is_a_count=True) or [0, 1, 2]
    words = f"{' x '.join(map(str, sizes))} variants x {len(seed_list)} seed{'s' * (len(seed_list) > 1)}"
    confirm(words, math.prod(sizes) * len(seed_list), len(seed_list), own)
    variants = {
        name: dict(zip([axis.key for axis in axes], values, strict=True))
        for name, values in zip(
            name_combinations(axes), itertools.product(*(axis.values for axis in axes)), strict=True
        )
    }
    reference = {axis.key: axis.values[own_place(axis, file, overrides, own) or 0] for axis in axes}
    name = next(name for name, settings in variants.items() if settings == reference)
    return check_sweep({"config": file, "seeds": seed_list, "reference": name, "variants": variants})


def _check_values(file: str, overrides: list[str], axes: list[Axis]) -> None:
    """Check every value beside the first ones of the other settings: a grid of many combinations is not begun in vain.

    Raises:
        UserError: a value that the configuration refuses.
    """
    first = {axis.key: axis.values[0] for axis in axes}
    combinations = [first, *(first | {axis.key: value} for axis in axes for value in axis.values[1:])]
    for settings in combinations:
        load_any(file, [*overrides, *(as_override(*item) for item in settings.items())])


def refuse_variants(file: str, option: str) -> None:
    """Refuse a file of variants where that of one run is needed.

    Raises:
        UserError: naming both.
    """
    values = load_yaml(find_config(file).read_text(encoding="utf-8"))
    if isinstance(values, dict) and "variants" in values:
        raise UserError(
            f"{option}: expected the file of one run, got {file!r}, a file of variants; name its configuration: "
            f"python -m kdkit sweep {values.get('config', 'CONFIG')} {option} ..."
        )


def load_any(file: str, overrides: list[str]) -> Config | EmbeddingConfig:
    """Load a configuration for language models or for embeddings.

    Raises:
        UserError: a mistake in it.
    """
    path = find_config(file)
    return load_embedding_config(path, overrides) if is_for_embeddings(path) else load_config(path, overrides)


def own_place(axis: Axis, file: str, overrides: list[str], own: Config | EmbeddingConfig) -> int | None:
    """Return which of an axis's values the configuration has itself; None where it has none of them."""
    for place, value in enumerate(axis.values):
        try:
            if dump_config(load_any(file, [*overrides, as_override(axis.key, value)])) == dump_config(own):
                return place
        except UserError:  # a value that needs another one beside it is not the configuration's own
            continue
    return None


def name_combinations(axes: list[Axis]) -> list[str]:
    """Name all combinations, the last axis fastest: `temperature=1.5 kd_ratio=0.3`."""
    labels = [axis.label for axis in axes]
    labels = [axis.key if labels.count(axis.label) > 1 else axis.label for axis in axes]
    parts = [[f"{label}={name}" for name in axis.names()] for label, axis in zip(labels, axes, strict=True)]
    names = [" ".join(combination) for combination in itertools.product(*parts)]
    folders = [folder_name(name) for name in names]
    if len(set(folders)) == len(folders) and all(folders):
        return names
    # 0.1 and -0.1 would share a folder, and so would names that are cut to its length
    return [f"{fingerprint(name)[:6]} {name}" for name in names]
