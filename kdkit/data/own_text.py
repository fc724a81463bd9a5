"""Windows of what a student has written: its own tokens, and the teacher's tokens for the same text."""

from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.tokenizers import encode_with_ends, end_token_id, start_token_id, token_bytes
from kdkit.data.streams import StreamBuilder
from kdkit.data.windows import PAD, Windows, assemble_windows


def windows_of_ids(
    rows: list[list[int]],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    overlap: VocabularyOverlap,
    same_tokenizer: bool,
    max_teacher_length: int | None = None,
    end_ids: tuple[int, int] | None = None,
) -> Windows:
    """Make a window of each row; a row of which nothing can be read by both models is left out.

    A row is read up to its first token that is no text (a special one other than the end of a document),
    or that makes no valid character with those around it: a small student writes half characters.

    Args:
        rows: student ids, without the start token; end tokens separate documents.
        same_tokenizer: the teacher reads the very same ids.
        max_teacher_length: tokens of the teacher's context; what would not fit is left out. None: no limit.
        end_ids: what ends a text for student and teacher; None: the ends of documents.
    """
    tables = _table(student_tokenizer), _table(teacher_tokenizer)
    end_ids = end_ids or (end_token_id(student_tokenizer), end_token_id(teacher_tokenizer))
    builder = StreamBuilder()
    bounds = []
    for row in rows:
        first = builder.num_groups
        if same_tokenizer:
            places = np.arange(1, len(row) + 1)
            builder.add_document(row, places, row, places, None)
        else:
            for document, is_ended in _split(row, end_ids[0]):
                ids, ends, text = _readable(document, tables[0])
                whole = is_ended and len(ids) == len(document)
                teacher = encode_with_ends(teacher_tokenizer, tables[1], text)
                builder.add_document(ids, ends, *teacher, end_ids if whole else None)
                if len(ids) < len(document):
                    break
        if builder.num_groups > first:
            bounds.append((first, builder.num_groups))
    streams = builder.join()
    groups = streams.groups
    if max_teacher_length is not None:
        bounds = [(a, _fitting(groups, a, b, max_teacher_length - 1)) for a, b in bounds]
        bounds = [(a, b) for a, b in bounds if b > a]
    lengths = [(groups[b - 1, 1] - groups[a, 0], groups[b - 1, 3] - groups[a, 2]) for a, b in bounds]
    widths = np.max(lengths or [(0, 0)], axis=0) + 1
    starts = start_token_id(student_tokenizer), start_token_id(teacher_tokenizer)
    return assemble_windows(streams, bounds, overlap, starts, (int(widths[0]), int(widths[1])))


def prompts_of(windows: Windows, rows: list[int]) -> list[tuple[list[int], list[int]]]:
    """Return what both models read before the last answer of some windows, student first.

    A window without an answer in the loss is left out.
    """
    found = []
    for row in rows:
        starts = [_last_run(windows.labels([row], of_teacher)[0]) for of_teacher in (False, True)]
        if min(starts) > 0:
            ids = windows.student_ids[row], windows.teacher_ids[row]
            found.append(tuple(side[:start].tolist() for side, start in zip(ids, starts, strict=True)))
    return found


def _last_run(labels: np.ndarray) -> int:
    """Return where the last stretch of labels begins; 0 where there is none."""
    begins = np.flatnonzero(labels[1:] & ~labels[:-1]) + 1
    return int(begins[-1]) if len(begins) else 0


def answers_after(prompts: list[tuple[list[int], list[int]]], answers: list[Windows]) -> Windows:
    """Put what was written behind its prompts, which are one group of tokens, in no loss.

    Args:
        prompts: of student and teacher; the two need not be the same text.
        answers: windows of one row each, from `windows_of_ids`, whose start tokens give way to the prompts.
    """
    sides = [[], []]
    positions, same, counted = [], [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = answer.student_ids[0], answer.teacher_ids[0]
        own = [side[1:][side[1:] != PAD].tolist() for side in ids]
        for side, before, after in zip(sides, prompt, own, strict=True):
            side.append(before + after)
        places = answer.teacher_positions[0, : len(own[0])]
        moved = np.where(places == PAD, PAD, places + len(prompt[1]) - 1)
        before = len(prompt[0]) - 1
        # the first token predicts the group of the prompts, which both go through at once
        positions.append([0] * (before > 0) + [PAD] * (before - 1) + moved.tolist() + [PAD])
        same.append([False] * before + answer.same_token[0, : len(own[0])].tolist() + [False])
        counted.append([False] * (before + 1) + [True] * len(own[0]))
    return Windows(
        student_ids=_rows(sides[0], PAD, np.int32),
        teacher_ids=_rows(sides[1], PAD, np.int32),
        teacher_positions=_rows(positions, PAD, np.int32),
        same_token=_rows(same, False, bool),
        num_bytes=np.concatenate([answer.num_bytes for answer in answers]),
        in_loss=_rows(counted, False, bool),
    )


def _rows(rows: list[list], filling: int | bool, dtype: type) -> np.ndarray:
    """Pad lists to an array."""
    filled = np.full((len(rows), max(map(len, rows))), filling, dtype)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return filled


def _fitting(groups: np.ndarray, first: int, stop: int, room: int) -> int:
    """Return how far the groups from `first` on go that a teacher has room for, at most to `stop`."""
    return first + int(np.searchsorted(groups[first:stop, 3] - groups[first, 2], room, side="right"))


@lru_cache(maxsize=4)
def _table(tokenizer: PreTrainedTokenizerFast) -> list[bytes | None]:
    """Return `token_bytes`, which takes 0.7 s for 150,000 tokens: too long for every micro-batch."""
    return token_bytes(tokenizer)


def _split(row: list[int], end_id: int) -> list[tuple[list[int], bool]]:
    """Cut a row into documents, each with whether an end token follows it."""
    documents, start = [], 0
    for place in [i for i, token_id in enumerate(row) if token_id == end_id]:
        documents.append((row[start:place], True))
        start = place + 1
    return documents + [(row[start:], False)] * (start < len(row))


def _readable(ids: list[int], table: list[bytes | None]) -> tuple[list[int], np.ndarray, str]:
    """Return the longest beginning that is valid text: its ids, where each ends in bytes, and the text."""
    pieces = [table[token_id] for token_id in ids]
    pieces = pieces[: pieces.index(None)] if None in pieces else pieces
    content = b"".join(pieces)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        text = content[: error.start].decode()
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    spelled = text.encode()
    # the last token kept must not end inside a character (continuation bytes are 10xxxxxx)
    is_whole = [end == len(spelled) or (end < len(spelled) and spelled[end] >> 6 != 0b10) for end in ends]
    kept = max((i + 1 for i, whole in enumerate(is_whole) if whole), default=0)
    return ids[:kept], ends[:kept], spelled[: ends[kept - 1] if kept else 0].decode()
