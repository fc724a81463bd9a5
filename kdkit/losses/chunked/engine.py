"""Losses on logits that never exist at once: projection, loss and gradient for some rows, then the next.

The gradient is computed in the forward pass, right after the loss of the same rows, so nothing of size V survives
a chunk and the head's product is not repeated. Cost: the three products that a dense head needs too.

Source: the idea of Wijmans et al. 2024 (Cut Cross-Entropy), arXiv:2411.09009, and Liger's fused linear
losses, in plain PyTorch for GPUs without a kernel for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch


class Room:
    """Memory for the logits of one chunk, used again for the next.

    On a CPU new pages take a fifth of the time of the product that fills them.
    """

    def __init__(self):
        """Begin without any."""
        self._values = torch.empty(0)

    def take(self, num_rows: int, width: int, device: torch.device) -> torch.Tensor:
        """Return fp32 memory, `[num_rows, width]`, in which the last chunk's numbers may stand."""
        if self._values.device != device or self._values.numel() < num_rows * width:
            self._values = torch.empty(num_rows * width, device=device)
        return self._values[: num_rows * width].view(num_rows, width)


@dataclass(frozen=True)
class Head:
    """Output head: logits = softcap * tanh(scale * (W h + bias) / softcap), without the cap where there is none."""

    weight: torch.Tensor
    """`[head_rows, H]`; rows beyond `vocab_size` are padding."""
    vocab_size: int
    """True size of the tokenizer, V."""
    bias: torch.Tensor | None = None
    scale: float = 1.0
    """Cohere's `logit_scale`, Granite's 1 / `logits_scaling`."""
    softcap: float | None = None
    """Gemma's `final_logit_softcapping`."""

    def on(self, device: torch.device, dtype: torch.dtype) -> "Head":
        """Return the head of a frozen model on a device, without its padding, in a dtype; copied and cast once."""
        if (self.weight.device, self.weight.dtype, len(self.weight)) == (device, dtype, self.vocab_size):
            return self
        if (device, dtype) not in self._copies:
            bias = None if self.bias is None else self.bias.to(device)
            moved = replace(self, weight=self.weight.to(device), bias=bias)
            self._copies[device, dtype] = moved.used(dtype)
        return self._copies[device, dtype]

    def drop_copies(self) -> None:
        """Make the copies of `on` anew from now on: the weights have changed."""
        self._copies.clear()

    @cached_property
    def _copies(self) -> "dict[tuple[torch.device, torch.dtype], Head]":
        return {}

    def used(self, dtype: torch.dtype) -> "Head":
        """Return the head without its padding, in a dtype; once for all chunks, since casting copies."""
        bias = None if self.bias is None else self.bias[: self.vocab_size].to(dtype)
        return replace(self, weight=self.weight[: self.vocab_size].to(dtype), bias=bias)

    def logits(self, hidden: torch.Tensor, room: Room | None = None) -> torch.Tensor:
        """Compute the logits of some rows in fp32, `[rows, V]`; the product runs in the dtype of `hidden`.

        Args:
            room: where to put them, without a graph; None: in new memory.
        """
        head = self.used(hidden.dtype)
        if room is None or hidden.dtype != torch.float32:
            logits = hidden @ head.weight.T
        else:
            logits = torch.mm(hidden, head.weight.T, out=room.take(len(hidden), len(head.weight), hidden.device))
        if head.bias is not None:
            logits = logits + head.bias
        if room is not None and logits.dtype in (torch.float16, torch.bfloat16):
            logits = room.take(len(logits), logits.shape[1], hidden.device).copy_(logits)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def undo_cap(self, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Turn a gradient by the logits into one by `W h + bias`, in place where it can."""
        if self.softcap is not None:
            gradient = gradient * (1.0 - (logits / self.softcap).square_())
        return gradient.mul_(self.scale) if self.scale != 1.0 else gradient


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy small numbers from the host without waiting until the device has done all that it was given before."""
    return values.to(device, non_blocking=True)


ChunkLoss = Callable[[torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]
"""From the logits of some rows (fp32, `[chunk_rows, V]`, may be overwritten) and which rows these are to the terms of
their weighted loss, `[num_terms]` (raw sums to log; the first one is the loss), and its gradient by the logits,
`[chunk_rows, V]`."""

CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**27}
"""Bytes of one chunk of logits: small to save memory, large enough for an efficient product."""
BLOCK_BYTES = {"cpu": 2**22, "cuda": 2**27}
"""Bytes of the blocks in which a chunk's rows are worked on: they stay in a CPU's cache from one operation
to the next, which makes the elementwise part several times faster."""


def rows_per_chunk(vocab_size: int, device: torch.device) -> int:
    """Return how many rows of fp32 logits make a chunk."""
    return max(1, CHUNK_BYTES.get(device.type, 2**25) // (4 * vocab_size))


def blocks_of(logits: torch.Tensor, num_buffers: int = 1) -> list[slice]:
    """Cut the rows of a chunk into blocks, smaller ones where several buffers of their size are worked on at once."""
    row_bytes = 4 * num_buffers * logits.shape[-1]
    return even_chunks(len(logits), max(1, BLOCK_BYTES.get(logits.device.type, 2**22) // row_bytes))


def even_chunks(num_rows: int, size: int) -> list[slice]:
    """Cut rows into chunks of `size`."""
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def chunked_loss(
    hidden: torch.Tensor, head: Head, chunk_loss: ChunkLoss, chunks: Sequence[slice]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum a loss over chunks of rows, with gradients for the hidden states and the head.

    Args:
        hidden: `[rows, H]`, with a gradient graph; the products run in its dtype.
        head: its weight (and bias) get a gradient if they want one.
        chunk_loss: the loss of some rows and its gradient.
        chunks: slices that cover the rows.

    Returns:
        The loss, a scalar with a graph, and all terms, `[num_terms]`, detached.
    """
    bias = hidden.new_zeros(0) if head.bias is None else head.bias
    loss, terms = _ChunkedLoss.apply(hidden, head.weight, bias, head, chunk_loss, chunks)
    return loss, terms


class _ChunkedLoss(torch.autograd.Function):
    """Loss and gradients chunk by chunk; backward only scales what forward has computed."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        head: Head,
        chunk_loss: ChunkLoss,
        chunks: Sequence[slice],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the loss and the gradients of all chunks."""
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        grad_hidden = torch.zeros_like(hidden, dtype=wide) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if wants_bias and head.bias is not None else None
        head = replace(head, weight=weight, bias=None if head.bias is None else bias).used(hidden.dtype)
        total: torch.Tensor | float = 0.0
        gradients, room = (grad_hidden, grad_weight, grad_bias), Room()
        for rows in chunks:
            total = total + _add_chunk(hidden, rows, head, chunk_loss, gradients, room)
        ctx.gradients = gradients
        ctx.dtypes = hidden.dtype, weight.dtype, bias.dtype
        total = torch.as_tensor(total, dtype=wide, device=hidden.device).reshape(-1)
        ctx.mark_non_differentiable(total)
        return (total[0] if len(total) else total.sum()).clone(), total

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients.

        Raises:
            RuntimeError: a second backward pass through the same loss.
        """
        if ctx.gradients is None:
            raise RuntimeError(
                "chunked loss: expected one backward pass, got a second one; compute the loss again, since its "
                "gradients are scaled in place to save memory (retain_graph keeps none)"
            )
        # in place: these are as large as the parameters; a second backward would find them scaled
        gradients = [
            None if gradient is None else gradient.mul_(grad_loss).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        ctx.gradients = None
        return *gradients, None, None, None


def _add_chunk(
    hidden: torch.Tensor,
    rows: slice,
    head: Head,
    chunk_loss: ChunkLoss,
    gradients: tuple[torch.Tensor | None, ...],
    room: Room,
) -> torch.Tensor:
    """Add the gradients of one chunk and return its terms; a function, so that its buffers go before the next."""
    logits = head.logits(hidden[rows], room)
    capped = logits.clone() if head.softcap is not None else logits
    terms, gradient = chunk_loss(logits, rows)
    grad_hidden, grad_weight, grad_bias = gradients
    if all(part is None for part in gradients):
        return terms
    gradient = head.undo_cap(gradient, capped)
    size = None
    if hidden.dtype == torch.float16:
        # fp16 keeps numbers above 6e-8 only, and the weight of a token is 1 / tokens of the step
        size = gradient.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    narrow = (gradient if size is None else gradient / size).to(hidden.dtype)
    if grad_hidden is not None:
        _add(grad_hidden[rows], narrow, head.weight, size)
    if grad_weight is not None:
        _add(grad_weight[: head.vocab_size], narrow.T, hidden[rows], size)
    if grad_bias is not None:
        grad_bias[: head.vocab_size] += gradient.sum(dim=0)
    return terms


def _add(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, size: torch.Tensor | None) -> None:
    """Add `left @ right`, times `size` where it was divided by it, to a wider accumulator."""
    if total.dtype == left.dtype and size is None:
        total.addmm_(left, right)
    else:
        product = (left @ right).to(total.dtype)
        total.add_(product if size is None else product.mul_(size))


def cross_entropy_chunk(targets: torch.Tensor, weights: torch.Tensor) -> ChunkLoss:
    """Return weighted cross-entropy as a chunk loss.

    Args:
        targets: int64, `[rows]`: the token that each row predicts.
        weights: fp32, `[rows]`: weight of each row; `1 / tokens of the step` for the mean.
    """

    def chunk_loss(logits: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        weight = weights[rows].to(logits.dtype)
        values = cross_entropy_(logits, targets[rows], weight)
        return (values * weight).sum().reshape(1), logits

    return chunk_loss


def cross_entropy_(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute -log q(target) per row, `[chunk_rows]`, and replace the logits by the gradient of its weighted sum."""
    values = logits.new_empty(len(logits))
    for block in blocks_of(logits):
        part, chosen, weight = logits[block], targets[block, None], weights[block, None]
        probabilities, normalisers = softmax(part)
        values[block] = normalisers - part.gather(1, chosen).squeeze(1)
        torch.mul(probabilities, weight, out=part).scatter_add_(1, chosen, -weight)
    return values


def softmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities, `[rows, V]`, and the normalisers, `[rows]`: logits less these are log-probabilities."""
    probabilities = torch.softmax(logits, dim=-1)
    # the largest probability is at least 1 / V, so its logarithm is exact; one softmax takes a third of the time of
    # logsumexp and exp
    return probabilities, logits.amax(dim=-1) - probabilities.amax(dim=-1).log()


def softmax_(logits: torch.Tensor) -> torch.Tensor:
    """Normalise logits to log-probabilities in place; return the probabilities."""
    probabilities, normalisers = softmax(logits)
    logits.sub_(normalisers[..., None])
    return probabilities


def log_softmax_(logits: torch.Tensor) -> None:
    """Normalise logits to log-probabilities in place."""
    softmax_(logits)
