"""Windows that several teachers read: cut only where the student's and every teacher's tokens end together.

So each teacher's windows are like those of a pair, the student's side of all is the same, and no teacher begins inside
of a token.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.encoding import TextEncoder
from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.data.packing import WindowFiles, cut_groups
from kdkit.data.streams import Streams, empty_streams, read_streams
from kdkit.data.windows import Windows, assemble_windows
from kdkit.errors import UserError


@dataclass(frozen=True)
class Reader:
    """A teacher as the windows see it."""

    name: str
    student_tokenizer: PreTrainedTokenizerFast
    """The student's, equal for all teachers but for its object."""
    teacher_tokenizer: PreTrainedTokenizerFast
    overlap: VocabularyOverlap
    max_length: int
    """Teacher tokens of a window at most, the start token included."""


def pack_together(
    documents: Sequence[str], readers: Sequence[Reader], max_length: int, keeps_documents: bool = False
) -> Iterator[tuple[list[Windows], int]]:
    """Tokenize documents for the student and for every teacher, and yield windows of each teacher.

    Args:
        documents: valid texts, in the order in which they are read.
        max_length: student tokens of a window at most, the start token included.
        keeps_documents: cut no document that fits into a window; see `cut_groups`.

    Yields:
        Windows for each reader, all of the same text, and the bytes left out because one aligned group was longer than
        a window.

    Raises:
        UserError: a tokenizer that reads nothing at all of a document.
    """
    student = TextEncoder(readers[0].student_tokenizer)
    sources = [_read(documents, student, reader) for reader in readers]
    buffers = [empty_streams() for _ in readers]
    rooms = [max_length - 1, *(reader.max_length - 1 for reader in readers)]
    is_last = False
    while not is_last:
        parts = [next(source, None) for source in sources]
        is_last = all(part is None for part in parts)
        buffers = [old if new is None else old.then(new) for old, new in zip(buffers, parts, strict=True)]
        _check_same(buffers, readers)
        groups = common_groups(buffers)
        # the same places in every pair's own groups, by the student token at which they lie
        edges = np.append(groups[:, 0], groups[-1:, 1])
        places = [np.searchsorted(buffer.groups[:, 0], edges) for buffer in buffers]
        of_groups = buffers[0].documents[places[0][:-1]] if keeps_documents and len(groups) else None
        bounds, dropped, stop = cut_groups(groups, rooms, is_last, of_groups)
        lost = sum(int(buffers[0].group_bytes[places[0][each] : places[0][each + 1]].sum()) for each in dropped)
        yield [_assemble(*each, bounds, max_length) for each in zip(buffers, places, readers, strict=True)], lost
        buffers = [buffer.rest(int(place[stop])) for buffer, place in zip(buffers, places, strict=True)]


def common_groups(buffers: Sequence[Streams]) -> np.ndarray:
    """Return the shortest stretches that the tokens of all begin and end together, in what all have read so far.

    Returns:
        int64, `[num_groups, 2 * (1 + teachers)]`: first and last + 1 token of the student, then of every teacher.
    """
    ends = reduce(np.intersect1d, [buffer.groups[:, 1] for buffer in buffers])
    columns = [np.append(0, ends[:-1])[: len(ends)], ends]
    for buffer in buffers:
        at = np.searchsorted(buffer.groups[:, 1], ends)
        last = buffer.groups[at, 3]
        first = buffer.groups[np.append(0, at[:-1] + 1)[: len(at)], 2]
        columns += [first, last]
    return np.stack(columns, axis=1).astype(np.int64)


def write_together(
    documents: Sequence[str],
    readers: Sequence[Reader],
    max_length: int,
    folders: Sequence[Path],
    keeps_documents: bool = False,
) -> list[dict[str, float]]:
    """Pack documents into a folder for each reader, without holding the windows in memory; see `Packer.write`."""
    files = [WindowFiles(folder) for folder in folders]
    for windows, lost in pack_together(documents, readers, max_length, keeps_documents):
        for file, part in zip(files, windows, strict=True):
            file.append(part, lost)
    return [file.close() for file in files]


def _read(documents: Sequence[str], student: TextEncoder, reader: Reader) -> Iterator[Streams]:
    """Tokenize documents for the student and one teacher.

    Raises:
        UserError: fewer documents come out than go in: numbers of documents would mean others for each teacher.
    """
    is_one = reader.student_tokenizer is reader.teacher_tokenizer
    teacher = student if is_one else TextEncoder(reader.teacher_tokenizer)
    ends = end_token_id(reader.student_tokenizer), end_token_id(reader.teacher_tokenizer)
    count = 0
    for streams in read_streams(documents, (student, teacher), ends):
        count = int(streams.documents[-1]) + 1
        yield streams
    if count != len(documents):
        raise UserError(
            f"teachers.members.{reader.name}: expected tokens for every document, got none for "
            f"{len(documents) - count} of {len(documents)}, whose text its tokenizer leaves out; take another teacher, "
            "or leave these documents out"
        )


def _check_same(buffers: Sequence[Streams], readers: Sequence[Reader]) -> None:
    """Make sure that the student's tokens are the same whichever teacher they are read with."""
    for buffer, reader in zip(buffers, readers, strict=True):
        size = min(len(buffer.student_ids), len(buffers[0].student_ids))
        if not np.array_equal(buffer.student_ids[:size], buffers[0].student_ids[:size]):
            raise UserError(
                f"teachers.members.{reader.name}: expected the student to read the same tokens beside every teacher, "
                f"got others than beside {readers[0].name}; its tokenizer leaves documents out, so take another teacher"
            )


def _assemble(
    streams: Streams, places: np.ndarray, reader: Reader, bounds: Iterable[tuple[int, int]], max_length: int
) -> Windows:
    """Make one teacher's windows of the common cuts."""
    own = [(int(places[first]), int(places[stop])) for first, stop in bounds]
    starts = start_token_id(reader.student_tokenizer), start_token_id(reader.teacher_tokenizer)
    return assemble_windows(streams, own, reader.overlap, starts, (max_length, reader.max_length))
