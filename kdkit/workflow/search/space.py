"""What a search chooses from: a range, or a list of values, for each of some settings."""

import math
import re
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.errors import UserError
from kdkit.workflow.several.grid import Axis, check_key, load_any, own_place, read_axis
from kdkit.workflow.several.variants import as_override

RANGE = re.compile(r"([^:,\[\]{}]+):([^:,\[\]{}]+)(:[^:,]*)?")
EXAMPLE = "--search distill.temperature=1:8:log, or --search distill.loss=jsd,forward_kl"
INSIDE = 0.37
"""Where in a range a setting is tried with a fraction: one that refuses it takes whole numbers."""


@dataclass(frozen=True)
class Dimension:
    """One setting of a search."""

    key: str
    """`section.key`."""
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False
    choices: tuple[Any, ...] = ()
    """In place of a range."""

    @property
    def label(self) -> str:
        """Its name without the sections."""
        return self.key.rpartition(".")[2]

    @property
    def words(self) -> str:
        """What it is chosen from, for a reader."""
        if self.choices:
            return ", ".join(self._texts())
        return f"{self.low:g} to {self.high:g}" + ", by its logarithm" * self.is_log + ", whole numbers" * self.is_whole

    def distribution(self) -> BaseDistribution:
        """Return it as Optuna knows it; choices as texts, as a journal keeps no lists or mappings."""
        if self.choices:
            return CategoricalDistribution(self._texts())
        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.is_log)
        return FloatDistribution(self.low, self.high, log=self.is_log)

    def value(self, chosen: Any) -> Any:
        """Return the setting's value for what Optuna chose."""
        return self.choices[self._texts().index(chosen)] if self.choices else chosen

    def own(self, file: str, overrides: list[str], config: Config | EmbeddingConfig) -> Any:
        """Return the configuration's own value, as Optuna knows it; None where it is outside, or not to be found."""
        if self.choices:
            place = own_place(Axis(self.key, self.choices), file, overrides, config)
            return None if place is None else self._texts()[place]
        found: Any = config.model_dump()
        for part in self.key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        return found if is_number and self.low <= found <= self.high else None

    def _texts(self) -> list[str]:
        return [as_override("", value)[1:] for value in self.choices]


def read_space(file: str, overrides: list[str], texts: list[str]) -> list[Dimension]:
    """Read every `--search` and check its ends against the configuration.

    Raises:
        UserError: see `read_axis` and `_read_range`; a setting that does not exist or refuses a value; a key twice.
    """
    load_any(file, overrides)
    space = [_read(file, overrides, text) for text in texts]
    keys = [dimension.key for dimension in space]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"--search: expected every key once, got {twice[0]} twice; keep one")
    return space


def _read(file: str, overrides: list[str], text: str) -> Dimension:
    """Read `section.key=LOW:HIGH`, `section.key=LOW:HIGH:log` or `section.key=VALUE,VALUE`."""
    key, _, listed = (part.strip() for part in text.partition("="))
    if found := RANGE.fullmatch(listed):
        check_key(key, "--search")
        dimension = _read_range(key, text, *found.groups())
        ends: tuple[Any, ...] = (_plain(dimension.low), _plain(dimension.high))
    else:
        if "," not in listed:
            raise UserError(f"--search: expected section.key=LOW:HIGH or several values, got {text!r}; write {EXAMPLE}")
        dimension = Dimension(key, choices=read_axis(text, "--search").values)
        ends = dimension.choices
    for end in ends:  # a mistake is found before anything is trained
        load_any(file, [*overrides, as_override(key, end)])
    if dimension.choices or not _is_whole(file, overrides, dimension):
        return dimension
    return Dimension(key, dimension.low, dimension.high, dimension.is_log, is_whole=True)


def _read_range(key: str, text: str, low: str, high: str, suffix: str | None) -> Dimension:
    """Check a range by itself.

    Raises:
        UserError: no finite numbers, an empty range, a logarithm of 0, an unknown suffix.
    """
    try:
        ends = float(low), float(high)
    except ValueError:
        raise UserError(f"--search: expected numbers, got {text!r}; write {EXAMPLE}") from None
    if not all(map(math.isfinite, ends)):
        raise UserError(f"--search: expected finite ends, got {text!r}; write numbers")
    if suffix not in (None, ":log"):
        raise UserError(f"--search: expected nothing or :log behind a range, got {suffix!r} in {text!r}; correct it")
    if not ends[0] < ends[1]:
        raise UserError(f"--search: expected the lower end first, got {text!r}; write {key}=LOW:HIGH")
    if suffix and ends[0] <= 0:
        raise UserError(f"--search: expected a lower end above 0 with :log, got {text!r}; leave :log out, or raise it")
    return Dimension(key, *ends, is_log=bool(suffix))


def _is_whole(file: str, overrides: list[str], dimension: Dimension) -> bool:
    """Return whether a setting takes whole numbers only: it refuses one that is not, inside its range."""
    inside = dimension.low + INSIDE * (dimension.high - dimension.low)
    inside += 0.5 * (inside == int(inside))
    try:
        load_any(file, [*overrides, as_override(dimension.key, inside)])
    except UserError:
        return True
    return False


def _plain(number: float) -> float | int:
    """Return a whole number without its point: a setting of whole numbers takes it."""
    return int(number) if number == int(number) else number
