"""Conversations as training data: reading, rendering, and cutting them into windows."""
