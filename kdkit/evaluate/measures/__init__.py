"""What else a model's predictions and texts say: how sure it is, where it is good, how varied it writes."""
