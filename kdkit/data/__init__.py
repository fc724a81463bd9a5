"""Documents, cut into windows that both models read, and their batches."""
