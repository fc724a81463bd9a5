"""The trainer, optimizer groups, scoring and progress that all trainings of language models share."""
