"""Windows: documents cut into training sequences that two models read side by side.

A window is a stretch of text that starts and ends where both tokenizers do, so both models read exactly the same
bytes; each side begins with its own start token, so every byte is predicted. Documents follow each other, an end token
after each.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.encoding import TextEncoder
from kdkit.alignment.fidelity import UNKNOWN
from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.data.arrays import ArrayFolder, join_lists
from kdkit.data.streams import Streams, empty_streams, read_streams

PAD = -1
"""Marks the unused end of a row; no tokenizer has this id."""

LISTS = "pieces", "unknown"
"""Arrays of windows that are as wide as the longest list of any of them."""


@dataclass(frozen=True)
class Windows:
    """Windows of one split, as padded rows; memory-mapped when loaded from disk."""

    student_ids: np.ndarray
    """int32, `[num_windows, S]`: token ids, `PAD` after the end."""
    teacher_ids: np.ndarray
    """int32, `[num_windows, T]`: the same text in the teacher's ids."""
    teacher_positions: np.ndarray
    """int32, `[num_windows, S]`: teacher position that has read the same bytes as this student position; `PAD` where
    there is none. Logits at position i predict token i + 1."""
    same_token: np.ndarray
    """bool, `[num_windows, S]`: at such a position, whether both next tokens are the same one of the common tokens."""
    num_bytes: np.ndarray
    """int64, `[num_windows]`: UTF-8 bytes of text in each window."""
    pieces: np.ndarray = None  # type: ignore[assignment]  # see __post_init__
    """int32, `[num_windows, D, 4]`: pieces of documents that each window consists of, in order: number of the document,
    first student position and first teacher position that predict it, UTF-8 bytes; rows of `PAD` after the last. D is
    0 where nobody knows them."""
    unknown: np.ndarray = None  # type: ignore[assignment]
    """int32, `[num_windows, U, 3]`: unknown tokens of each window: side (0 student, 1 teacher), position that predicts
    it, UTF-8 bytes that it covers; rows of `PAD` after the last. U is 0 where every token stands for its text."""
    changed_bytes: np.ndarray = None  # type: ignore[assignment]
    """int64, `[num_windows, 2]`: bytes that the student's and the teacher's tokenizer read as something else (lower
    case, no accents, no spaces)."""

    def __post_init__(self):
        if self.unknown is None:
            object.__setattr__(self, "unknown", np.zeros((len(self.num_bytes), 0, 3), np.int32))
        if self.changed_bytes is None:
            object.__setattr__(self, "changed_bytes", np.zeros((len(self.num_bytes), 2), np.int64))
        if self.pieces is None:
            object.__setattr__(self, "pieces", np.zeros((len(self.num_bytes), 0, 4), np.int32))

    def __len__(self) -> int:
        return len(self.num_bytes)

    def save(self, folder: Path) -> None:
        """Write one .npy file per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> "Windows":
        """Open the arrays that `save` wrote, without reading them into memory."""
        return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.__dataclass_fields__})

    def first(self, count: int | None) -> "Windows":
        """Return the first windows; all for None."""
        return Windows(*(array[:count] for array in vars(self).values()))

    def describe(self) -> dict[str, float]:
        """Count windows, bytes and tokens, and the share of student tokens where the two can be compared.

        Of the bytes, also the share that each tokenizer reads as an unknown token, and as something else.
        """
        return _describe(_count(self))


def _count(windows: Windows) -> np.ndarray:
    """Count windows, bytes, tokens of both, aligned and equal tokens, unknown and changed bytes of both, `[10]`."""
    student, teacher = (int((ids[:, 1:] != PAD).sum()) for ids in (windows.student_ids, windows.teacher_ids))
    aligned, same = int((windows.teacher_positions != PAD).sum()), int(windows.same_token.sum())
    unknown = [int(windows.unknown[:, :, 2][windows.unknown[:, :, 0] == side].sum()) for side in (0, 1)]
    changed = windows.changed_bytes.sum(axis=0)
    return np.array([len(windows), windows.num_bytes.sum(), student, teacher, aligned, same, *unknown, *changed], int)


def _describe(counts: np.ndarray) -> dict[str, float]:
    """Say what `_count` counted; see `Windows.describe`."""
    num_windows, num_bytes, student, teacher, aligned, same, *lost = counts.tolist()
    names = "student_unknown_share", "teacher_unknown_share", "student_changed_share", "teacher_changed_share"
    return {
        "num_windows": num_windows,
        "num_bytes": num_bytes,
        "student_tokens": student,
        "teacher_tokens": teacher,
        "same_prefix_share": aligned / max(student, 1),
        "same_token_share": same / max(student, 1),
        **{name: count / max(num_bytes, 1) for name, count in zip(names, lost, strict=True)},
    }


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
        """Pack documents into a folder that `Windows.load` opens, without holding the windows in memory.

        Returns:
            What `Windows.describe` says, and `bytes_left_out`.
        """
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
        self._counts.append(_count(windows))
        self._lost += lost

    def close(self) -> dict[str, float]:
        """Finish the files; return what `Windows.describe` says of them, and `bytes_left_out`."""
        self._files.close()
        return _describe(np.sum(self._counts, axis=0)) | {"bytes_left_out": self._lost}


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


def assemble_windows(
    streams: Streams,
    bounds: list[tuple[int, int]],
    overlap: VocabularyOverlap,
    starts: tuple[int, int],
    widths: tuple[int, int],
) -> Windows:
    """Make a window of each stretch of groups.

    Args:
        bounds: first group of each window, and the one after its last.
        starts: start tokens of the student and of the teacher.
        widths: lengths of the rows of both.
    """
    student_ids, teacher_ids, groups = streams.student_ids, streams.teacher_ids, streams.groups
    teacher_id_of = np.full(overlap.student_size, PAD, dtype=np.int64)
    teacher_id_of[overlap.student_ids] = overlap.teacher_ids
    limits = np.array(bounds, np.int64).reshape(-1, 2)
    rows, items = _flatten(limits[:, 0], limits[:, 1])
    first = groups[limits[:, 0]][:, [0, 2]]
    stops = groups[limits[:, 1] - 1][:, [1, 3]]
    windows = Windows(
        student_ids=_fill(student_ids, first[:, 0], stops[:, 0], starts[0], widths[0]),
        teacher_ids=_fill(teacher_ids, first[:, 1], stops[:, 1], starts[1], widths[1]),
        teacher_positions=np.full((len(bounds), widths[0]), PAD, dtype=np.int32),
        same_token=np.zeros((len(bounds), widths[0]), dtype=bool),
        num_bytes=np.bincount(rows, streams.group_bytes[items], len(bounds)).astype(np.int64),
        pieces=_find_pieces(streams, limits, rows, items),
        **_find_losses(streams, limits),
    )
    inside = groups[items]
    # the start token moves every token one place right, so its predictor stands at its old index
    places = inside[:, 0] + (np.arange(len(bounds)) * widths[0] - first[:, 0])[rows]
    windows.teacher_positions.reshape(-1)[places] = inside[:, 2] - first[rows, 1]
    single = (inside[:, 1] - inside[:, 0] == 1) & (inside[:, 3] - inside[:, 2] == 1)
    single[single] = teacher_id_of[student_ids[inside[single, 0]]] == teacher_ids[inside[single, 2]]
    windows.same_token.reshape(-1)[places[single]] = True
    return windows


def _flatten(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers from each start to its stop, one after the other, and which of the stretches each is in."""
    lengths = stops - starts
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, np.arange(len(rows)) + (starts - np.cumsum(lengths) + lengths)[rows]


def _fill(ids: np.ndarray, starts: np.ndarray, stops: np.ndarray, start_id: int, width: int) -> np.ndarray:
    """Copy stretches of a stream into rows, a start token before each."""
    filled = np.full((len(starts), width), PAD, dtype=np.int32)
    filled[:, 0] = start_id
    rows, items = _flatten(starts, stops)
    filled.reshape(-1)[items + (np.arange(len(starts)) * width - starts + 1)[rows]] = ids[items]
    return filled


def _find_pieces(streams: Streams, limits: np.ndarray, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """List the documents of each window; see `Windows.pieces`.

    Args:
        limits: first group of each window, and the one after its last.
        rows: the window of each group in them.
        items: the groups.
    """
    documents = streams.documents[items]
    is_first = np.append(True, (documents[1:] != documents[:-1]) | (rows[1:] != rows[:-1]))[: len(items)]
    begins = np.flatnonzero(is_first)
    row = rows[begins]
    counts = np.bincount(row, minlength=len(limits))
    pieces = np.full((len(limits), counts.max(initial=0), 4), PAD, np.int32)
    if len(begins):
        places = (streams.groups[items[begins]] - streams.groups[limits[row, 0]])[:, [0, 2]]
        num_bytes = np.add.reduceat(streams.group_bytes[items], begins)
        column = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
        pieces[row, column] = np.column_stack([documents[begins], places, num_bytes])
    return pieces


def _find_losses(streams: Streams, limits: np.ndarray) -> dict[str, np.ndarray]:
    """List the unknown tokens of each window, and count its changed bytes; see `Windows`."""
    changed = np.zeros((len(limits), 2), np.int64)
    unknown = []
    for side, losses in enumerate((streams.student_losses, streams.teacher_losses) if len(limits) else ()):
        starts = streams.groups[limits[:, 0], 2 * side]
        rows = np.searchsorted(starts, losses[:, 0], side="right") - 1
        # what lies in a group that was left out is in no window
        inside = (rows >= 0) & (losses[:, 0] < streams.groups[limits[:, 1] - 1, 2 * side + 1][rows])
        rows, losses = rows[inside], losses[inside]
        is_unknown = losses[:, 2] == UNKNOWN
        np.add.at(changed[:, side], rows[~is_unknown], losses[~is_unknown, 1])
        places = losses[is_unknown, 0] - starts[rows[is_unknown]]
        sides = np.full(len(places), side)
        unknown.append(np.column_stack([rows[is_unknown], sides, places, losses[is_unknown, 1]]))
    found = np.concatenate([np.zeros((0, 4), np.int64), *unknown])
    found = found[np.argsort(found[:, 0], kind="stable")]
    counts = np.bincount(found[:, 0], minlength=len(limits))
    listed = np.full((len(limits), counts.max(initial=0), 3), PAD, np.int32)
    listed[np.arange(listed.shape[1]) < counts[:, None]] = found[:, 1:]
    return {"unknown": listed, "changed_bytes": changed}


def _join(parts: Sequence[Windows]) -> Windows:
    """Put windows of equal widths after each other."""
    arrays = {name: [getattr(part, name) for part in parts] for name in Windows.__dataclass_fields__}
    return Windows(**{n: join_lists(a, PAD) if n in LISTS else np.concatenate(a) for n, a in arrays.items()})


def cut_groups(groups: np.ndarray, rooms: Sequence[int], is_last: bool) -> tuple[list[tuple[int, int]], list[int], int]:
    """Fill windows greedily with whole groups.

    Args:
        groups: int64, `[num_groups, 2 * sides]`: first and last + 1 token of every side.
        rooms: tokens of every side that a window has room for.
        is_last: nothing follows; else the last window may have to wait for more.

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
        if stop > start:
            bounds.append((start, stop))
        else:
            dropped.append(start)
            stop = start + 1
        start = stop
    return bounds, dropped, start
