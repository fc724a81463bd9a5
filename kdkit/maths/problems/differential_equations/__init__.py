"""Differential equations: of first order, and of second order with constant coefficients."""

from kdkit.maths.problems.differential_equations.all import TEMPLATES

__all__ = ["TEMPLATES"]
