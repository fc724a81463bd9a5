"""What the teacher's layers add to its predictions: hidden states and attention maps, compared span by span.

A loss is a value per span, `[N]`, in fp32; `span_weights` makes of it a sum over the tokens of the whole optimizer
step. The two models cut the text differently, so both sides are pooled over spans first (`kdkit.alignment.spans`).
`layer_similarity` is of whole sentences, and a scalar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from kdkit.alignment.spans import Spans
from kdkit.losses.chunked.engine import to_device
from kdkit.losses.precision import at_least_fp32
from kdkit.losses.sentences import similarities

SMALLEST_SHARE = 1e-9
"""Attention below it counts as this much: the divergence stays finite where a softmax has rounded to 0."""
SMALLEST_VARIANCE = 1e-8
"""Added to a variance; far below that of hidden states, so that their scale does not matter."""


@dataclass(frozen=True)
class Layout:
    """Where the spans of a batch lie in one model's positions; all tensors on that model's device."""

    rows: torch.Tensor
    """int64, `[rows]`: positions in the flattened batch, `[B * S]`."""
    span_of_row: torch.Tensor
    """int64, `[rows]`."""
    lengths: torch.Tensor
    """int64, `[N]`: rows of each span."""
    sequence: torch.Tensor
    """int64, `[N]`: the sequence that each span belongs to."""
    place: torch.Tensor
    """int64, `[N]`: its place among the spans of its sequence."""
    shape: tuple[int, int, int]
    """`(B, S, max_spans)`, the last one the most spans of a sequence."""

    def to(self, device: torch.device) -> "Layout":
        """Return the same on a device."""
        return replace(
            self,
            rows=to_device(self.rows, device),
            span_of_row=to_device(self.span_of_row, device),
            lengths=to_device(self.lengths, device),
            sequence=to_device(self.sequence, device),
            place=to_device(self.place, device),
        )


def lay_out(spans: Spans, student_width: int, teacher_width: int) -> tuple[Layout, Layout]:
    """Find the spans in the student's and in the teacher's positions, on the CPU.

    Args:
        student_width: S of the batch, padding included.
        teacher_width: T of the batch.
    """
    counts = spans.sequence_starts.diff()
    sequence = torch.repeat_interleave(torch.arange(len(counts)), counts)
    place = torch.arange(len(sequence)) - spans.sequence_starts[sequence]
    most = int(counts.max())
    sides = (
        (spans.student_rows, spans.span_of_student_rows(), spans.student_lengths, student_width),
        (spans.teacher_rows, spans.span_of_teacher_rows(), spans.teacher_starts.diff(), teacher_width),
    )
    student, teacher = (
        Layout(rows, span_of_row, lengths, sequence, place, (len(counts), width, most))
        for rows, span_of_row, lengths, width in sides
    )
    return student, teacher


def span_weights(spans: Spans, counted: torch.Tensor, num_items: torch.Tensor | float) -> torch.Tensor:
    """Weigh a span once for each of its student rows that is in the loss, fp32, `[N]`.

    Divided by the tokens of the optimizer step, so that no cut of it into batches changes anything.

    Args:
        counted: bool, `[student_rows]`: student rows in the loss.
        num_items: tokens of the whole optimizer step, over all processes.
    """
    span_of_row = to_device(spans.span_of_student_rows(), counted.device)
    weights = torch.zeros(len(spans.student_starts) - 1, device=counted.device)
    return weights.index_add_(0, span_of_row, counted.float()) / num_items


def pool_states(states: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Average hidden states over the rows of each span.

    Args:
        states: `[B, S, H]`, any float dtype.

    Returns:
        `[N, H]`, fp32 (fp64 stays).
    """
    rows = at_least_fp32(states.flatten(0, 1).index_select(0, layout.rows))
    if len(rows) == len(layout.lengths):  # one row each
        return rows
    sums = rows.new_zeros(len(layout.lengths), rows.shape[1]).index_add(0, layout.span_of_row, rows)
    return sums / layout.lengths[:, None]


def pool_maps(maps: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Turn attention between positions into attention between spans.

    The queries of a span are its rows, averaged. The keys of a span are its own tokens, summed: a row predicts the
    token at the next position, so these stand one position later, and both sides sum over the same text. Keys
    outside all spans, such as the start token, are one more column, so that rows still sum to 1.

    Args:
        maps: `[B, num_heads, S, S]` (query, key), any float dtype.

    Returns:
        `[B, num_heads, max_spans, max_spans + 1]`, fp32 (fp64 stays); rows of places without a span are 0.
    """
    (batch, width, most), maps = layout.shape, at_least_fp32(maps)
    sequence, position = layout.rows // width, layout.rows % width
    place = layout.place[layout.span_of_row]
    queries = maps.new_zeros(batch, most, width)
    queries[sequence, place, position] = 1.0 / layout.lengths[layout.span_of_row].to(maps.dtype)
    keys = maps.new_zeros(batch, width, most + 1)
    keys[:, :, most] = 1.0
    keys[sequence, position + 1, most] = 0.0
    keys[sequence, position + 1, place] = 1.0
    return queries[:, None] @ maps @ keys[:, None]


def average_heads(maps: torch.Tensor) -> torch.Tensor:
    """Average attention maps, `[B, num_heads, S, S]`, over heads: `[B, 1, S, S]`, fp32; one alone stays as it is."""
    maps = at_least_fp32(maps)
    return maps if maps.shape[1] == 1 else maps.mean(dim=1, keepdim=True)


def match_heads(student: torch.Tensor, teacher: torch.Tensor, how: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both sides' maps the same number of heads.

    Args:
        student: `[B, num_student_heads, S, S]`.
        teacher: `[B, num_teacher_heads, T, T]`.
        how: `mean`: one head, the average of all; `mapped`: the student's heads, each with the teacher's head at
            the same place in proportion.
    """
    if how == "mean":
        return average_heads(student), average_heads(teacher)
    num_student, num_teacher = student.shape[1], teacher.shape[1]
    scale = (num_teacher - 1) / max(num_student - 1, 1)
    heads = torch.tensor([round(head * scale) for head in range(num_student)], device=teacher.device)
    return student, teacher.index_select(1, heads)


def state_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the mean squared error of layer-normalised states, `[N]`; 0 to 4, whatever the scale of either side.

    Args:
        student: `[N, H]`, projected to the teacher's width.
        teacher: `[N, H]`.
    """
    width = student.shape[-1:]
    student, teacher = (F.layer_norm(states, width, eps=SMALLEST_VARIANCE) for states in (student, teacher))
    return F.mse_loss(student, teacher, reduction="none").mean(dim=-1)


def map_divergence(student: torch.Tensor, teacher: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Compute KL(teacher || student) of pooled attention, averaged over heads, `[N]`, in nats.

    Args:
        student: `[B, num_heads, max_spans, max_spans + 1]`, from `pool_maps`.
        teacher: the same shape.
        layout: of either side.
    """
    # a key in the future has probability 0 on both sides and drops out
    values = torch.xlogy(teacher, teacher) - teacher * student.clamp(min=SMALLEST_SHARE).log()
    return values.sum(dim=-1).mean(dim=1)[layout.sequence, layout.place]


def compare_maps(student: torch.Tensor, teacher: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Compute `map_divergence` of a student's maps, `[B, num_heads, S, S]`, from the teacher's pooled ones, `[N]`."""
    return map_divergence(pool_maps(student, layout), teacher, layout)


def compute_again(values: Callable[..., torch.Tensor], *inputs: Any) -> torch.Tensor:
    """Compute the values of one pair of layers now, and again in the backward pass: nothing inside is kept until then.

    A comparison costs little beside a layer, but there may be one for every layer.
    """
    return checkpoint(values, *inputs, use_reentrant=False, preserve_rng_state=False)


def contrast(student: torch.Tensor, teacher: torch.Tensor, layout: Layout, temperature: float) -> torch.Tensor:
    """Compute InfoNCE: the teacher's state of a span told from those of the sequence's other spans, `[N]`, in nats.

    Negatives are of the same sequence only, so a value does not depend on what else is in the batch.

    Args:
        student: `[N, H]`, projected to the teacher's width.
        teacher: `[N, H]`.
        layout: of either side.
        temperature: of the softmax over cosine similarities.

    Source: van den Oord et al. 2018, arXiv:1807.03748, equation 4, with cosine similarity.
    """
    (batch, _, most), sequence, place = layout.shape, layout.sequence, layout.place
    grids = []
    for states in (student, teacher):
        grid = states.new_zeros(batch, most, states.shape[1])
        grids.append(grid.index_put((sequence, place), F.normalize(states, dim=-1)))
    similarities = grids[0] @ grids[1].mT / temperature
    is_span = torch.zeros(batch, most, dtype=torch.bool, device=student.device)
    is_span[sequence, place] = True
    # the smallest number, not -inf: a sequence without spans would get NaN, also as a gradient
    similarities = similarities.masked_fill(~is_span[:, None], torch.finfo(similarities.dtype).min)
    return -similarities.log_softmax(dim=-1).diagonal(dim1=1, dim2=2)[sequence, place]


def depth_weights(num_layers: int) -> list[float]:
    """Weigh layers in proportion to their depth, 1 to `num_layers`, with sum 1."""
    return [2.0 * depth / (num_layers * (num_layers + 1)) for depth in range(1, num_layers + 1)]


def layer_similarity(
    layers: Sequence[torch.Tensor],
    reduction: Literal["off_diagonal", "mean", "sum"] = "off_diagonal",
    detach_upper: bool = True,
) -> torch.Tensor:
    """Compute how much the cosines between sentences change from each layer to the next (LASD), squared.

    The mean over the steps between layers; one layer has none, its loss is 0. With the first token as a layer's
    vector the lower layers find all sentences equal, and without `detach_upper` they pull the upper ones there.

    Args:
        layers: one tensor `[B, H]` per layer, lowest first.
        reduction: over the B * B cosines: their mean off the diagonal, the mean of all, or the sum (the published
            form, which grows with the batch).
        detach_upper: let a layer learn from the one above it only, not from the one below.

    Source: TALAS, arXiv 2606.21851, the layer-wise structural loss.
    """
    cosines = torch.stack([similarities(layer) for layer in layers])
    lower, upper = cosines[:-1], cosines[1:]
    errors = (lower - (upper.detach() if detach_upper else upper)).square()
    size = len(layers[0])
    entries = {"off_diagonal": size * (size - 1), "mean": size * size, "sum": 1}[reduction]
    return errors.sum() / max(entries, 1) / max(len(layers) - 1, 1)
