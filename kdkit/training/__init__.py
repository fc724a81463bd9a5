"""The trainer, batches and progress that all trainings of language models share."""
