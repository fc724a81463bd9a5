"""What of the teacher's knowledge a student kept: divergence and agreement at aligned positions."""

import torch
from transformers import PreTrainedModel

from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.losses.chunked.engine import Head, even_chunks, rows_per_chunk
from kdkit.losses.divergences import divergence
from kdkit.models.heads import autocast, find_head, last_hidden_state
from kdkit.training.scoring import iterate_batches


def measure_retention(
    teacher: PreTrainedModel,
    students: dict[str, PreTrainedModel],
    data: PreparedData,
    windows: Windows,
    *,
    batch_size: int,
    top_k: int,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, dict[str, float]]:
    """Compare students with their teacher where both predict the same next token after the same prefix.

    Both distributions are taken over the tokens that both vocabularies have.

    Args:
        students: by name.
        windows: held-out text.
        top_k: size of the sets that are compared.

    Returns:
        Per student: `kl_to_teacher` (KL(teacher || student), nats per position, temperature 1),
        `top_k_overlap` (mean share of the teacher's k most likely tokens among the student's) and
        `top_1_agreement`; and the number of positions.
    """
    student_ids, teacher_ids = torch.from_numpy(data.overlap.student_ids), torch.from_numpy(data.overlap.teacher_ids)
    top_k = min(top_k, len(student_ids))
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in students}
    positions = 0
    sizes = data.overlap.student_size, data.overlap.teacher_size
    teacher_head = find_head(teacher, sizes[1])
    heads = {name: find_head(student, sizes[0]) for name, student in students.items()}
    for batch in iterate_batches(windows, "student", batch_size, with_teacher=True):
        spans = batch["spans"]
        same = spans.same_token
        student_rows = spans.student_rows[spans.student_starts[:-1][same]]
        teacher_rows = spans.teacher_rows[spans.teacher_starts[:-1][same]]
        positions += len(student_rows)
        expected = _hidden(teacher, batch["teacher_input_ids"], teacher_rows, autocast_dtype)
        hidden = {
            name: _hidden(student, batch["input_ids"], student_rows, autocast_dtype)
            for name, student in students.items()
        }
        for part in even_chunks(len(student_rows), rows_per_chunk(max(sizes), torch.device("cpu"))):
            wanted = _logits(teacher_head, expected[part], teacher_ids)
            for name in students:
                got = _logits(heads[name], hidden[name][part], student_ids)
                sums[name] += _compare(got, wanted, top_k)
    names = ("kl_to_teacher", "top_k_overlap", "top_1_agreement")
    return {
        name: dict(zip(names, (total / max(positions, 1)).tolist(), strict=True))
        | {"positions": positions, "top_k": top_k}
        for name, total in sums.items()
    }


@torch.no_grad()
def _hidden(
    model: PreTrainedModel, input_ids: torch.Tensor, rows: torch.Tensor, autocast_dtype: torch.dtype | None
) -> torch.Tensor:
    """Return what a model's head reads at chosen positions of the flattened batch, `[rows, H]`."""
    with autocast(model, autocast_dtype):
        hidden = last_hidden_state(model, input_ids.to(model.device)).flatten(0, 1)
    return hidden.index_select(0, rows.to(model.device))


@torch.no_grad()
def _logits(head: Head, hidden: torch.Tensor, vocabulary: torch.Tensor) -> torch.Tensor:
    """Return logits for chosen tokens, fp32 on the CPU, `[rows, num_common_tokens]`."""
    return head.logits(hidden).cpu().index_select(-1, vocabulary)


def _compare(student_logits: torch.Tensor, teacher_logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Sum divergence, top-k overlap and top-1 agreement over positions; float64, `[3]`."""
    values = divergence(student_logits, teacher_logits)
    best, expected = student_logits.topk(top_k).indices, teacher_logits.topk(top_k).indices
    shared = (best[:, :, None] == expected[:, None, :]).any(dim=2).double().mean(dim=1)
    agreement = (best[:, 0] == expected[:, 0]).double()
    return torch.stack([values.double().sum(), shared.sum(), agreement.sum()])
