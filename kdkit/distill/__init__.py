"""The distillation stage: objective, trainer, stages."""
