"""Text of several kinds, and windows of it that several teachers read."""
