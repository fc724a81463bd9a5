"""Minimal pairs of sentences, of which one breaks a rule of grammar: read, made here, and judged by models."""
