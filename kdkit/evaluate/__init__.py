"""Held-out text, retention, cost, significance of differences."""
