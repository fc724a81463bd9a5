"""Text on which is measured what of a teacher matters."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from kdkit.data.batches import WindowCollator
from kdkit.data.windows import Windows
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels


@dataclass(frozen=True)
class TextBatch:
    """Sequences in the teacher's tokens."""

    input_ids: torch.Tensor
    """int64, `[B, S]`."""
    targets: torch.Tensor
    """int64, `[B, S]`: the token after each place; `IGNORE_INDEX` where none is predicted, as on padding."""

    @property
    def is_read(self) -> torch.Tensor:
        """Places that predict something, bool, `[B, S]`: nothing is measured on the others."""
        return self.targets != IGNORE_INDEX


def calibration_text(windows: Windows, num_sequences: int, batch_size: int = 8) -> list[TextBatch]:
    """Return training sequences at even distances: the same ones whenever the data are the same."""
    rows = np.unique(np.linspace(0, len(windows) - 1, min(num_sequences, len(windows))).round().astype(int)).tolist()
    collate = WindowCollator(windows, "teacher")
    batches = (collate(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size))
    return [TextBatch(batch["input_ids"], shift_labels(batch["labels"])) for batch in batches]


@torch.no_grad()
def mean_nats(model: PreTrainedModel, text: list[TextBatch]) -> float:
    """Return a causal LM's mean cross-entropy on a text, in nats a token."""
    total, count = 0.0, 0
    for batch in text:
        logits = model(input_ids=batch.input_ids.to(model.device), use_cache=False).logits.float()
        targets = batch.targets.to(model.device)
        total += F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORE_INDEX
        ).item()
        count += int(batch.is_read.sum())
    return total / max(count, 1)
