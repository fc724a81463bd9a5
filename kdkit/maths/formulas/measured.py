r"""Slopes, integrals and limits whose values are measured: by no rule, so that a rule can be held against them."""

import contextlib
import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import numpy

from kdkit.maths.formulas.tree import Formula, Point

STEP = Fraction(1, 10**90)
NEAR = Fraction(1, 10**200)
COMPLEX_STEP = 1e-30


@dataclass(frozen=True, slots=True)
class Derivative(Formula):
    r"""$\frac{d}{dx}(u)$: its value comes from a difference, by no rule of differentiation."""

    formula: Formula
    name: str

    def value(self, at: Point) -> Any:
        """Exact to 40 digits at Fractions where the formula has no functions, to about 14 elsewhere."""
        return slope(self.formula, self.name, at)


@dataclass(frozen=True, slots=True)
class Integral(Formula):
    r"""$\int_{a}^{b} u dx$ between two numbers: its value comes from quadrature, by no antiderivative."""

    formula: Formula
    low: Formula
    high: Formula
    name: str = "x"

    def value(self, at: Point) -> Any:
        """Good to 12 digits for smooth functions over a few of their periods."""
        low, high = (complex(each.value(at)).real for each in (self.low, self.high))
        nodes, weights = gauss_legendre()
        middle, half = (low + high) / 2, (high - low) / 2
        with numpy.errstate(over="raise", invalid="raise", divide="raise"):
            values = self.formula.value({**at, self.name: middle + half * nodes})
            return complex(half * numpy.sum(weights * values))


@dataclass(frozen=True, slots=True)
class Limit(Formula):
    r"""$\lim_{x \to a} u$, `target` None for infinity: its value is that of u very near to a."""

    formula: Formula
    target: int | Fraction | None
    name: str = "x"

    def value(self, at: Point) -> Any:
        """Good to 70 digits for quotients of polynomials, else to 18 (and only for targets that are numbers)."""
        exact = 1 / NEAR if self.target is None else self.target + NEAR
        with contextlib.suppress(ZeroDivisionError):  # with functions there are floats in it, and such an x is zero
            value = self.formula.value({**at, self.name: exact})
            if isinstance(value, Fraction):
                return value
        with mpmath.workdps(80):
            target = mpmath.mpf(Fraction(self.target).numerator) / Fraction(self.target).denominator
            return self.formula.value({**at, self.name: target + mpmath.mpf(10) ** -20})


@functools.cache
def gauss_legendre() -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return 24 nodes and weights between -1 and 1: exact for polynomials up to degree 47."""
    return numpy.polynomial.legendre.leggauss(24)


def slope(formula: Formula, name: str, at: Point) -> Any:
    """Measure the slope at a point: a difference over 10^-90 in exact numbers, or else the complex step.

    Source: Squire and Trapp 1998, Using complex variables to estimate derivatives of real functions.
    """
    here = at[name]
    if isinstance(here, Fraction):
        before = formula.value(at)
        if isinstance(before, Fraction):
            return (formula.value({**at, name: here + STEP}) - before) / STEP
    real = {key: float(each) for key, each in at.items()}
    return formula.value({**real, name: complex(real[name], COMPLEX_STEP)}).imag / COMPLEX_STEP
