"""Windows: documents cut into training sequences that two models read side by side.

A window is a stretch of text that starts and ends where both tokenizers do, so both models read exactly the same
bytes; each side begins with its own start token, so every byte is predicted. Documents follow each other, an end token
after each.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.fidelity import UNKNOWN
from kdkit.data.streams import Streams

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
    in_loss: np.ndarray = None  # type: ignore[assignment]
    """bool, `[num_windows, S]`: whether the student's token at a place is a label, as a conversation's answers are; its
    width is 0 where every token is. `num_bytes`, `unknown` and `changed_bytes` are of these tokens only."""

    def __post_init__(self):
        if self.unknown is None:
            object.__setattr__(self, "unknown", np.zeros((len(self.num_bytes), 0, 3), np.int32))
        if self.changed_bytes is None:
            object.__setattr__(self, "changed_bytes", np.zeros((len(self.num_bytes), 2), np.int64))
        if self.pieces is None:
            object.__setattr__(self, "pieces", np.zeros((len(self.num_bytes), 0, 4), np.int32))
        if self.in_loss is None:
            object.__setattr__(self, "in_loss", np.zeros((len(self.num_bytes), 0), bool))

    def __len__(self) -> int:
        return len(self.num_bytes)

    def save(self, folder: Path) -> None:
        """Write one .npy file per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> "Windows":
        """Open the arrays that `save` wrote, without reading them into memory; older folders lack `in_loss`."""
        files = {name: folder / f"{name}.npy" for name in cls.__dataclass_fields__}
        kept = {name: file for name, file in files.items() if name != "in_loss" or file.is_file()}
        return cls(**{name: np.load(file, mmap_mode="r") for name, file in kept.items()})

    def select(self, rows: np.ndarray) -> "Windows":
        """Return some of the windows, given their numbers or a mask."""
        return Windows(*(np.asarray(array)[rows] for array in vars(self).values()))

    def labels(self, rows: list[int] | slice, of_teacher: bool = False) -> np.ndarray:
        """Return which tokens of some windows are labels, bool, `[rows, S]` or `[rows, T]`; the start token never is.

        The teacher's tokens count where the student's do that stand for the same text.
        """
        counted = np.asarray((self.teacher_ids if of_teacher else self.student_ids)[rows]) != PAD
        counted[:, 0] = False
        if not self.in_loss.shape[1]:
            return counted
        if not of_teacher:
            return counted & self.in_loss[rows]
        # a position predicts the next token: the first one of its span, on both sides
        positions, is_label = np.asarray(self.teacher_positions[rows])[:, :-1], np.asarray(self.in_loss[rows])[:, 1:]
        row, place = np.nonzero(positions != PAD)
        span = np.full(counted.shape, PAD)
        span[row, positions[row, place] + 1] = np.arange(len(row))
        return counted & np.append(is_label[row, place], False)[np.maximum.accumulate(span, axis=1)]

    def first(self, count: int | None) -> "Windows":
        """Return the first windows; all for None."""
        return Windows(*(array[:count] for array in vars(self).values()))

    def describe(self) -> dict[str, float]:
        """Count windows, bytes and tokens in the loss, and the share of student tokens where the two can be compared.

        Of the bytes, also the share that each tokenizer reads as an unknown token, and as something else.
        """
        return describe_counts(count_windows(self))


def count_windows(windows: Windows) -> np.ndarray:
    """Count windows, bytes, tokens of both, aligned and equal tokens, unknown and changed bytes of both, tokens read.

    All but the last are of what is in the loss; int64, `[11]`.
    """
    every, counts = slice(None), np.zeros(11, np.int64)
    student = windows.labels(every)
    aligned = (windows.teacher_positions[:, :-1] != PAD) & (student[:, 1:] if windows.in_loss.shape[1] else True)
    unknown = [int(windows.unknown[:, :, 2][windows.unknown[:, :, 0] == side].sum()) for side in (0, 1)]
    counts[:4] = len(windows), windows.num_bytes.sum(), student.sum(), windows.labels(every, of_teacher=True).sum()
    counts[4:6] = aligned.sum(), windows.same_token.sum()
    counts[6:] = *unknown, *windows.changed_bytes.sum(axis=0), (windows.student_ids[:, 1:] != PAD).sum()
    return counts


def describe_counts(counts: np.ndarray) -> dict[str, float]:
    """Say what `count_windows` counted; see `Windows.describe`."""
    num_windows, num_bytes, student, teacher, aligned, same, *lost, read = counts.tolist()
    names = "student_unknown_share", "teacher_unknown_share", "student_changed_share", "teacher_changed_share"
    return {
        "num_windows": num_windows,
        "num_bytes": num_bytes,
        "student_tokens": student,
        "teacher_tokens": teacher,
        "same_prefix_share": aligned / max(student, 1),
        "same_token_share": same / max(student, 1),
        **{name: count / max(num_bytes, 1) for name, count in zip(names, lost, strict=True)},
        **({"student_tokens_read": read} if read != student else {}),
    }


def assemble_windows(
    streams: Streams,
    bounds: list[tuple[int, int]],
    overlap: VocabularyOverlap,
    starts: tuple[int | np.ndarray, int | np.ndarray],
    widths: tuple[int, int],
    is_counted: np.ndarray | None = None,
) -> Windows:
    """Make a window of each stretch of groups.

    Args:
        bounds: first group of each window, and the one after its last.
        starts: start tokens of the student and of the teacher, or of each window of theirs.
        widths: lengths of the rows of both.
        is_counted: bool, `[num_groups]`: the groups in the loss; None: all. Their bytes must be 0 elsewhere.
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
    if is_counted is not None:
        single &= is_counted[items]
    windows.same_token.reshape(-1)[places[single]] = True
    return (
        windows
        if is_counted is None
        else replace(windows, in_loss=_mark(is_counted[items], inside, places, (len(bounds), widths[0])))
    )


def _mark(is_counted: np.ndarray, groups: np.ndarray, places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mark the student's tokens of groups that count; see `Windows.in_loss`.

    Args:
        places: of the position that predicts each group, in the flattened rows.
    """
    lengths = np.where(is_counted, groups[:, 1] - groups[:, 0], 0)
    _, marked = _flatten(places + 1, places + 1 + lengths)
    in_loss = np.zeros(shape, bool)
    in_loss.reshape(-1)[marked] = True
    return in_loss


def _flatten(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers from each start to its stop, one after the other, and which of the stretches each is in."""
    lengths = stops - starts
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, np.arange(len(rows)) + (starts - np.cumsum(lengths) + lengths)[rows]


def _fill(ids: np.ndarray, starts: np.ndarray, stops: np.ndarray, start_id: int | np.ndarray, width: int) -> np.ndarray:
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
