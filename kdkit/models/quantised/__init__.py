"""Causal language models with weights in 8 or 4 bits: rounded, saved, loaded again, recovered by training."""
