"""How well a teacher's and a student's tokenizer fit together: what a cross-tokenizer loss has to work with.

Used by notebook 02.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from kdkit.alignment.spans import Spans
from kdkit.config.language import Config
from kdkit.data.batches import find_spans
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.losses.chunked.events import TokenEvents
from kdkit.machine.session import Session
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.online import OnlineTeacher
from kdkit.training.scoring import iterate_batches


def describe_pair(session: Session[Config], data: PreparedData, teacher: TextTeacher) -> dict[str, Any]:
    """Measure on held-out text what the two vocabularies share; written to `teacher/pair.json`.

    Returns:
        `student_vocabulary`, `teacher_vocabulary`, `common_tokens` and its share of both; of the student's
        tokens, `shared_prefix_share`: those at which the teacher has read the same text; `one_to_one_share`:
        those that are one token for the teacher too; `same_token_share`: and the same entry of both
        vocabularies; `teacher_mass_on_common`: probability that the teacher gives to common tokens, mean over
        shared prefixes.
    """
    windows = data.evaluation.first(session.config.evaluate.max_sequences)
    overlap = data.overlap
    counts = np.zeros(3, dtype=np.int64)
    mass, spans_seen, tokens = 0.0, 0, 0
    online = teacher.online(overlap.teacher_size, session.hardware.autocast_dtype)
    for batch in iterate_batches(windows, "student", session.config.evaluate.batch_size, with_teacher=True):
        spans: Spans = batch["spans"]
        is_counted = torch.from_numpy(batch["counted"])[spans.student_starts[:-1]]
        is_single = (spans.student_lengths == 1) & (spans.teacher_starts.diff() == 1) & is_counted
        counts += [int(is_counted.sum()), int(is_single.sum()), int(spans.same_token.sum())]
        tokens += int(batch["counted"].sum())
        spans_seen += int(is_counted.sum())
        mass += _mass_on(online, batch, overlap.teacher_ids, is_counted)
    shares = (counts / max(tokens, 1)).tolist()
    pair = {
        "student_vocabulary": overlap.student_size,
        "teacher_vocabulary": overlap.teacher_size,
        "common_tokens": len(overlap.student_ids),
        "common_share_of_student": overlap.share_of_student,
        "common_share_of_teacher": overlap.share_of_teacher,
        **dict(zip(("shared_prefix_share", "one_to_one_share", "same_token_share"), shares, strict=True)),
        "teacher_mass_on_common": mass / max(spans_seen, 1),
    }
    session.run.write_json("teacher/pair.json", pair)
    return pair


@torch.no_grad()
def _mass_on(teacher: OnlineTeacher, batch: dict[str, Any], token_ids: np.ndarray, is_counted: torch.Tensor) -> float:
    """Sum the probability that the teacher gives to some tokens, over the first rows of the spans that count."""
    device = teacher.device
    signals, rows = teacher.answer(batch, device), batch["spans"].teacher_starts[:-1][is_counted]
    chosen = torch.from_numpy(token_ids).to(device)
    total = 0.0
    for part in even_chunks(len(rows), rows_per_chunk(teacher.head.vocab_size, device)):
        logprobs = signals.logprobs(rows[part], TokenEvents(), 1.0)
        total += logprobs.index_select(1, chosen).exp().sum().item()
    return total


def aligned_examples(data: PreparedData, count: int = 10) -> list[dict[str, str]]:
    """Show spans of held-out text that follow each other, where the two tokenizers differ most.

    Returns:
        Rows with the tokens of both in quotes, so that spaces and line ends can be seen, and how many there
        are on either side.
    """
    row, first = _most_different(data.evaluation, count)
    spans = find_spans(data.evaluation, [row], 0, 0)
    student = data.evaluation.student_ids[row][1:]
    teacher = data.evaluation.teacher_ids[row][1:]
    bounds = torch.stack([spans.student_starts, spans.teacher_starts], dim=1)[first : first + count + 1].tolist()
    examples = []
    for (s0, t0), (s1, t1) in pairwise(bounds):
        examples.append(
            {
                "student tokens": " ".join(repr(data.student_tokenizer.decode(i)) for i in student[s0:s1]),
                "teacher tokens": " ".join(repr(data.teacher_tokenizer.decode(i)) for i in teacher[t0:t1]),
                "alignment": f"{s1 - s0} : {t1 - t0}",
            }
        )
    return examples


def _most_different(windows: Windows, count: int, rows: int = 20) -> tuple[int, int]:
    """Return the window and the span at which the longest spans follow each other."""
    best, place = -1, (0, 0)
    for row in range(min(rows, len(windows))):
        spans = find_spans(windows, [row], 0, 0)
        sizes = (spans.student_lengths + spans.teacher_starts.diff()).numpy()
        for first in range(max(len(sizes) - count, 0) + 1):
            kinds = int((sizes[first : first + count] > 2).sum())
            if kinds > best:
                best, place = kinds, (row, first)
    return place
