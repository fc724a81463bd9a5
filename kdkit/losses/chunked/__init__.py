"""The same losses on logits that never exist all at once."""
