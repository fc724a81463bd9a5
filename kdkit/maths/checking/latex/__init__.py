"""LaTeX of formulas, read into sympy."""
