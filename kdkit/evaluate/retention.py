"""What of the teacher's knowledge a student kept: divergence and agreement at aligned positions.

Letters: a aligned positions, c common tokens.
"""

import torch
from transformers import PreTrainedModel

from kdkit.data.packing import PAD, Windows
from kdkit.data.prepare import PreparedData
from kdkit.distill.divergences import overlap_kl
from kdkit.teacher.scoring import autocast, iterate_batches


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
        Per student: `kl_to_teacher` (KL(teacher || student), nats a position, temperature 1),
        `top_k_overlap` (mean share of the teacher's k most likely tokens among the student's) and
        `top_1_agreement`; and the number of positions.
    """
    student_ids, teacher_ids = torch.from_numpy(data.overlap.student_ids), torch.from_numpy(data.overlap.teacher_ids)
    top_k = min(top_k, len(student_ids))
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in students}
    positions = 0
    for batch in iterate_batches(windows, "student", batch_size, with_teacher=True):
        rows, columns = (batch["teacher_positions"] != PAD).nonzero(as_tuple=True)
        teacher_columns = batch["teacher_positions"][rows, columns]
        expected = _logits(teacher, batch["teacher_input_ids"], rows, teacher_columns, teacher_ids, autocast_dtype)
        positions += len(rows)
        for name, student in students.items():
            got = _logits(student, batch["input_ids"], rows, columns, student_ids, autocast_dtype)
            sums[name] += _compare(got, expected, top_k)
    names = ("kl_to_teacher", "top_k_overlap", "top_1_agreement")
    return {
        name: dict(zip(names, (total / max(positions, 1)).tolist(), strict=True))
        | {"positions": positions, "top_k": top_k}
        for name, total in sums.items()
    }


@torch.no_grad()
def _logits(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    vocabulary: torch.Tensor,
    autocast_dtype: torch.dtype | None,
) -> torch.Tensor:
    """Return a model's logits at chosen positions for chosen tokens, fp32 on the CPU, a c."""
    with autocast(model, autocast_dtype):
        logits = model(input_ids=input_ids.to(model.device)).logits
    return logits[rows.to(model.device), columns.to(model.device)][:, vocabulary.to(model.device)].float().cpu()


def _compare(student_logits: torch.Tensor, teacher_logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Sum divergence, top-k overlap and top-1 agreement over positions; float64, 3."""
    everything = torch.arange(student_logits.shape[-1])
    divergence = overlap_kl(student_logits, teacher_logits, everything, everything)
    best, expected = student_logits.topk(top_k).indices, teacher_logits.topk(top_k).indices
    shared = (best[:, :, None] == expected[:, None, :]).any(dim=2).double().mean(dim=1)
    agreement = (best[:, 0] == expected[:, 0]).double()
    return torch.stack([divergence.double().sum(), shared.sum(), agreement.sum()])
