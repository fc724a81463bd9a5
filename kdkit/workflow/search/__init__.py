"""Searches: Optuna chooses the values of some settings, trial by trial."""
