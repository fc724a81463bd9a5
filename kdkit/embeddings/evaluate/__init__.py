"""Scores of embedding models on tasks."""
