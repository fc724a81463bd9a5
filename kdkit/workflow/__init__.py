"""Notebooks in order, sweeps, chains, and what the verbs of the command line do."""
