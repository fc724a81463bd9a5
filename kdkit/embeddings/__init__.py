"""Distillation of embedding models, with the same plan inside."""
