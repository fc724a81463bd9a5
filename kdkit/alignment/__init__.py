"""Two tokenizers over one text: which tokens and positions belong together."""

from kdkit.alignment.texts import AlignedTexts, align_texts

__all__ = ["AlignedTexts", "align_texts"]
