"""Embedding distillation methods, one file each."""
