r"""LaTeX read into numbers: nothing of the generators' code, so that their mistakes are not repeated.

Whole numbers and fractions stay exact, roots and functions have 50 digits (mpmath), matrices are numpy's.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from mpmath import mp

Value = Any
"""Fraction, mpf, mpc, or an array of them."""
Names = Mapping[str, Value]
Node = Callable[[Names], Value]

DIGITS = 50
TOKEN = re.compile(
    r"\\begin\{pmatrix\}|\\end\{pmatrix\}|\\\\|\\[a-zA-Z]+|\\[,;:! ]"
    r"|[a-zA-Z]'*(?:_\{[^{}]*\}|_[a-zA-Z0-9])?|\d+(?:\.\d+)?|\S"
)
FUNCTIONS = {
    r"\sin": mp.sin, r"\cos": mp.cos, r"\tan": mp.tan, r"\ln": mp.log, r"\log": mp.log, r"\exp": mp.exp,
    r"\arctan": mp.atan, r"\arcsin": mp.asin, r"\arccos": mp.acos, r"\sinh": mp.sinh, r"\cosh": mp.cosh,
}  # fmt: skip
SPACES = {r"\,", r"\;", r"\:", r"\!", r"\ ", r"\left", r"\right", r"\displaystyle"}
RELATIONS = ("=", "<", ">", r"\leq", r"\geq", r"\neq")
CLOSERS = {"(": ")", "{": "}", "[": "]"}


class UnreadableError(ValueError):
    """A formula that this reader does not know."""


@lru_cache(maxsize=4096)
def read(latex: str) -> Node:
    """Read a formula without relation into a function of its names.

    Raises:
        UnreadableError: it has something that is not known.
    """
    reader = _Reader(latex)
    node = reader.sum()
    if reader.next():
        raise UnreadableError(f"{latex}: {reader.next()} is left over")
    return node


def evaluate(latex: str, names: Names | None = None) -> Value:
    """Return a formula's value.

    Raises:
        UnreadableError: it cannot be read, or a name in it has no value.
    """
    with mp.workdps(DIGITS):
        try:
            return read(latex)(names or {})
        except KeyError as error:
            raise UnreadableError(f"{latex}: {error.args[0]} has no value") from None


def names_in(latex: str) -> set[str]:
    """Return the names of a formula: letters with their primes and indices, but e and i, and Greek ones."""
    tokens = TOKEN.findall(latex)
    return {token for token in tokens if _is_name(token)}


def _is_name(token: str) -> bool:
    return (token[0].isalpha() and token not in ("e", "i", "d")) or token in (r"\lambda", r"\mu", r"\theta")


def are_close(first: Value, second: Value) -> bool:
    """Compare two values: exact ones exactly, others to 12 digits, arrays entry by entry."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        if np.shape(first) != np.shape(second):
            return False
        return all(are_close(a, b) for a, b in zip(np.ravel(first), np.ravel(second), strict=True))
    first, second = _pair(first, second)
    if isinstance(first, Fraction):
        return bool(first == second)
    return bool(abs(first - second) <= 1e-12 * (1 + abs(first)))


def split_relation(formula: str) -> tuple[list[str], list[str]]:
    r"""Part a formula at its relations outside brackets: `1 < x \leq 3` into three sides and two signs."""
    sides, signs, depth = [""], [], 0
    for token in re.findall(r"\\[a-zA-Z]+\s?|.", formula, re.DOTALL):
        depth += (token in "({[") - (token in ")}]")
        if depth == 0 and token.strip() in RELATIONS:
            signs.append(token.strip())
            sides.append("")
        else:
            sides[-1] += token
    return [side.strip() for side in sides], signs


def compare(first: Value, sign: str, second: Value) -> bool:
    """Return whether a relation holds between two values."""
    if sign in ("=", r"\neq"):
        return are_close(first, second) == (sign == "=")
    if are_close(first, second):
        return sign in (r"\leq", r"\geq")
    first, second = _pair(first, second)
    return bool(first < second) == (sign in ("<", r"\leq"))


def holds(formula: str, names: Names | None = None) -> bool:
    """Return whether a chain of relations is true."""
    sides, signs = split_relation(formula)
    values = [evaluate(side, names) for side in sides]
    return bool(signs) and all(compare(values[i], sign, values[i + 1]) for i, sign in enumerate(signs))


def dollars(text: str) -> list[str]:
    """Return the formulas between dollar signs."""
    return text.split("$")[1::2]


def split_list(latex: str) -> list[str]:
    """Part an answer at commas outside brackets."""
    parts, depth = [""], 0
    for character in latex:
        depth += (character in "({[") - (character in ")}]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _pair(first: Value, second: Value) -> tuple[Value, Value]:
    """Make both exact or both mpmath's: the two kinds do not mix."""
    if any(isinstance(each, np.ndarray) for each in (first, second)):
        return first, second
    if isinstance(first, int | Fraction) and isinstance(second, int | Fraction):
        return Fraction(first), Fraction(second)
    return _as_mp(first), _as_mp(second)


def _as_mp(value: Value) -> Value:
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, int | Fraction) else mp.mpmathify(value)


def _add(first: Value, second: Value, sign: int) -> Value:
    first, second = _pair(first, second)
    return first + sign * second


def _multiply(first: Value, second: Value) -> Value:
    both = isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    first, second = _pair(first, second)
    return first @ second if both else first * second


def _divide(first: Value, second: Value) -> Value:
    first, second = _pair(first, second)
    if second == 0:
        raise UnreadableError("division by zero")
    return first / second


def _raise(base: Value, exponent: Value) -> Value:
    if isinstance(base, np.ndarray):
        return _inverse(base) if exponent == -1 else np.linalg.matrix_power(base, int(exponent))
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and abs(exponent) < 1000:
        if base == 0 and exponent < 0:
            raise UnreadableError("division by zero")
        return base ** int(exponent)
    return mp.power(_as_mp(base), _as_mp(exponent))


def _inverse(rows: np.ndarray) -> np.ndarray:
    """Invert by elimination, exactly."""
    size = len(rows)
    work = np.hstack(
        [rows, np.array([[Fraction(int(i == j)) for j in range(size)] for i in range(size)], dtype=object)]
    )
    for i in range(size):
        pivot = next((k for k in range(i, size) if work[k, i] != 0), None)
        if pivot is None:
            raise UnreadableError("a matrix without inverse")
        work[[i, pivot]] = work[[pivot, i]]
        work[i] = work[i] / work[i, i]
        for k in range(size):
            if k != i:
                work[k] = work[k] - work[k, i] * work[i]
    return work[:, size:]


def determinant(rows: np.ndarray) -> float:
    """Return numpy's determinant of a matrix of exact numbers."""
    return float(np.linalg.det(rows.astype(float)))


class _Reader:
    """Recursive descent; each method returns a function of the names."""

    def __init__(self, latex: str):
        self.tokens = [token for token in TOKEN.findall(latex) if token not in SPACES]
        self.place = 0

    def next(self) -> str:
        """Return the next token; nothing at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        """Go past the next token, which has to be the wanted one."""
        token = self.next()
        if not token or (wanted and token != wanted):
            raise UnreadableError(f"{''.join(self.tokens)}: {wanted or 'more'} expected, got {token or 'the end'}")
        self.place += 1
        return token

    def sum(self) -> Node:
        """Read terms with plus and minus."""
        sign = self.take() if self.next() in ("+", "-") else "+"
        first = self.product()
        node: Node = first if sign == "+" else lambda names: -first(names)
        while self.next() in ("+", "-"):
            sign = self.take()
            node = _plus(node, self.product(), sign)
        return node

    def product(self) -> Node:
        """Read factors, with or without a sign between them."""
        node = self.power()
        while self.next() not in ("", "+", "-", ")", "}", "]", "&", r"\\", r"\end{pmatrix}", ",", "|"):
            if self.next() in (r"\cdot", r"\times", "*"):
                self.take()
                node = _times(node, self.signed_power())
            elif self.next() == "/":
                self.take()
                node = _over(node, self.power())
            else:
                node = _times(node, self.power())
        return node

    def signed_power(self) -> Node:
        """Read a factor behind a sign, which may have a minus of its own."""
        if self.next() == "-":
            self.take()
            inner = self.power()
            return lambda names: -inner(names)
        return self.power()

    def power(self) -> Node:
        """Read a base with its exponents."""
        base = self.base()
        while self.next() == "^":
            self.take()
            base = _to(base, self.group())
        return base

    def group(self) -> Node:
        """Read what stands in braces, or one token."""
        if self.next() != "{":
            return self.base()
        self.take("{")
        node = self.sum()
        self.take("}")
        return node

    def base(self) -> Node:
        """Read a number, a name, a bracket, a fraction, a root, a function or a matrix."""
        token = self.take()
        if token in CLOSERS:
            node = self.sum()
            self.take(CLOSERS[token])
            return node
        if token == "|":
            node = self.sum()
            self.take("|")
            return lambda names: abs(node(names))
        if token[0].isdigit():
            value = Fraction(token)
            return lambda names: value
        if token == r"\frac":
            return _over(self.group(), self.group())
        if token == r"\sqrt":
            inner = self.group()
            return lambda names: mp.sqrt(_as_mp(inner(names)))
        if token in FUNCTIONS:
            return self.function(FUNCTIONS[token])
        if token == r"\begin{pmatrix}":
            return self.matrix()
        if token in ("e", "i", r"\pi"):
            return lambda names: {"e": mp.e, "i": mp.mpc(0, 1), r"\pi": mp.pi}[token] * 1
        if _is_name(token):
            return lambda names: names[token]
        raise UnreadableError(f"{''.join(self.tokens)}: {token} is not known")

    def function(self, apply: Callable[[Value], Value]) -> Node:
        """Read a function's argument, and the exponent that may stand before it."""
        exponent = None
        if self.next() == "^":
            self.take()
            exponent = self.group()
        inner = self.base()  # sin(2x), ln|x|, sin x
        node: Node = lambda names: apply(_as_mp(inner(names)))  # noqa: E731 - one of two forms
        return node if exponent is None else _to(node, exponent)

    def matrix(self) -> Node:
        """Read the rows of a matrix that is open."""
        rows: list[list[Node]] = [[]]
        while True:
            rows[-1].append(self.sum())
            token = self.take()
            if token == r"\end{pmatrix}":
                break
            if token == r"\\":
                rows.append([])
            elif token != "&":
                raise UnreadableError(f"{token} in a matrix")
        return lambda names: np.array([[entry(names) for entry in row] for row in rows], dtype=object)


def _plus(first: Node, second: Node, sign: str) -> Node:
    factor = 1 if sign == "+" else -1
    return lambda names: _add(first(names), second(names), factor)


def _times(first: Node, second: Node) -> Node:
    return lambda names: _multiply(first(names), second(names))


def _over(first: Node, second: Node) -> Node:
    return lambda names: _divide(first(names), second(names))


def _to(first: Node, second: Node) -> Node:
    return lambda names: _raise(first(names), second(names))
