"""Whether an answer is right, by policies that are settings, in worker processes that may die."""
