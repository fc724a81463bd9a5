"""The embedding teacher: its signals, their cache, its probe."""
