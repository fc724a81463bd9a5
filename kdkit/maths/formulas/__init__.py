"""Small formulas: written as LaTeX, read from text, evaluated exactly where they can be; no sympy, for speed."""
