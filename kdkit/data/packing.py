"""Packing: documents cut into windows one after the other, in memory or straight onto the disk."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.encoding import TextEncoder
from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.data.arrays import ArrayFolder, join_lists
from kdkit.data.streams import empty_streams, read_streams
from kdkit.data.windows import LISTS, PAD, Windows, assemble_windows, count_windows, describe_counts


@dataclass(frozen=True)
class Packer:
    """Cuts documents into windows for two tokenizers."""

    student_tokenizer: PreTrainedTokenizerFast
    teacher_tokenizer: PreTrainedTokenizerFast
    overlap: VocabularyOverlap
    """The common vocabulary, which decides what the same token is."""
    max_length: int
    """Student tokens of a window at most, the start token included."""
    teacher_max_length: int
    """Teacher tokens of a window at most, the start token included."""

    def pack(self, documents: Iterable[str]) -> Iterator[tuple[Windows, int]]:
        """Tokenize documents twice and yield windows, those of about a megabyte of text at once.

        Args:
            documents: valid texts, in the order in which they are read.

        Yields:
            Windows, and the bytes left out because one aligned group was longer than a window.
        """
        tokenizers = self.student_tokenizer, self.teacher_tokenizer
        student = TextEncoder(self.student_tokenizer)
        is_one = self.student_tokenizer is self.teacher_tokenizer
        teacher = student if is_one else TextEncoder(self.teacher_tokenizer)
        ends, starts = (tuple(map(find, tokenizers)) for find in (end_token_id, start_token_id))
        widths = self.max_length, self.teacher_max_length
        streams = empty_streams()
        for part in chain(read_streams(documents, (student, teacher), ends), [None]):
            streams = streams if part is None else streams.then(part)
            bounds, dropped, stop = cut_groups(streams.groups, [width - 1 for width in widths], part is None)
            lost = int(streams.group_bytes[dropped].sum())
            yield assemble_windows(streams, bounds, self.overlap, starts, widths), lost
            streams = streams.rest(stop)

    def write(self, documents: Iterable[str], folder: Path) -> dict[str, float]:
        """Pack documents into a folder that `Windows.load` opens; see `WindowFiles`."""
        files = WindowFiles(folder)
        for windows, lost in self.pack(documents):
            files.append(windows, lost)
        return files.close()


class WindowFiles:
    """A folder of windows in the making, which `Windows.load` opens; they are not held in memory."""

    def __init__(self, folder: Path):
        """Make the folder."""
        self._files = ArrayFolder(folder, LISTS, PAD)
        self._counts: list[np.ndarray] = []
        self._lost = 0

    def append(self, windows: Windows, lost: int) -> None:
        """Write windows, and count the bytes that were left out beside them."""
        self._files.append(vars(windows))
        self._counts.append(count_windows(windows))
        self._lost += lost

    def close(self) -> dict[str, float]:
        """Finish the files; return what `Windows.describe` says of them, and `bytes_left_out`."""
        self._files.close()
        return describe_counts(np.sum(self._counts, axis=0)) | {"bytes_left_out": self._lost}


def pack_windows(
    documents: Iterable[str],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    overlap: VocabularyOverlap,
    max_length: int,
    teacher_max_length: int,
) -> tuple[Windows, int]:
    """Pack documents in memory: see `Packer`.

    Returns:
        The windows, and the bytes left out because one aligned group was longer than a window.
    """
    packer = Packer(student_tokenizer, teacher_tokenizer, overlap, max_length, teacher_max_length)
    parts, lost = zip(*packer.pack(documents), strict=True)
    return _join(parts), sum(lost)


def _join(parts: Sequence[Windows]) -> Windows:
    """Put windows of equal widths after each other."""
    arrays = {name: [getattr(part, name) for part in parts] for name in Windows.__dataclass_fields__}
    return Windows(**{n: join_lists(a, PAD) if n in LISTS else np.concatenate(a) for n, a in arrays.items()})


def cut_groups(
    groups: np.ndarray, rooms: Sequence[int], is_last: bool, documents: np.ndarray | None = None
) -> tuple[list[tuple[int, int]], list[int], int]:
    """Fill windows greedily with whole groups.

    Args:
        groups: int64, `[num_groups, 2 * sides]`: first and last + 1 token of every side.
        rooms: tokens of every side that a window has room for.
        is_last: nothing follows; else the last window may have to wait for more.
        documents: int64, `[num_groups]`, increasing: the document of each group; a window then ends before one that it
            would cut, unless that has begun where the window does, or before. None: documents are cut anywhere.

    Returns:
        First group of each window and the one after its last; the groups that fit in none; the first group left.
    """
    bounds: list[tuple[int, int]] = []
    dropped: list[int] = []
    places = [memoryview(column.copy()) for column in groups.T]  # far faster to read one by one
    sides = list(zip(places[::2], places[1::2], rooms, strict=True))
    start = 0
    while start < len(groups):
        limits = [
            bisect_right(ends, begins[start] + room, start, min(len(groups), start + room + 1))
            for begins, ends, room in sides
        ]
        stop = min(limits)
        if stop == len(groups) and not is_last:
            break
        if documents is not None and stop < len(groups) and documents[stop] == documents[stop - 1]:
            begin = int(np.searchsorted(documents, documents[stop]))
            stop = begin if begin > start else stop
        if stop > start:
            bounds.append((start, stop))
        else:
            dropped.append(start)
            stop = start + 1
        start = stop
    return bounds, dropped, start
