r"""Somebody's statement of a problem, read: its words, its formulas, and the polynomials in them."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from sympy.polys.domains import QQ
from sympy.polys.rings import PolyElement, PolyRing

MAX_NUMBER, MAX_DEGREE, MAX_TOKENS = 10**6, 20, 150
"""Larger ones are not read: what is typed must not take minutes to solve."""

COMMON_WORDS = (
    "find solve determine compute calculate evaluate give me please what which is are the of a an for to all let if"
    " that such where with and or by in on be as value values following then problem your answer exact step steps how"
    " do i you can it its this given state write down obtain work out every each using use we have has show real"
    " number numbers"
)
TOKEN = re.compile(r"\d+(?:\.\d+)?|\\[a-zA-Z]+|[a-zA-Z]|\S")
WORD = re.compile(r"[A-Za-z]{2,}(?:-[A-Za-z]{2,})*|[aI]")
LETTERS = frozenset("xyzd")
"""Of these a run of letters is a product or a differential, not a word."""


@dataclass(frozen=True)
class Statement:
    """A problem's text in two parts."""

    words: frozenset[str]
    """In lower case."""
    formulas: tuple[str, ...]
    """In order, without dollar signs; lines of `cases` and what commas part are formulas of their own."""

    def fits(self, allowed: str = "", needs: str = "") -> bool:
        """Return whether a kind of problem is meant.

        Args:
            allowed: words beside the common ones, with spaces between; with any other word it is another problem.
            needs: words of which one has to be there; they are allowed too.
        """
        strange = self.words - _word_set(COMMON_WORDS) - _word_set(allowed) - _word_set(needs)
        return not strange and (not needs or not self.words.isdisjoint(_word_set(needs)))


@lru_cache(maxsize=256)
def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


@lru_cache(maxsize=64)
def read_statement(text: str) -> Statement:
    """Part a normalised text into words and formulas: by its dollar signs, or else by what looks like a word."""
    if "$" in text:
        pieces = text.split("$")
        plain, formulas = " ".join(pieces[::2]), pieces[1::2]
    else:
        plain, formulas = _part_words(text)
    words = frozenset(word.lower() for word in re.findall(r"[A-Za-z][A-Za-z'-]*", plain))
    parted = [part for formula in formulas for part in _part_formula(formula)]
    return Statement(words, tuple(part for part in parted if part))


def _part_words(text: str) -> tuple[str, list[str]]:
    """Part a text without dollar signs: a run of tokens that are no words is a formula."""
    words, formulas, run = [], [], []
    for token in text.split():
        bare = token.rstrip(".,:;?!")
        is_word = WORD.fullmatch(bare.strip("()")) and not LETTERS.issuperset(bare)
        if is_word:
            words.append(bare)
        else:
            run.append(bare if _depth([*run, token]) == 0 else token)
        if run and (is_word or (bare != token and _depth(run) == 0)):
            formulas.append(" ".join(run))
            run = []
    return " ".join(words), [*formulas, " ".join(run)]


def _depth(tokens: list[str]) -> int:
    text = " ".join(tokens)
    return sum(text.count(opening) for opening in "([{") - sum(text.count(closer) for closer in ")]}")


def _part_formula(formula: str) -> list[str]:
    r"""Part a formula at the lines of `cases` and at commas outside brackets."""
    if r"\begin{cases}" in formula:
        formula = re.sub(r"\\(?:begin|end)\{cases\}|&", "", formula).replace(r"\\", ",")
    parts, depth = [""], 0
    for character in formula:
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in ",;":
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip().strip(".:?!").strip() for part in parts]


def letters_of(formula: str) -> list[str]:
    """Return the one-letter names in a formula, in alphabetical order."""
    return sorted({token for token in TOKEN.findall(formula) if len(token) == 1 and token.isalpha()})


def read_polynomial(formula: str, variables: str) -> PolyElement | None:
    r"""Read a polynomial with rational coefficients: `x^{2} - \frac{1}{2}x`, `(x - 1)(x + 2)/3`, `0.5y`.

    Args:
        formula: normalised LaTeX or plain text.
        variables: their letters, `xy`.

    Returns:
        An element of a sympy ring over the rationals; None where it is none, or too large.
    """
    try:
        polynomial = _Reader(formula, variables).read()
    except _UnreadableError:
        return None
    is_large = any(max(abs(each.numerator), each.denominator) > MAX_NUMBER for each in polynomial.values())
    return None if is_large else polynomial


def read_coefficients(formula: str, variable: str) -> list[Fraction] | None:
    """Read a polynomial in one variable as its coefficients, highest degree first; None where it is none."""
    polynomial = read_polynomial(formula, variable)
    if polynomial is None:
        return None
    values = {degree: Fraction(int(c.numerator), int(c.denominator)) for (degree,), c in polynomial.items()}
    return [values.get(degree, Fraction(0)) for degree in range(max(values, default=0), -1, -1)]


def as_parameters(values: Collection[Fraction]) -> list[int | str]:
    """Return numbers as parameters of a template: whole ones, and text such as `1/2`."""
    return [int(each) if each.denominator == 1 else str(each) for each in values]


def read_equation(text: str, words: str, needs: str = "") -> tuple[list[Fraction], list[Fraction], str] | None:
    """Read a statement of one polynomial equation in one unknown.

    Args:
        text: see `Template.read`.
        words: see `Statement.fits`.
        needs: see `Statement.fits`.

    Returns:
        The coefficients of both sides, highest degree first, and the unknown; None: it is none.
    """
    statement = read_statement(text)
    equations = [formula for formula in statement.formulas if "=" in formula]
    if not statement.fits(words, needs) or len(equations) != 1 or equations[0].count("=") != 1:
        return None
    letters = letters_of(equations[0])
    others = [formula for formula in statement.formulas if formula != equations[0]]
    if len(letters) != 1 or any(other != letters[0] for other in others):
        return None
    left, right = (read_coefficients(side, letters[0]) for side in equations[0].split("="))
    return None if left is None or right is None else (left, right, letters[0])


def read_matrix(formula: str) -> list[list[Fraction]] | None:
    r"""Read a matrix of numbers, `\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}` or `[[1, 2], [3, 4]]`."""
    latex = re.fullmatch(r"\s*\\begin\{pmatrix\}(.*)\\end\{pmatrix\}\s*", formula, re.DOTALL)
    if latex:
        lines = [line.split("&") for line in latex[1].strip().removesuffix(r"\\").split(r"\\")]
    elif re.fullmatch(r"\s*\[\s*\[.*\]\s*\]\s*", formula):
        lines = [line.split(",") for line in re.findall(r"\[([^\[\]]*)\]", formula.strip()[1:-1])]
    else:
        return None
    entries = [[read_coefficients(cell, "x") for cell in line] for line in lines]
    is_number = all(cell is not None and len(cell) == 1 for row in entries for cell in row)
    if len({len(line) for line in entries}) != 1 or not is_number:
        return None
    return [[cell[0] for cell in line] for line in entries]


class _UnreadableError(ValueError):
    """The formula is no polynomial in the variables."""


@lru_cache(maxsize=32)
def _ring(variables: str) -> PolyRing:
    return PolyRing(list(variables), QQ)


class _Reader:
    """Recursive descent over the tokens of a formula."""

    def __init__(self, formula: str, variables: str):
        self.ring = _ring(variables)
        self.names = dict(zip(variables, self.ring.gens, strict=True))
        self.tokens = TOKEN.findall(formula.replace(r"\left", "").replace(r"\right", ""))
        self.place = 0
        if len(self.tokens) > MAX_TOKENS:
            raise _UnreadableError

    def read(self) -> PolyElement:
        polynomial = self._sum()
        if self.place < len(self.tokens):
            raise _UnreadableError
        return polynomial

    def _next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def _take(self) -> str:
        token = self._next()
        if not token:
            raise _UnreadableError
        self.place += 1
        return token

    def _sum(self) -> PolyElement:
        total = self.ring.zero
        sign = self._take() if self._next() in ("+", "-") else "+"
        while True:
            total = total + self._product() if sign == "+" else total - self._product()
            if self._next() not in ("+", "-"):
                return total
            sign = self._take()

    def _product(self) -> PolyElement:
        result = self._power()
        while (token := self._next()) not in ("", "+", "-", ")", "}", "]"):
            if token in ("*", r"\cdot", r"\times"):
                self._take()
                result = self._bounded(result * self._power())
            elif token in ("/", r"\div"):
                self._take()
                result = self._quotient(result, self._power())
            else:
                result = self._bounded(result * self._power())
        return result

    def _power(self) -> PolyElement:
        base = self._base()
        if self._next() != "^":
            return base
        self._take()
        exponent = self._power() if self._next() == "{" else self._base()
        if not exponent.is_ground or exponent.coeff(1).denominator != 1 or not 0 <= exponent.coeff(1) <= MAX_DEGREE:
            raise _UnreadableError
        return self._bounded(base ** int(exponent.coeff(1)))

    def _base(self) -> PolyElement:
        token = self._take()
        if token in self.names:
            return self.names[token]
        if token[0].isdigit() and len(token) <= 12:
            return self.ring.ground_new(QQ(Fraction(token).numerator, Fraction(token).denominator))
        if token in ("(", "{", "["):
            inside = self._sum()
            if self._take() != {"(": ")", "{": "}", "[": "]"}[token]:
                raise _UnreadableError
            return inside
        if token == r"\frac":
            return self._quotient(self._base(), self._base())
        raise _UnreadableError

    def _quotient(self, over: PolyElement, under: PolyElement) -> PolyElement:
        if not under.is_ground or not under:
            raise _UnreadableError
        return over.quo_ground(under.coeff(1))

    def _bounded(self, polynomial: PolyElement) -> PolyElement:
        is_large = any(max(abs(each.numerator), each.denominator) > MAX_NUMBER**2 for each in polynomial.values())
        if is_large or (polynomial and max(polynomial.degrees()) > MAX_DEGREE):
            raise _UnreadableError
        return polynomial
