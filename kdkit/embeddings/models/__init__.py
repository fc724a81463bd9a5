"""Embedding models: read, pooled, saved, examined."""
