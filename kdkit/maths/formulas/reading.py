r"""Formulas from text, LaTeX or plain: `\frac{x^{2} - 1}{x - 1}`, `(x^2-1)/(x-1)`, `2x e^(3x)`, `\sin 3x`."""

import re
from fractions import Fraction

from kdkit.maths.formulas.tree import (
    FUNCTIONS,
    Formula,
    Function,
    Name,
    Number,
    Power,
    Product,
    Sum,
    add,
    exp,
    multiply,
)

SPACING = re.compile(r"\\left|\\right|\\,|\\;|\\!|\\:|\\ |\\quad|\\displaystyle|\$|\s")
FUNCTION_NAMES = "arctan|sin|cos|tan|exp|ln|log|sqrt"
TOKEN = re.compile(
    rf"\\d?frac|\\?(?:{FUNCTION_NAMES})|\\cdot|\\times|\\?pi|[0-9]+(?:\.[0-9]+)?"
    r"|[A-Za-z](?:_\{?[0-9]\}?)?'*|[-+*/^(){}|]"
)
TIMES = ("*", r"\cdot", r"\times")


class ReadingError(ValueError):
    """This text is no formula that we know."""


def read_formula(text: str) -> Formula:
    """Read a formula, without an equals sign.

    Raises:
        ReadingError: it is none.
    """
    text, tokens, place = SPACING.sub(" ", text), [], 0
    while place < len(text):
        if text[place] == " ":
            place += 1
            continue
        found = TOKEN.match(text, place)
        if not found:
            raise ReadingError(f"{text[place:]} begins no formula")
        tokens.append(found.group())
        place = found.end()
    reader = _Reader(tokens)
    formula = reader.read_sum()
    if reader.ahead:
        raise ReadingError(f"{reader.ahead} follows a formula")
    return formula


def find_formula(text: str) -> Formula | None:
    """Read a formula; None where the text is none."""
    try:
        return read_formula(text)
    except (ReadingError, ZeroDivisionError, RecursionError):
        return None


class _Reader:
    """Descends through tokens: sums of products of powers."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.place = tokens, 0

    @property
    def ahead(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        """Go on by one token."""
        token = self.ahead
        if not token or (expected and token != expected):
            raise ReadingError(f"{token or 'the end'} where {expected or 'a formula'} should be")
        self.place += 1
        return token

    def read_sum(self) -> Formula:
        """Read terms with their signs."""
        terms = []
        while not terms or self.ahead in ("+", "-"):
            sign = 1
            while self.ahead in ("+", "-"):
                sign *= -1 if self.take() == "-" else 1
            terms.append(multiply(Number(sign), self.read_product()))
        return add(*terms)

    def read_product(self) -> Formula:
        """Read factors, with or without a sign between them."""
        product = self.read_power()
        while self.ahead and self.ahead not in ("+", "-", ")", "}", "|"):
            if self.ahead == "/":
                self.take()
                product = product / self._signed_power()
            elif self.ahead in TIMES:
                self.take()
                product = product * self._signed_power()
            else:
                product = product * self.read_power()
        return product

    def _signed_power(self) -> Formula:
        if self.ahead == "-":
            self.take()
            return -self.read_power()
        return self.read_power()

    def read_power(self) -> Formula:
        """Read a base and, where there is one, its exponent."""
        token = self.take()
        name = token.lstrip("\\").replace("log", "ln")
        if name in FUNCTIONS or name == "exp":
            return self._read_function(name)
        base = self._read_base(token)
        if self.ahead != "^":
            return base
        self.take()
        exponent = self._read_exponent()
        return exp(exponent) if base == Name("e") else base**exponent

    def _read_exponent(self) -> Formula:
        if self.ahead == "-":
            self.take()
            return -self._read_base(self.take())
        return self._read_base(self.take())

    def _read_base(self, token: str) -> Formula:
        if token in ("(", "{"):
            inside = self.read_sum()
            self.take(")" if token == "(" else "}")
            return inside
        if token[0].isdigit():
            number = Fraction(token)
            return Number(number.numerator if number.denominator == 1 else number)
        if token.endswith("frac"):
            top = self._read_base(self.take())
            return top / self._read_base(self.take())
        if token.lstrip("\\") == "pi":
            return Name(r"\pi")
        if token[0].isalpha():
            return Name(re.sub(r"_\{?([0-9])\}?", r"_{\1}", token))
        raise ReadingError(f"{token} begins no formula")

    def _read_function(self, name: str) -> Formula:
        exponent: Formula = Number(1)
        if self.ahead == "^":
            self.take()
            exponent = self._read_exponent()
        if self.ahead == "|" and name == "ln":
            self.take()
            argument = self.read_sum()
            self.take("|")
            return Function("ln_abs", argument) ** exponent
        token = self.take()
        argument = self._read_base(token)
        if token not in ("(", "{"):
            argument = self._read_rest(argument)
        return (exp(argument) if name == "exp" else Function(name, argument)) ** exponent

    def _read_rest(self, argument: Formula) -> Formula:
        r"""Read on in an argument without brackets: `\sin 3x^{2}` ends at a sign or a function."""
        while True:
            if self.ahead == "^":
                self.take()
                last = argument if isinstance(argument, Name) else argument.factors[-1]
                rest = () if isinstance(argument, Name) else argument.factors[:-1]
                argument = multiply(*rest, last ** self._read_exponent())
            elif self.ahead[:1].isalnum() and self.ahead not in FUNCTIONS:
                argument = argument * self._read_base(self.take())
            else:
                return argument


def find_coefficients(formula: Formula, name: str = "x") -> tuple[int | Fraction, ...] | None:
    """Return the coefficients of a polynomial, the highest power's first; None: it is none."""
    powers = _powers(formula, name)
    if powers is None:
        return None
    degree = max((power for power, each in powers.items() if each), default=0)
    found = [Fraction(powers.get(power, 0)) for power in range(degree, -1, -1)]
    return tuple(each.numerator if each.denominator == 1 else each for each in found)


def find_integers(formula: Formula | None, name: str = "x") -> tuple[int, ...] | None:
    """Return the coefficients of a polynomial whose coefficients are whole; None: it is none."""
    found = None if formula is None else find_coefficients(formula, name)
    return found if found is not None and all(isinstance(each, int) for each in found) else None


def _powers(formula: Formula, name: str) -> dict[int, int | Fraction] | None:
    match formula:
        case Number(number):
            return {0: number}
        case Name(letter):
            return {1: 1} if letter == name else None
        case Sum(terms):
            parts = [_powers(term, name) for term in terms]
            if any(part is None for part in parts):
                return None
            keys = {power for part in parts for power in part}
            return {power: sum(part.get(power, 0) for part in parts) for power in keys}
        case Product(factors):
            parts = [_powers(factor, name) for factor in factors]
            return None if any(part is None for part in parts) else _times(parts)
        case Power(base, Number(exponent)) if exponent.denominator == 1 and 0 <= exponent <= 20:
            part = _powers(base, name)
            return None if part is None else _times([part] * int(exponent))
    return None


def _times(parts: list[dict[int, int | Fraction]]) -> dict[int, int | Fraction]:
    total: dict[int, int | Fraction] = {0: 1}
    for part in parts:
        product: dict[int, int | Fraction] = {}
        for left, a in total.items():
            for right, b in part.items():
                product[left + right] = product.get(left + right, 0) + a * b
        total = product
    return total
