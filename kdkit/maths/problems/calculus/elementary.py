"""Functions that problems are built of, each with a word: `polynomial 1 0 -2`, `exp 3`, `sin 2`, `ln`."""

import random
from collections.abc import Iterable
from typing import TypeVar

from kdkit.maths.formulas.reading import find_integers
from kdkit.maths.formulas.tree import Formula, Function, Name, polynomial

X = Name("x")
Item = TypeVar("Item")


def draw_nonzero(draws: random.Random, size: int) -> int:
    """Draw a whole number from -size to size that is not zero."""
    return draws.choice((-1, 1)) * draws.randint(1, size)


def draw_polynomial(draws: random.Random, degree: int, size: int) -> tuple[int, ...]:
    """Draw coefficients, the highest power's first and not zero."""
    return (draw_nonzero(draws, size), *(draws.randint(-size, size) for _ in range(degree)))


def one_order(items: Iterable[Item]) -> list[Item]:
    """Shuffle by nothing but the items themselves: no two problems differ in the order of their parts alone."""
    items = sorted(items, key=str)
    random.Random(str(items)).shuffle(items)
    return items


def word_polynomial(coefficients: tuple[int, ...]) -> str:
    """Return the word of a polynomial."""
    return " ".join(map(str, ("polynomial", *coefficients)))


def read_word(word: str | int) -> tuple[str, tuple[int, ...]]:
    """Part a word into kind and numbers."""
    kind, *numbers = str(word).split()
    return kind, tuple(map(int, numbers))


def make(word: str | int) -> Formula:
    """Return the function that a word stands for."""
    kind, numbers = read_word(word)
    if kind == "polynomial":
        return polynomial(numbers)
    return Function(kind, (numbers[0] if numbers else 1) * X)


def find_word(formula: Formula | None) -> str | None:
    """Return the word of a function; None: it has none."""
    match formula:
        case Function("exp" | "sin" | "cos" as kind, argument):
            inner = find_integers(argument)
            return f"{kind} {inner[0]}" if inner and len(inner) == 2 and inner[1] == 0 else None
        case Function("ln", Name("x")):
            return "ln"
    found = find_integers(formula)
    return None if found is None or found == (0,) else word_polynomial(found)
