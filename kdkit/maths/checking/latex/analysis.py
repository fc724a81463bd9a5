r"""Reads what analysis adds to formulas: derivatives, integrals, limits, sums and products, all left standing."""

import sympy
from sympy import Basic, Function, Integer, Symbol
from sympy.core.function import AppliedUndef

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.latex.marks import CLOSERS, CLOSING, GREEK, find_close
from kdkit.maths.checking.latex.reader import Reader
from kdkit.maths.checking.latex.tokens import UnreadableError


def read_formula(tokens: list[str], policies: PolicyConfig) -> tuple[Basic, bool]:
    """Read one formula.

    Returns:
        It, and whether an operation is left standing in it, such as an integral or a determinant.

    Raises:
        UnreadableError: it is none.
    """
    reader = AnalysisReader(tokens, policies)
    try:
        return reader.read(), reader.is_standing
    except (ValueError, TypeError, AttributeError, ArithmeticError, NotImplementedError, RecursionError) as error:
        raise UnreadableError(str(error)) from error


class Slope(sympy.Function):
    """A derivative that is left standing, of a formula that need not contain the letter: it may be a name for one."""

    nargs = 3


class AnalysisReader(Reader):
    """Reads formulas of calculus."""

    def _command(self, token: str) -> Basic:
        if token == "\\int":
            return self._integral()
        if token == "\\lim":
            return self._limit()
        if token in ("\\sum", "\\prod"):
            return self._series(sympy.Sum if token == "\\sum" else sympy.Product)
        return super()._command(token)

    def _fraction(self, above: list[str], below: list[str]) -> Basic:
        if above[:1] in (["d"], ["\\partial"]) and below[:1] == above[:1] and len(below) > 1:
            order, name = _order(above[1:])
            variable, exponent = _order_of_variable(below[1:])
            if variable and order == exponent:
                return self._derivative(above[0], name, variable, order)
        return super()._fraction(above, below)

    def _derivative(self, mark: str, name: list[str], variable: str, order: int) -> Basic:
        """Read what is differentiated: a name in the numerator, or the product that follows."""
        operand = self._part(name) if name else self._product()
        if isinstance(operand, AppliedUndef) and len(operand.args) == 1:
            return Function(operand.func.__name__ + "'" * order)(*operand.args)
        if isinstance(operand, Symbol) and operand.name != variable:
            letter = "" if mark == "d" else "partial "
            return Symbol(f"{letter}d{order if order > 1 else ''}{operand.name}/d{variable}")
        self.is_standing = True
        return Slope(operand, Symbol(variable), Integer(order))

    def _bounds(self) -> dict[str, list[str]]:
        """Read what stands below and above a big sign."""
        found: dict[str, list[str]] = {}
        while self._next in ("_", "^"):
            mark = self._next
            self.at += 1
            found[mark] = ["-", *self._after_sign()] if self._next == "-" else self._argument()
        return found

    def _after_sign(self) -> list[str]:
        self.at += 1
        return self._argument()

    def _integral(self) -> Basic:
        """Read an integral up to its differential."""
        self.is_standing = True
        bounds = self._bounds()
        tokens, open_integrals, depth = self.tokens, 0, 0
        for position in range(self.at, len(tokens) - 1):
            depth += (tokens[position] in CLOSERS) - (tokens[position] in CLOSING)
            if tokens[position] == "\\int":
                open_integrals += 1
            if depth or tokens[position] != "d" or not _is_letter(tokens[position + 1]):
                continue
            if not open_integrals:
                inside = tokens[self.at : position]
                self.at = position + 2
                return self._integrate(inside, tokens[position + 1], bounds)
            open_integrals -= 1
        if self._next == "\\frac":  # \int \frac{dx}{x}
            self.at += 1
            above, below = self._argument(), self._argument()
            if above[-2:-1] == ["d"]:
                inside = ["\\frac", "{", *(above[:-2] or ["1"]), "}", "{", *below, "}"]
                return self._integrate(inside, above[-1], bounds)
        raise UnreadableError("an integral without a differential")

    def _integrate(self, inside: list[str], variable: str, bounds: dict[str, list[str]]) -> Basic:
        """Make the integral."""
        integrand = self._part(inside) if inside else Integer(1)
        symbol = Symbol(variable)
        if not bounds:
            return sympy.Integral(integrand, symbol)
        lower, upper = self._part(bounds["_"]), self._part(bounds["^"])
        return sympy.Integral(integrand, (symbol, lower, upper))

    def _limit(self) -> Basic:
        """Read a limit; it takes the sum that follows, up to the next limit."""
        self.is_standing = True
        below = self._bounds().get("_", [])
        if "\\to" not in below:
            raise UnreadableError("a limit without an arrow")
        arrow = below.index("\\to")
        variable, target, direction = below[:arrow], below[arrow + 1 :], "+-"
        if len(variable) != 1:
            raise UnreadableError("a limit of several variables")
        for sign in ("+", "-"):
            for ending in (["^", "{", sign, "}"], ["^", sign]):
                if target[-len(ending) :] == ending:
                    target, direction = target[: -len(ending)], sign
        body = self._product()
        while self._next in ("+", "-") and "\\lim" not in self.tokens[self.at : self.at + 2]:
            sign = self._next
            self.at += 1
            body += self._product() if sign == "+" else -self._product()
        return sympy.Limit(body, Symbol(variable[0]), self._part(target), direction)

    def _series(self, of: type[sympy.Sum] | type[sympy.Product]) -> Basic:
        """Read a sum or product over an index."""
        self.is_standing = True
        bounds = self._bounds()
        below = bounds.get("_", [])
        if below[1:2] != ["="] or "^" not in bounds:
            raise UnreadableError("a sum without bounds")
        before = self.policies
        if below[0] == before.imaginary_unit:
            self.policies = before.model_copy(update={"imaginary_unit": "none"})
        body = self._product()
        self.policies = before
        return of(body, (Symbol(below[0]), self._part(below[2:]), self._part(bounds["^"])))


def _is_letter(token: str) -> bool:
    return (len(token) == 1 and token.isalpha()) or token[1:] in GREEK


def _order(tokens: list[str]) -> tuple[int, list[str]]:
    """Read `^{2} y`: the order and what is left."""
    if tokens[:1] != ["^"]:
        return 1, tokens
    if tokens[1:2] == ["{"]:
        end = find_close(tokens, 1)
        exponent, rest = tokens[2:end], tokens[end + 1 :]
    else:
        exponent, rest = tokens[1:2], tokens[2:]
    if len(exponent) != 1 or not exponent[0].isdigit() or int(exponent[0]) > 9:
        raise UnreadableError("the order of a derivative")
    return int(exponent[0]), rest


def _order_of_variable(tokens: list[str]) -> tuple[str, int]:
    """Read `x^{2}`: the variable and the order; empty: there are several variables."""
    order, rest = _order(tokens[1:])
    return (tokens[0], order) if not rest and _is_letter(tokens[0]) else ("", 0)
