"""Documents, cut into windows that both models read."""
