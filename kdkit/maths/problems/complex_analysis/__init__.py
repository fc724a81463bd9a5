"""Complex analysis: numbers, roots, analytic functions, residues."""

from kdkit.maths.problems.complex_analysis.all import TEMPLATES

__all__ = ["TEMPLATES"]
