"""A sparse matrix from the student's vocabulary to the teacher's: what a student token is in teacher tokens.

A row holds at most four teacher tokens and their weights: the token itself where the teacher has it, else the pieces
that the teacher's tokenizer cuts its text into, the first of which is what a teacher at the same place would predict
next. Tokens are compared by their bytes, so half a character works too.
"""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import end_token_id, start_token_id, token_bytes

NUM_PIECES = 4
"""Teacher tokens kept per student token."""


@dataclass(frozen=True)
class Projection:
    """Rows of the projection matrix, in arrays that can be saved as they are."""

    ids: np.ndarray
    """int64, `[V_student, 4]`: teacher tokens, in the order in which they are read; 0 where the weight is 0.
    One may stand twice (`00` is `0`, `0`)."""
    weights: np.ndarray
    """float32, `[V_student, 4]`: non-increasing; a row sums to 1, or to 0 if nothing stands for the token."""
    is_exact: np.ndarray
    """bool, `[V_student]`: the teacher has this very token (the same bytes, or the same special role)."""
    teacher_size: int

    @property
    def share_of_exact(self) -> float:
        """Share of the student's tokens that the teacher has too."""
        return float(self.is_exact.mean())

    @property
    def share_of_mapped(self) -> float:
        """Share of the student's tokens that some teacher token stands for."""
        return float((self.weights[:, 0] > 0).mean())

    def reachable(self) -> np.ndarray:
        """Return which teacher tokens some student token projects to: bool, `[V_teacher]`."""
        mask = np.zeros(self.teacher_size, dtype=bool)
        mask[self.ids[self.weights > 0]] = True
        return mask

    def partners(self, min_weight: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
        """Pair each student token with its heaviest teacher token, one to one: the common set of H-KL.

        A teacher token that several claim goes to its exact match, else to the heaviest weight; of equal
        ones (<0x41> and A) to the later id, as in `overlap_vocabularies`.

        Args:
            min_weight: least weight of a pair, 0 to 1.

        Returns:
            int64 student ids and teacher ids, `[pairs]` each, ordered by the teacher's.

        Source: Sreenivas et al. 2026 (X-Token), arXiv:2605.21699, the relaxed matching of H-KL.
        """
        heaviest = self.weights[:, 0]
        students = np.flatnonzero((heaviest > 0) & (heaviest >= min_weight))
        order = np.lexsort((-students, -heaviest[students], ~self.is_exact[students]))
        teachers, firsts = np.unique(self.ids[students[order], 0], return_index=True)
        return students[order[firsts]], teachers


def build_projection(
    student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> Projection:
    """Cut the text of each student token into teacher tokens and weigh them.

    The i-th of n pieces weighs 0.9 * 0.1^(i - 1), normalised over the pieces kept. Special tokens are
    paired by their spelling; the ends, and the starts, of a document belong together.

    Source: Sreenivas et al. 2026 (X-Token), arXiv:2605.21699, the initial projection matrix W; without
    the reverse pass (teacher tokens cut by the student) of the authors' code, so that rows sum to 1.
    """
    student, teacher = token_bytes(student_tokenizer), token_bytes(teacher_tokenizer)
    # where two ids share bytes the ordinary piece replaces the byte-fallback one, which comes first
    id_of = {piece: token_id for token_id, piece in enumerate(teacher) if piece}
    rows = _cut_pieces(teacher_tokenizer, teacher, id_of, student)
    is_exact = np.array([bool(piece) and piece in id_of for piece in student], dtype=bool)
    for student_id, teacher_id, exact in _special_pairs(student_tokenizer, teacher_tokenizer):
        rows[student_id], is_exact[student_id] = [teacher_id], exact
    return Projection(*_weigh(rows), is_exact, len(teacher))


def _weigh(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and weights as padded arrays of four columns."""
    counts = np.array([min(len(row), NUM_PIECES) for row in rows])
    taken = np.arange(NUM_PIECES) < counts[:, None]
    ids = np.zeros((len(rows), NUM_PIECES), dtype=np.int64)
    ids[taken] = [token_id for row in rows for token_id in row[:NUM_PIECES]]
    weights = 0.9 * 0.1 ** np.arange(NUM_PIECES) * taken
    return ids, (weights / np.maximum(weights.sum(axis=1, keepdims=True), 0.9)).astype(np.float32)


def _special_pairs(
    student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> list[tuple[int, int, bool]]:
    """Return student id, teacher id and whether they are each other's match, for special tokens."""
    spelled = {
        token.content: token_id for token_id, token in teacher_tokenizer.added_tokens_decoder.items() if token.special
    }
    pairs = [
        (token_id, spelled[token.content], True)
        for token_id, token in student_tokenizer.added_tokens_decoder.items()
        if token.special and token.content in spelled
    ]
    starts = start_token_id(student_tokenizer), start_token_id(teacher_tokenizer)
    ends = end_token_id(student_tokenizer), end_token_id(teacher_tokenizer)
    # the last pair of a student id counts; a start whose partner is the teacher's end must not claim it
    if starts[0] is not None and starts[1] is not None:
        pairs.append((starts[0], starts[1], starts[1] != ends[1]))
    if ends[0] is not None and ends[1] is not None:
        pairs.append((ends[0], ends[1], True))
    return pairs


def _cut_pieces(
    tokenizer: PreTrainedTokenizerFast,
    table: list[bytes | None],
    id_of: dict[bytes, int],
    pieces: list[bytes | None],
) -> list[list[int]]:
    """Return the tokens that a tokenizer cuts each piece into; none for no text or text it cannot write.

    The tokenizer's own cut counts if it spells the piece. Where it cannot encode it (half a character) or
    adds a space (SentencePiece), the longest tokens from the left are taken. If those do not spell it
    either, a cut into other bytes (WordPiece drops spaces, some lower the case) is taken.
    """
    rows = [[id_of[piece]] if piece and piece in id_of else [] for piece in pieces]
    open_pieces = {i: piece for i, piece in enumerate(pieces) if piece and not rows[i]}
    tokenizer.backend_tokenizer.encode_special_tokens = True
    texts = [piece.decode("utf-8", "replace") for piece in open_pieces.values()]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    longest = max(map(len, id_of))
    for (i, piece), text, encoding in zip(open_pieces.items(), texts, encodings, strict=True):
        written = [table[token_id] or b"" for token_id in encoding.ids]
        readable = text.encode() == piece and all(written)
        if readable and b"".join(written) == piece:
            rows[i] = encoding.ids
            continue
        rows[i] = _longest_tokens(piece, id_of, longest)
        complete = sum(len(table[token_id] or b"") for token_id in rows[i]) == len(piece)
        if readable and not complete and _covers(encoding.offsets, text):
            rows[i] = encoding.ids
    return rows


def _covers(offsets: list[tuple[int, int]], text: str) -> bool:
    """Return whether the characters that no token covers are spaces; some tokenizers skip what they lack."""
    covered = {place for start, stop in offsets for place in range(start, stop)}
    return bool(covered) and all(place in covered or text[place].isspace() for place in range(len(text)))


def _longest_tokens(piece: bytes, id_of: dict[bytes, int], longest: int) -> list[int]:
    """Return the longest tokens from the left, up to bytes that no token begins with."""
    row, start = [], 0
    while start < len(piece):
        stops = range(min(len(piece), start + longest), start, -1)
        stop = next((stop for stop in stops if piece[start:stop] in id_of), None)
        if stop is None:
            break
        row.append(id_of[piece[start:stop]])
        start = stop
    return row
