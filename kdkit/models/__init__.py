"""Causal language models: loading, building, looking inside, writing text."""
