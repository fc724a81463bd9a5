"""The events of projected KL: which tokens of two vocabularies begin with the same piece of text.

The finer of the two tokenizers gives the events: its tokens. A token of the coarser one stands for the
first token that the finer one cuts its text into. Predictions after the same prefix are then over the
same events.
"""

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import end_token_id, token_bytes


def group_tokens(fine_tokenizer: PreTrainedTokenizerFast, coarse_tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Return the finer token that each token of the coarser vocabulary begins with.

    Returns:
        int64, one per coarse id: the id of a finer token; the finer vocabulary's size where a token has
        no text, or none that the finer tokenizer can write. The ends of a document belong together.
    """
    fine, coarse = token_bytes(fine_tokenizer), token_bytes(coarse_tokenizer)
    ends = end_token_id(coarse_tokenizer), end_token_id(fine_tokenizer)
    id_of = {piece: token_id for token_id, piece in enumerate(fine) if piece}
    firsts = _first_tokens(fine_tokenizer, fine, id_of, coarse)
    groups = np.array([len(fine) if first is None else first for first in firsts], dtype=np.int64)
    if ends[0] is not None and ends[1] is not None:
        groups[ends[0]] = ends[1]
    return groups


def _first_tokens(
    tokenizer: PreTrainedTokenizerFast,
    table: list[bytes | None],
    id_of: dict[bytes, int],
    pieces: list[bytes | None],
) -> list[int | None]:
    """Return, for each piece of text, the first token that a tokenizer cuts it into; None for no text.

    A token of the same bytes is itself. Others are cut as the tokenizer cuts them in a text: SentencePiece puts a space
    before a text's first word, so a piece is also encoded without its own, and after a line end. Where none of them
    spells the piece (half a character, a normaliser), the longest token that it begins with is taken.
    """
    firsts: list[int | None] = [id_of.get(piece) if piece else None for piece in pieces]
    open_pieces = {i: piece for i, piece in enumerate(pieces) if piece and firsts[i] is None}
    texts = [piece.decode("utf-8", "replace") for piece in open_pieces.values()]
    tokenizer.backend_tokenizer.encode_special_tokens = True
    forms = (texts, [text.removeprefix(" ") for text in texts], [f"\n{text}" for text in texts])
    encoded = [tokenizer.backend_tokenizer.encode_batch(form, add_special_tokens=False) for form in forms]
    longest = max(map(len, id_of))
    for (i, piece), *encodings in zip(open_pieces.items(), *encoded, strict=True):
        cuts = (_first_of_ending(encoding.ids, table, piece) for encoding in encodings)
        firsts[i] = next((first for first in cuts if first is not None), None)
        if firsts[i] is None:
            prefixes = (piece[:length] for length in range(min(len(piece), longest), 0, -1))
            firsts[i] = next((id_of[prefix] for prefix in prefixes if prefix in id_of), None)
    return firsts


def _first_of_ending(ids: list[int], table: list[bytes | None], piece: bytes) -> int | None:
    """Return the first of the last tokens that together spell a piece; None where no token begins with it."""
    rest = piece
    for token_id in reversed(ids):
        written = table[token_id]
        if not written or not rest.endswith(written):
            return None
        rest = rest[: len(rest) - len(written)]
        if not rest:
            return token_id
    return None
