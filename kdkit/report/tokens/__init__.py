"""Tokens and small models to look at: coloured text, merges, compression, masks and attention. Never imports torch."""
