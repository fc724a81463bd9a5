"""Models from random weights: what they are made of, their first weights, and what they take of memory."""
