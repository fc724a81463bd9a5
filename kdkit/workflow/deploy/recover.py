"""Recovery of a model that will be rounded: it learns from itself in full precision, seeing its rounded weights."""

import torch
from transformers import PreTrainedModel

from kdkit.data.batches import WindowCollator
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels
from kdkit.losses.divergences import forward_kl
from kdkit.models.quantised.model import release_weights, round_weights
from kdkit.workflow.deploy.text import RunText

RATE = 0.1
"""Learning rate at the start, as a share of the run's own; it falls to zero in a line."""
MOST_NORM = 1.0
"""Of the gradient, all parameters together."""


def recover(student: PreTrainedModel, full: PreTrainedModel, text: RunText, bits: int, steps: int) -> list[float]:
    """Train a model in place so that what it says after rounding is what it said before.

    Forward KL from the full model, on the run's training text; forward passes see the rounded weights, gradients go to
    the full ones (straight-through). Source: Liu et al. 2023, LLM-QAT, arXiv:2305.17888, sec. 3 (logits of the full
    model as the only target).

    Args:
        student: in fp32; a copy of `full` at the start.
        full: the same model, which stays as it is.
        bits: of its matrices after rounding, 8 or 4.
        steps: optimizer steps, with the batch size of the run.

    Returns:
        Mean KL of every step, nats per token.
    """
    train, collate = text.config.train, WindowCollator(text.train, text.side)
    generator = torch.Generator().manual_seed(text.config.training_seed)
    round_weights(student, bits)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE * train.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    found, order = [], torch.empty(0, dtype=torch.int64)
    student.train()
    for _ in range(steps):
        if len(order) < train.per_device_train_batch_size:
            order = torch.randperm(len(text.train), generator=generator)
        rows, order = order.split([size := min(train.per_device_train_batch_size, len(order)), len(order) - size])
        batch = collate(rows.tolist())
        counts = shift_labels(batch["labels"]) != IGNORE_INDEX
        with torch.no_grad():
            wanted = full(input_ids=batch["input_ids"], use_cache=False).logits[counts]
        given = student(input_ids=batch["input_ids"], use_cache=False).logits[counts]
        loss = forward_kl(given, wanted).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), MOST_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        found.append(loss.item())
    release_weights(student)
    student.eval()
    return found
