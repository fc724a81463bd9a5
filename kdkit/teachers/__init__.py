"""Teachers: prepared, probed, asked online or from a cache, mixed."""
