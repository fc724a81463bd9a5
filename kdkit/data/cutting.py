"""Windows cut into shorter ones, for steps of a training that read short sequences."""

import math

import numpy as np

from kdkit.data.windows import PAD, Windows


def cut_windows(windows: Windows, max_length: int) -> tuple[Windows, np.ndarray]:
    """Cut windows into pieces of about equal lengths, at places where both tokenizers end; no text is lost.

    Each piece begins with the start tokens of its window. For training: bytes, documents and unknown tokens are not
    counted, and all tokens are labels.

    Args:
        windows: of plain text.
        max_length: student tokens of a piece, the start token included; one whose first aligned stretch is longer
            keeps that.

    Returns:
        The pieces, and the window of each, int64.
    """
    bounds, origins = [], []
    for number in range(len(windows)):
        pieces = _bounds(windows, number, max_length)
        bounds += pieces
        origins += [number] * len(pieces)
    width, teacher_width = (max(stop - start for start, stop in side) + 1 for side in zip(*bounds, strict=True))
    student_ids = np.full((len(bounds), width), PAD, np.int32)
    teacher_ids = np.full((len(bounds), teacher_width), PAD, np.int32)
    positions, same = np.full((len(bounds), width), PAD, np.int32), np.zeros((len(bounds), width), bool)
    for row, (number, ((start, stop), (first, last))) in enumerate(zip(origins, bounds, strict=True)):
        for ids, source, (a, b) in (
            (student_ids, windows.student_ids, (start, stop)),
            (teacher_ids, windows.teacher_ids, (first, last)),
        ):
            ids[row, 0] = source[number, 0]
            ids[row, 1 : b - a + 1] = source[number, a + 1 : b + 1]
        own = np.asarray(windows.teacher_positions[number, start:stop])
        positions[row, : stop - start] = np.where(own == PAD, PAD, own - first)
        same[row, : stop - start] = windows.same_token[number, start:stop]
    return Windows(student_ids, teacher_ids, positions, same, np.zeros(len(bounds), np.int64)), np.array(origins)


def _bounds(windows: Windows, number: int, max_length: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the last token before each piece and its own last one, of the student and of the teacher."""
    num_student, num_teacher = (int((ids[number] != PAD).sum()) for ids in (windows.student_ids, windows.teacher_ids))
    positions = np.asarray(windows.teacher_positions[number])[: num_student - 1]
    places = np.append(np.flatnonzero(positions != PAD), num_student - 1)
    teacher_places = np.append(positions[places[:-1]], num_teacher - 1)
    num_pieces = math.ceil((num_student - 1) / (max_length - 1))
    size = math.ceil((num_student - 1) / num_pieces)
    chosen = [0]
    while chosen[-1] < len(places) - 1:
        reach = int(np.searchsorted(places, places[chosen[-1]] + size, side="right")) - 1
        chosen.append(max(reach, chosen[-1] + 1))
    students, teachers = places[chosen].tolist(), teacher_places[chosen].tolist()
    return [((a, b), (c, d)) for a, b, c, d in zip(students, students[1:], teachers, teachers[1:], strict=False)]
