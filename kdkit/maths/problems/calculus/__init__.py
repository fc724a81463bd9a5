"""Calculus: derivatives, integrals, limits, series."""

from kdkit.maths.problems.calculus.all import TEMPLATES

__all__ = ["TEMPLATES"]
