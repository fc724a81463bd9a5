"""Room 01: corpora, tokenizers, alignment of two tokenizers, packing."""
