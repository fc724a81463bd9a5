"""Verbs that let other evaluators judge a run: lm-eval."""
