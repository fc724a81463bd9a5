"""How hard every training sequence is for the teacher: what a curriculum is ordered by."""

import numpy as np
import torch

from kdkit.data.windows import Windows
from kdkit.losses.chunked.engine import even_chunks, log_softmax_, rows_per_chunk
from kdkit.machine.hardware import Hardware
from kdkit.models.heads import autocast, find_head, last_hidden_state
from kdkit.teachers.prepare import Teacher
from kdkit.training.scoring import iterate_batches, score_windows


def teacher_loss(teacher: Teacher, windows: Windows, batch_size: int, hardware: Hardware) -> np.ndarray:
    """Return the teacher's mean cross-entropy of each window, nats per token: float64, `[num_windows]`."""
    score = score_windows(teacher.model, windows, "teacher", batch_size, hardware.autocast_dtype)
    return score.window_nats / np.maximum(windows.labels(slice(None), of_teacher=True).sum(axis=1), 1)


@torch.no_grad()
def teacher_entropy(
    teacher: Teacher, windows: Windows, vocab_size: int, batch_size: int, hardware: Hardware
) -> np.ndarray:
    """Return the mean entropy in nats of the teacher's predictions in each window: float64, `[num_windows]`."""
    model, head = teacher.model, find_head(teacher.model, vocab_size)
    means: list[np.ndarray] = []
    for batch in iterate_batches(windows, "teacher", batch_size):
        with autocast(model, hardware.autocast_dtype):
            hidden = last_hidden_state(model, batch["input_ids"].to(model.device))
        is_token = (batch["labels"][:, 1:] >= 0).to(model.device)
        rows = hidden[:, :-1][is_token]
        entropies = torch.zeros(len(rows), dtype=torch.float64)
        for part in even_chunks(len(rows), rows_per_chunk(vocab_size, rows.device)):
            logprobs = head.logits(rows[part])
            log_softmax_(logprobs)
            entropies[part] = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(dim=-1).double().cpu()
        counts = is_token.sum(dim=1).cpu()
        of_row = torch.repeat_interleave(torch.arange(len(counts)), counts)
        sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, of_row, entropies)
        means.append((sums / counts.clamp(min=1)).numpy())
    return np.concatenate(means)
