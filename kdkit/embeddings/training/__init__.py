"""Training an embedding student."""
