"""Documents and conversations, cut into windows that the models read, and their batches."""
