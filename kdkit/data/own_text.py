"""Windows of what a student has written: its own tokens, and the teacher's tokens for the same text."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.templates import template_of
from kdkit.alignment.tokenizers import encode_with_ends, end_token_id, start_token_id, token_bytes
from kdkit.data.streams import StreamBuilder, Streams
from kdkit.data.windows import Windows, assemble_windows


def windows_of_ids(
    rows: list[list[int]],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    overlap: VocabularyOverlap,
    same_tokenizer: bool,
    max_teacher_length: int | None = None,
) -> Windows:
    """Make a window of each row; a row of which nothing can be read by both models is left out.

    A row is read up to its first token that is no text (a special one other than the end of a document),
    or that makes no valid character with those around it: a small student writes half characters.

    Args:
        rows: student ids, without the start token; end tokens separate documents.
        same_tokenizer: the teacher reads the very same ids.
        max_teacher_length: tokens of the teacher's context; what would not fit is left out. None: no limit.
    """
    tables = _table(student_tokenizer), _table(teacher_tokenizer)
    end_ids = end_token_id(student_tokenizer), end_token_id(teacher_tokenizer)
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
    starts = start_token_id(student_tokenizer), start_token_id(teacher_tokenizer)
    return _assemble(builder.join(), bounds, overlap, starts, max_teacher_length)


@dataclass(frozen=True)
class OwnAnswer:
    """What a student wrote after a prompt, and the prompt in the words of both models' templates."""

    student_prompt: list[int]
    teacher_prompt: list[int]
    ids: list[int]
    """Student ids, without the token that ended them."""
    stop_id: int | None
    """That token; None: there is none."""


def windows_of_answers(
    answers: list[OwnAnswer],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    overlap: VocabularyOverlap,
    same_tokenizer: bool,
    max_teacher_length: int | None = None,
) -> Windows:
    """Make a window of each prompt with its answer, of which the answer alone is in the loss.

    The prompts are one group of tokens; the answer is aligned on its bytes, and the tokens that end a turn are a pair.
    What cannot be read ends an answer, see `windows_of_ids`; one of which nothing is left makes no window.

    Args:
        same_tokenizer: the teacher reads the very same ids after its own prompt.
        max_teacher_length: see `windows_of_ids`.
    """
    tables = _table(student_tokenizer), _table(teacher_tokenizer)
    turn_ends = template_of(student_tokenizer).end_id, template_of(teacher_tokenizer).end_id
    builder = StreamBuilder()
    bounds, counted, starts = [], [], []
    for answer in answers:
        first = builder.num_groups
        builder.add_block(answer.student_prompt[1:], answer.teacher_prompt[1:])
        if same_tokenizer:
            row = answer.ids if answer.stop_id is None else [*answer.ids, answer.stop_id]
            places = np.arange(1, len(row) + 1)
            builder.add_document(row, places, row, places, None)
        else:
            ids, ends, text = _readable(answer.ids, tables[0])
            is_whole = answer.stop_id == turn_ends[0] and len(ids) == len(answer.ids)
            teacher = encode_with_ends(teacher_tokenizer, tables[1], text)
            builder.add_document(ids, ends, *teacher, turn_ends if is_whole else None)
        counted += [False] + [True] * (builder.num_groups - first - 1)
        if builder.num_groups > first + 1:
            bounds.append((first, builder.num_groups))
            starts.append((answer.student_prompt[0], answer.teacher_prompt[0]))
    is_counted = np.array(counted, bool)
    return _assemble(builder.join(), bounds, overlap, starts, max_teacher_length, is_counted)


def _assemble(
    streams: Streams,
    bounds: list[tuple[int, int]],
    overlap: VocabularyOverlap,
    starts: tuple[int, int] | list[tuple[int, int]],
    max_teacher_length: int | None,
    is_counted: np.ndarray | None = None,
) -> Windows:
    """Make windows as long as they need to be; see `assemble_windows`.

    Args:
        starts: the start tokens of both, or of each window.
    """
    groups = streams.groups
    first_tokens = np.broadcast_to(np.array(starts, np.int64).reshape(-1, 2), (len(bounds), 2))
    if max_teacher_length is not None:
        bounds = [(a, _fitting(groups, a, b, max_teacher_length - 1)) for a, b in bounds]
        # a window holds more than a prompt
        kept = [i for i, (a, b) in enumerate(bounds) if b - a > (is_counted is not None)]
        bounds, first_tokens = [bounds[i] for i in kept], first_tokens[kept]
    lengths = [(groups[b - 1, 1] - groups[a, 0], groups[b - 1, 3] - groups[a, 2]) for a, b in bounds]
    widths = np.max(lengths or [(0, 0)], axis=0) + 1
    sizes = int(widths[0]), int(widths[1])
    return assemble_windows(streams, bounds, overlap, (first_tokens[:, 0], first_tokens[:, 1]), sizes, is_counted)


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
