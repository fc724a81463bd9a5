"""Teachers of any kind: prepared, probed, run online or read from a cache, mixed, sampled."""
