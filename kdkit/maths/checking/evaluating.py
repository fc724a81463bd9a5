"""The value of a formula at a point, with 60 digits, and never with numbers that would fill the memory."""

from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import sympy
from mpmath import mp
from sympy import Basic, Symbol
from sympy.core.function import AppliedUndef

from kdkit.maths.checking.latex.analysis import Slope

DIGITS = 60
LARGEST = 20_000
"""Powers of two; larger and smaller numbers are out of range."""
MOST_TERMS = 2000
"""Of a sum or product that is added up."""
Value = Any
"""mpf or mpc."""


class OutOfRangeError(ArithmeticError):
    """A formula has no value at a point, or one too large."""


FUNCTIONS: dict[type, Callable[..., Value]] = {
    sympy.sin: mp.sin, sympy.cos: mp.cos, sympy.tan: mp.tan, sympy.cot: mp.cot, sympy.sec: mp.sec, sympy.csc: mp.csc,
    sympy.sinh: mp.sinh, sympy.cosh: mp.cosh, sympy.tanh: mp.tanh, sympy.coth: mp.coth, sympy.sech: mp.sech,
    sympy.csch: mp.csch, sympy.asin: mp.asin, sympy.acos: mp.acos, sympy.atan: mp.atan, sympy.acot: mp.acot,
    sympy.asec: mp.asec, sympy.acsc: mp.acsc, sympy.asinh: mp.asinh, sympy.acosh: mp.acosh, sympy.atanh: mp.atanh,
    sympy.exp: mp.exp, sympy.log: mp.log, sympy.Abs: abs, sympy.sign: mp.sign, sympy.re: mp.re, sympy.im: mp.im,
    sympy.arg: mp.arg, sympy.conjugate: mp.conj, sympy.floor: mp.floor, sympy.ceiling: mp.ceil, sympy.erf: mp.erf,
    sympy.erfc: mp.erfc, sympy.factorial: mp.factorial, sympy.binomial: mp.binomial, sympy.gamma: mp.gamma,
}  # fmt: skip
PERIODIC = (sympy.sin, sympy.cos, sympy.tan, sympy.cot, sympy.sec, sympy.csc, sympy.floor, sympy.ceiling, sympy.exp)
"""Functions that need as many digits as their argument is large."""
CONSTANTS = {sympy.pi: mp.pi, sympy.E: mp.e, sympy.I: mp.j, sympy.EulerGamma: mp.euler}


def evaluate(formula: Basic, point: Mapping[Basic, Value], spreads: list[int] | None = None) -> Value:
    """Return the value of a formula, in the precision of `mpmath.workdps`.

    Args:
        formula: a number, not a matrix.
        point: values of symbols, and of derivatives or functions where they stand for themselves.
        spreads: gets for each sum the powers of two between its largest and its smallest term.

    Raises:
        OutOfRangeError: there is none.
    """
    try:
        return _evaluate(formula, point, spreads)
    except (ArithmeticError, ValueError, TypeError, NotImplementedError, mpmath.libmp.NoConvergence) as error:
        raise OutOfRangeError(str(error)) from error


def _evaluate(formula: Basic, point: Mapping[Basic, Value], spreads: list[int] | None = None) -> Value:
    if formula in point:
        return point[formula]
    if formula.is_Rational:
        return mp.mpf(formula.p) / formula.q
    if formula in CONSTANTS:
        return +CONSTANTS[formula]
    if isinstance(formula, sympy.Add):
        terms = [_evaluate(each, point, spreads) for each in formula.args]
        if spreads is not None and (sizes := [mp.mag(each) for each in terms if each]):
            spreads.append(max(sizes) - min(sizes))
        return _bounded(mp.fsum(terms))
    if isinstance(formula, sympy.Mul):
        return _bounded(mp.fprod(_evaluate(each, point, spreads) for each in formula.args))
    if isinstance(formula, sympy.Pow):
        return _power(_evaluate(formula.base, point, spreads), _evaluate(formula.exp, point, spreads))
    if isinstance(formula, sympy.Piecewise):
        return _evaluate(_piece_at(formula, point), point, spreads)
    if isinstance(formula, AppliedUndef):
        return _unknown(formula, [_evaluate(each, point, spreads) for each in formula.args])
    if formula.func in FUNCTIONS:
        arguments = [_evaluate(each, point, spreads) for each in formula.args]
        if formula.func in PERIODIC and any(mp.mag(each) > 300 for each in arguments if each):
            raise OutOfRangeError("an argument too large")
        return _bounded(FUNCTIONS[formula.func](*arguments))
    return _operation(formula, point)


def _piece_at(formula: sympy.Piecewise, point: Mapping[Basic, Value]) -> Basic:
    """Return the piece that holds at a point."""
    for value, condition in formula.args:
        if _holds(condition, point):
            return value
    raise OutOfRangeError("no piece")


def _holds(condition: Basic, point: Mapping[Basic, Value]) -> bool:
    """Return whether a condition is true at a point."""
    if isinstance(condition, sympy.And | sympy.Or):
        return (all if isinstance(condition, sympy.And) else any)(_holds(each, point) for each in condition.args)
    if not condition.args:
        return condition is sympy.true
    first, second = (_evaluate(each, point) for each in condition.args)
    if isinstance(condition, sympy.Eq | sympy.Ne):
        return (first == second) is isinstance(condition, sympy.Eq)
    if mp.im(first) or mp.im(second):
        raise OutOfRangeError("a complex number is neither smaller nor larger")
    first, second = mp.re(first), mp.re(second)
    if first == second:
        return isinstance(condition, sympy.Le | sympy.Ge)
    return (first < second) is isinstance(condition, sympy.Le | sympy.Lt)


def _bounded(value: Value) -> Value:
    """Refuse what is infinite, undefined or too large."""
    if not mp.isfinite(value):
        raise OutOfRangeError("infinite")
    if value and abs(mp.mag(value)) > LARGEST:
        raise OutOfRangeError("out of range")
    return value


def _power(base: Value, exponent: Value) -> Value:
    """Return a power whose size was estimated first."""
    if not base:
        if mp.re(exponent) <= 0:
            raise OutOfRangeError("zero to this power")
        return mp.mpf(0)
    if mp.mag(exponent) > 64 if exponent else False:
        raise OutOfRangeError("an exponent too large")
    if abs(mp.mag(base)) * abs(exponent) > LARGEST * 2:
        raise OutOfRangeError("a power too large")
    return _bounded(mp.power(base, exponent))


def _unknown(formula: AppliedUndef, arguments: list[Value]) -> Value:
    """Return a number for a function that we know nothing of: the same for the same name and arguments."""
    seed = sum(ord(letter) * 31**place for place, letter in enumerate(formula.func.__name__)) % 9973
    total = mp.mpf(seed) / 1000
    for place, each in enumerate(arguments):
        total += mp.sin(each * (place + 1) + seed) * (place + 2)
    return total


def _operation(formula: Basic, point: Mapping[Basic, Value]) -> Value:
    """Carry out a derivative, definite integral, sum, product or limit."""
    if isinstance(formula, Slope):
        return _evaluate(sympy.diff(formula.args[0], formula.args[1], int(formula.args[2])), point)
    if isinstance(formula, sympy.Derivative):
        return _evaluate(formula.doit(), point)
    if isinstance(formula, sympy.Integral) and len(formula.limits) == 1 and len(formula.limits[0]) == 3:
        return _integrate(formula, point)
    if isinstance(formula, sympy.Sum | sympy.Product):
        return _add_up(formula, point)
    if isinstance(formula, sympy.Limit):
        found = formula.doit()
        if isinstance(found, sympy.Limit) or not found.is_finite:
            raise OutOfRangeError("a limit that is not found")
        return _evaluate(found, point)
    raise OutOfRangeError(f"{type(formula).__name__} has no value")


def _integrate(formula: sympy.Integral, point: Mapping[Basic, Value]) -> Value:
    """Integrate numerically; where the error is too large, symbolically."""
    variable, lower, upper = formula.limits[0]
    ends = [_end(each, point) for each in (lower, upper)]
    inner = dict(point)

    def integrand(at: Value) -> Value:
        inner[variable] = at
        return _evaluate(formula.function, inner)

    value, error = mp.quad(integrand, ends, error=True)
    if error > mp.mpf(10) ** -20 * (1 + abs(value)):
        found = formula.doit()
        if found.has(sympy.Integral):
            raise OutOfRangeError("an integral that does not converge")
        return _evaluate(found, point)
    return _bounded(value)


def _end(bound: Basic, point: Mapping[Basic, Value]) -> Value:
    """Return a bound, which may be infinite."""
    if bound in (sympy.oo, -sympy.oo):
        return mp.inf if bound is sympy.oo else -mp.inf
    return _evaluate(bound, point)


def _add_up(formula: sympy.Sum | sympy.Product, point: Mapping[Basic, Value]) -> Value:
    """Add up the terms, or multiply them; infinitely many by extrapolation."""
    index, lower, upper = formula.limits[0]
    inner = dict(point)

    def term(at: Value) -> Value:
        inner[index] = at
        return _evaluate(formula.function, inner)

    if upper is sympy.oo:
        start = int(_evaluate(lower, point))
        return _bounded(
            mp.nsum(term, [start, mp.inf]) if isinstance(formula, sympy.Sum) else mp.nprod(term, [start, mp.inf])
        )
    bounds = [_evaluate(each, point) for each in (lower, upper)]
    if any(each != int(each) for each in bounds):
        return _evaluate(formula.doit(), point)  # of a letter: sympy may know a closed form
    first, last = (int(each) for each in bounds)
    if last - first > MOST_TERMS:
        raise OutOfRangeError("too many terms")
    terms = [term(mp.mpf(at)) for at in range(first, last + 1)]
    return _bounded(mp.fsum(terms) if isinstance(formula, sympy.Sum) else mp.fprod(terms))


def magnitude(formula: Basic, point: Mapping[Basic, Value]) -> Value:
    """Return how large a formula would be if none of its terms cancelled: by that its rounding errors are measured."""
    if isinstance(formula, sympy.Add):
        return mp.fsum(magnitude(each, point) for each in formula.args)
    if isinstance(formula, sympy.Mul):
        return mp.fprod(magnitude(each, point) for each in formula.args)
    if isinstance(formula, sympy.Pow) and formula.exp.is_Integer and formula.exp > 0:
        return magnitude(formula.base, point) ** int(formula.exp)
    if isinstance(formula, sympy.Integral) and len(formula.limits[0]) == 3 and not formula.has(sympy.oo):
        variable, *bounds = formula.limits[0]
        lower, upper = (evaluate(bound, point) for bound in bounds)
        inside = [lower + (upper - lower) * part / 7 for part in range(1, 7)]
        return abs(upper - lower) * max(magnitude(formula.function, {**point, variable: at}) for at in inside)
    return abs(evaluate(formula, point))


def is_symbolic(formula: Basic) -> bool:
    """Return whether a formula has letters, or functions that are not known."""
    return bool(formula.free_symbols) or bool(formula.atoms(AppliedUndef))


def symbols_of(formulas: list[Basic]) -> list[Symbol]:
    """List the symbols of several formulas in a fixed order."""
    found = set().union(*(formula.free_symbols for formula in formulas)) if formulas else set()
    return sorted(found, key=lambda symbol: symbol.name)
