"""Maths: problems whose every step is checked, and a checker of answers. No model; sympy underneath."""
