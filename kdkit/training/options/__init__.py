"""What a training may do beyond the plain recipe: other optimizers and schedules, averages, further tokens."""
