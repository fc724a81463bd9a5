"""Losses on tensors: divergences, cross-tokenizer, hidden-state, sentence and token losses, in nats."""
