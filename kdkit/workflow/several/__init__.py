"""Several runs at once or one after the other: sweeps, chains, comparisons."""
