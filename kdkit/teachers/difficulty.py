"""How hard every training sequence is for the teacher: what a curriculum is ordered by."""

import numpy as np
import torch

from kdkit.data.windows import Windows
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.losses.cross_entropy import shift_labels
from kdkit.machine.hardware import Hardware
from kdkit.teachers.interface import TextTeacher
from kdkit.training.scoring import iterate_batches, score_windows


def teacher_loss(teacher: TextTeacher, windows: Windows, batch_size: int, hardware: Hardware) -> np.ndarray:
    """Return the teacher's mean cross-entropy of each window, nats per token: float64, `[num_windows]`."""
    score = score_windows(teacher.reader(hardware.autocast_dtype), windows, "teacher", batch_size)
    return score.window_nats / np.maximum(windows.labels(slice(None), of_teacher=True).sum(axis=1), 1)


@torch.no_grad()
def teacher_entropy(
    teacher: TextTeacher, windows: Windows, vocab_size: int, batch_size: int, hardware: Hardware
) -> np.ndarray:
    """Return the mean entropy in nats of the teacher's predictions in each window: float64, `[num_windows]`."""
    reader, means = teacher.reader(hardware.autocast_dtype), []
    for batch in iterate_batches(windows, "teacher", batch_size):
        logits_of, is_token = reader.read(batch["input_ids"]), shift_labels(batch["labels"]) >= 0
        rows = is_token.flatten().nonzero().squeeze(1)
        entropies = torch.zeros(len(rows), dtype=torch.float64)
        for part in even_chunks(len(rows), rows_per_chunk(vocab_size, reader.device)):
            logprobs = logits_of(rows[part])[:, :vocab_size].log_softmax(dim=-1)
            entropies[part] = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(dim=-1).double().cpu()
        counts = is_token.sum(dim=1)
        of_row = torch.repeat_interleave(torch.arange(len(counts)), counts)
        sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, of_row, entropies)
        means.append((sums / counts.clamp(min=1)).numpy())
    return np.concatenate(means)
