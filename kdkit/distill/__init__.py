"""The distillation stage: loss, stages, trainer."""
