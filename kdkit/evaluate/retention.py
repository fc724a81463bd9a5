"""What of the teacher's knowledge a student kept: divergence and agreement at aligned positions."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.losses.divergences import divergence
from kdkit.models.reading import ModelReader, Reader
from kdkit.training.scoring import iterate_batches


@dataclass(frozen=True)
class Positions:
    """Where student and teacher predict the same next token after the same text, and how alike they predict it."""

    place: np.ndarray
    """int64, `[P]`: the student's position, counted through the flattened windows, `[num_windows, S]`."""
    values: dict[str, np.ndarray]
    """By student: KL(teacher || student) in nats, top-k overlap, top-1 agreement, fp64, `[3, P]`."""
    top_k: int


NAMES = ("kl_to_teacher", "top_k_overlap", "top_1_agreement")
"""Of `Positions.values`."""


def sum_up(positions: Positions) -> dict[str, dict[str, float]]:
    """Return the means over positions.

    Returns:
        Per student: `kl_to_teacher` (KL(teacher || student), nats per position, temperature 1),
        `top_k_overlap` (mean share of the teacher's k most likely tokens among the student's) and
        `top_1_agreement`; and the number of positions.
    """
    count = len(positions.place)
    return {
        name: dict(zip(NAMES, (values.sum(axis=1) / max(count, 1)).tolist(), strict=True))
        | {"positions": count, "top_k": positions.top_k}
        for name, values in positions.values.items()
    }


def compare_predictions(
    teacher: PreTrainedModel | Reader,
    students: dict[str, PreTrainedModel],
    data: PreparedData,
    windows: Windows,
    *,
    batch_size: int,
    top_k: int,
    autocast_dtype: torch.dtype | None = None,
) -> Positions:
    """Compare students with their teacher where both predict the same next token after the same prefix.

    Both distributions are taken over the tokens that both vocabularies have.

    Args:
        students: by name.
        windows: held-out text.
        top_k: size of the sets that are compared.
    """
    student_ids, teacher_ids = torch.from_numpy(data.overlap.student_ids), torch.from_numpy(data.overlap.teacher_ids)
    top_k = min(top_k, len(student_ids))
    parts: dict[str, list[torch.Tensor]] = {name: [torch.zeros(3, 0, dtype=torch.float64)] for name in students}
    places, width = [np.zeros(0, np.int64)], windows.student_ids.shape[1]
    sizes = data.overlap.student_size, data.overlap.teacher_size
    reader = teacher if isinstance(teacher, Reader) else ModelReader(teacher, sizes[1], autocast_dtype)
    readers = {name: ModelReader(student, sizes[0], autocast_dtype) for name, student in students.items()}
    for batch in iterate_batches(windows, "student", batch_size, with_teacher=True):
        spans = batch["spans"]
        same = spans.same_token
        student_rows = spans.student_rows[spans.student_starts[:-1][same]]
        teacher_rows = spans.teacher_rows[spans.teacher_starts[:-1][same]]
        row, place = np.divmod(student_rows.numpy(), batch["input_ids"].shape[1])
        places.append(np.array(batch["windows"])[row] * width + place)
        expected = reader.read(batch["teacher_input_ids"])
        got = {name: each.read(batch["input_ids"]) for name, each in readers.items()}
        for part in even_chunks(len(student_rows), rows_per_chunk(max(sizes), torch.device("cpu"))):
            wanted = expected(teacher_rows[part]).cpu().index_select(-1, teacher_ids)
            for name in students:
                logits = got[name](student_rows[part]).cpu().index_select(-1, student_ids)
                parts[name].append(_compare(logits, wanted, top_k))
    return Positions(
        np.concatenate(places), {name: torch.cat(found, dim=1).numpy() for name, found in parts.items()}, top_k
    )


def _compare(student_logits: torch.Tensor, teacher_logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return divergence, top-k overlap and top-1 agreement of every position; fp64, `[3, rows]`."""
    values = divergence(student_logits, teacher_logits)
    best, expected = student_logits.topk(top_k).indices, teacher_logits.topk(top_k).indices
    shared = (best[:, :, None] == expected[:, None, :]).any(dim=2).double().mean(dim=1)
    agreement = (best[:, 0] == expected[:, 0]).double()
    return torch.stack([values.double(), shared, agreement])
