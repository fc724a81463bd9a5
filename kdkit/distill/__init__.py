"""Room 03: divergences, the trainer, the student and its baselines."""
