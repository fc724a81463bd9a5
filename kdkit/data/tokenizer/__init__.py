"""A tokenizer of one's own: trained on files, taken apart merge by merge, counted over a text."""
