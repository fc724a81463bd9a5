"""Cross-entropy per token in nats, labels shifted once, averages over the tokens that count."""

import torch
import torch.nn.functional as F


def shift_labels(labels: torch.Tensor) -> torch.Tensor:
    """Return what each position predicts: the label of the next one. The only place where anything is shifted.

    The labels move, not the logits, which are V times larger.

    Args:
        labels: int64, `[B, S]`, not shifted; `IGNORE_INDEX` where nothing is to be predicted.

    Returns:
        Targets, `[B, S]`: targets[i] = labels[i + 1]; the last position predicts nothing.
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute -log q(target) per token in nats, fp32, `[B, S]`; 0 where the target is `IGNORE_INDEX`.

    Args:
        logits: `[B, S, V]`, any float dtype.
        targets: int64, `[B, S]`, from `shift_labels`.
    """
    flat = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return flat.view(targets.shape)


def masked_mean(
    values: torch.Tensor, mask: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Average values that count, such as those per token over the tokens of the whole optimizer step.

    Args:
        values: `[B, S]`, or any shape.
        mask: bool, the same shape, True = counted.
        num_items_in_batch: counted tokens of all micro-batches and processes of the optimizer step;
            None: this batch is the whole step.

    Returns:
        A scalar; 0 with a gradient graph where nothing is counted.
    """
    count = mask.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=values.device)
    # where, not a product: an ignored position may hold inf, and inf * 0 is NaN
    return torch.where(mask, values, 0.0).sum() / count.clamp(min=1)


def count_items(num_rows: int, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
    """Return what a sum is divided by: the tokens of the whole optimizer step, at least 1.

    A tensor stays one: to read it the host would wait for its device.
    """
    if isinstance(num_items_in_batch, torch.Tensor):
        return num_items_in_batch.clamp(min=1)
    return max(float(num_rows if num_items_in_batch is None else num_items_in_batch), 1.0)


IGNORE_INDEX = -100
"""Label of a position that is in no loss (PyTorch's and transformers' convention)."""
