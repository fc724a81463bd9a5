"""Sentences, tasks and token pairs."""
