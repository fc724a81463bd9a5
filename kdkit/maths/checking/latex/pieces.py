r"""Functions in pieces, `\begin{cases} x & x > 0 \\ 0 & \text{otherwise} \end{cases}`, and systems in such braces."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import sympy
from sympy import Basic

from kdkit.maths.checking.latex import marks
from kdkit.maths.checking.latex.tokens import UnreadableError

SIGNS = {"<": sympy.Lt, ">": sympy.Gt, "\\le": sympy.Le, "\\ge": sympy.Ge, "=": sympy.Eq, "\\ne": sympy.Ne}
LEADING = ('"if', '"for', '"when', '"where')
OTHERWISE = ('"otherwise', '"else', '"elsewhere')


def rows_of(body: list[str]) -> Iterator[list[list[str]]]:
    """Yield the cells of each row, without the commas and full stops at their ends."""
    for row in marks.split(body, "\\cr"):
        cells = [cell[:-1] if cell[-1:] in ([","], ["."], [";"]) else cell for cell in marks.split(row, "&")]
        if any(cells):
            yield cells


def read_system(tokens: list[str]) -> list[list[str]] | None:
    """Return the relations in braces, such as `x = 1` and `y = 2`; None: it is something else."""
    if tokens[:2] != ["\\begin", '"cases'] or marks.find_close(tokens, 0) != len(tokens) - 1:
        return None
    rows = list(rows_of(tokens[2:-1]))
    is_system = bool(rows) and all(set(row[0]) & {*SIGNS} or set(row[-1][:1]) & {*SIGNS} for row in rows)
    return [[token for cell in row for token in cell] for row in rows] if is_system else None


def read_cases(body: list[str], read: Callable[[list[str]], Basic]) -> Basic:
    """Read a function in pieces.

    Args:
        body: tokens within the environment.
        read: a formula.

    Raises:
        UnreadableError: a row is no formula with a condition on a letter.
    """
    pieces = []
    for cells in rows_of(body):
        if len(cells) != 2:
            raise UnreadableError("a piece without a condition")
        pieces.append((read(cells[0]), _read_condition(cells[1], read)))
    return sympy.Piecewise(*pieces)


def _read_condition(tokens: list[str], read: Callable[[list[str]], Basic]) -> Basic:
    r"""Read `x < 0`, `0 \le x < 1`, with `if` before it, or `otherwise`."""
    if tokens[:1] and tokens[0] in LEADING:
        tokens = tokens[1:]
    if len(tokens) == 1 and tokens[0] in OTHERWISE:
        return sympy.true
    sides: list[list[str]] = [[]]
    signs = []
    for token in tokens:
        if token in SIGNS:
            signs.append(SIGNS[token])
            sides.append([])
        else:
            sides[-1].append(token)
    if not signs:
        raise UnreadableError("a piece without a condition")
    values = [read(side) for side in sides]
    if len(values) > 3 or (len(values) == 3 and not isinstance(values[1], sympy.Symbol)):
        raise UnreadableError("a condition that is not solved for its letter")
    return sympy.And(*(sign(*pair) for sign, pair in zip(signs, pairwise(values), strict=True)))
