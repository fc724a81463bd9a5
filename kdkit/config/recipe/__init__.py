"""Settings of a training beyond the plain recipe."""
