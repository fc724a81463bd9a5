"""Scores of documents and losses on them."""
