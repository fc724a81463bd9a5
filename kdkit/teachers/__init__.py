"""Teachers: prepared, probed, run online or read from a cache, mixed."""
