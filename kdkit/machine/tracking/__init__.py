"""Copies of a run's figures elsewhere: Weights & Biases, and the key that it asks for."""
