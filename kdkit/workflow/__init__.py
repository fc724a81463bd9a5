"""Notebooks in order, and sweeps over variants and seeds."""
