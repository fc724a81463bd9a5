"""Which tokens of two vocabularies begin with the same piece of text: the groups of projected KL.

Letters: v vocabulary. The finer of the two tokenizers gives the groups: one for each of its tokens.
A token of the coarser one belongs to the group of the first token that the finer one cuts its text
into. Predictions after the same prefix then speak of the same events.
"""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.data.tokenizers import token_bytes


@dataclass(frozen=True)
class TokenGroups:
    """The group of every token of both vocabularies; group 0: no text, or none that the finer one can write."""

    student: np.ndarray
    """int64, v_student."""
    teacher: np.ndarray
    """int64, v_teacher."""
    num_groups: int


def group_tokens(
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    end_ids: tuple[int, int],
    student_is_finer: bool,
) -> TokenGroups:
    """Group the tokens of two vocabularies by the finer one's tokens.

    Args:
        end_ids: ids that end a document in the student and in the teacher; one group.
        student_is_finer: whether the student cuts text into more tokens than the teacher.
    """
    if not student_is_finer:
        other = group_tokens(teacher_tokenizer, student_tokenizer, end_ids[::-1], True)
        return TokenGroups(other.teacher, other.student, other.num_groups)
    fine, coarse = token_bytes(student_tokenizer), token_bytes(teacher_tokenizer)
    fine_groups = np.where([bool(piece) for piece in fine], np.arange(len(fine)) + 1, 0)
    fine_groups[end_ids[0]] = end_ids[0] + 1
    id_of = {piece: token_id for token_id, piece in enumerate(fine) if piece}
    firsts = _first_tokens(student_tokenizer, fine, id_of, coarse)
    coarse_groups = np.array([0 if first is None else first + 1 for first in firsts], dtype=np.int64)
    coarse_groups[end_ids[1]] = end_ids[0] + 1
    return TokenGroups(fine_groups.astype(np.int64), coarse_groups, len(fine) + 1)


def _first_tokens(
    tokenizer: PreTrainedTokenizerFast,
    table: list[bytes | None],
    id_of: dict[bytes, int],
    pieces: list[bytes | None],
) -> list[int | None]:
    """Return, for each piece of text, the first token that a tokenizer cuts it into; None for no text.

    A token of the same bytes is itself. Where the tokenizer cannot be asked (half a character) or
    answers with other text (a normaliser), the longest token that the piece begins with is taken.
    """
    firsts: list[int | None] = [id_of.get(piece) if piece else None for piece in pieces]
    open_pieces = [i for i, piece in enumerate(pieces) if piece and firsts[i] is None]
    tokenizer.backend_tokenizer.encode_special_tokens = True
    texts = [pieces[i].decode("utf-8", "replace") for i in open_pieces]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    longest = max(map(len, id_of))
    for i, encoding in zip(open_pieces, encodings, strict=True):
        piece, first = pieces[i], encoding.ids[0] if encoding.ids else None
        if first is not None and table[first] and piece.startswith(table[first]):
            firsts[i] = first
        else:
            prefixes = (piece[:length] for length in range(min(len(piece), longest), 0, -1))
            firsts[i] = next((id_of[prefix] for prefix in prefixes if prefix in id_of), None)
    return firsts
