"""Optimisation: extrema in one and two variables, with and without a constraint."""
