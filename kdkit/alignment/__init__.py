"""Two tokenizers over one text: which tokens and positions belong together."""
