"""Attention transfer: how similar a student's attention is to its teacher's.

Both sides' attention is pooled over spans, as in the attention part of the loss (`kdkit.losses.layers`), because their
tokenizers cut the text differently.
"""

import math
from contextlib import ExitStack

import torch
from transformers import PreTrainedModel

from kdkit.data.windows import Windows
from kdkit.losses.layers import Layout, lay_out, match_heads, pool_maps
from kdkit.models.heads import autocast, last_hidden_state
from kdkit.models.taps import Taps
from kdkit.training.scoring import iterate_batches

ATTENTION_WINDOWS = 16
"""Held-out windows that are compared; maps grow with the square of a window, so these are few."""


@torch.no_grad()
def measure_attention(
    teacher: PreTrainedModel,
    students: dict[str, PreTrainedModel],
    pairs: list[tuple[int, int]],
    windows: Windows,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, float]:
    """Compare the attention of students with their teacher's, averaged over heads.

    Args:
        students: by name.
        pairs: student layer and teacher layer, see `kdkit.distill.layer_map`.
        windows: held-out text, one window at a time: the maps of all its layers are in memory together.

    Returns:
        Per student the mean `similarity` over all spans in the loss of all windows, then over the pairs of layers.

    Raises:
        UserError: an architecture that shows no attention maps; see `Taps`.
    """
    student_layers, teacher_layers = (sorted(set(side)) for side in zip(*pairs, strict=True))
    sums, num_spans = dict.fromkeys(students, 0.0), 0
    for batch in iterate_batches(windows, "student", 1, with_teacher=True):
        student_ids, teacher_ids = batch["input_ids"], batch["teacher_input_ids"]
        sides = lay_out(batch["spans"], student_ids.shape[1], teacher_ids.shape[1])
        is_counted = torch.from_numpy(batch["counted"])[batch["spans"].student_starts[:-1]]
        num_spans += int(is_counted.sum())
        expected = _maps(teacher, teacher_ids, teacher_layers, autocast_dtype)
        for name, student in students.items():
            got = _maps(student, student_ids, student_layers, autocast_dtype)
            for student_layer, teacher_layer in pairs:
                matched = match_heads(got[student_layer], expected[teacher_layer], "mean")
                pooled = (pool_maps(*side) for side in zip(matched, sides, strict=True))
                sums[name] += similarity(*pooled, sides[0])[is_counted].sum().item()
    return {name: total / max(num_spans * len(pairs), 1) for name, total in sums.items()}


def similarity(first: torch.Tensor, second: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Compute 1 - the Jensen-Shannon divergence, in bits, of each span's attention: 1 the same, 0 nothing in common.

    Args:
        first: `[B, num_heads, max_spans, max_spans + 1]`, from `pool_maps`; rows sum to 1.
        second: the same shape.
        layout: of either side.

    Returns:
        `[N]`, the mean over heads.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy", equation 4.1 with equal weights.
    """
    log_mean = ((first + second) / 2).clamp(min=torch.finfo(first.dtype).tiny).log()
    # log 0 never counts: xlogy(0, 0) and 0 * log_mean are 0
    nats = sum(torch.xlogy(side, side) - side * log_mean for side in (first, second)).sum(dim=-1) / 2
    return 1.0 - (nats / math.log(2)).mean(dim=1)[layout.sequence, layout.place]


def _maps(
    model: PreTrainedModel, input_ids: torch.Tensor, layers: list[int], autocast_dtype: torch.dtype | None
) -> dict[int, torch.Tensor]:
    """Run a model on a batch; return the maps of some layers, `[B, num_heads, S, S]`, on the CPU."""
    with ExitStack() as stack:
        taps = stack.enter_context(Taps(model, maps=layers))
        stack.enter_context(autocast(model, autocast_dtype))
        last_hidden_state(model, input_ids.to(model.device))
        _, maps = taps.take()
    return {layer: values.cpu() for layer, values in maps.items()}
