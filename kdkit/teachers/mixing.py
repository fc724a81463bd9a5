"""Mixture of several predictions for the same rows: teachers of one tokenizer, or layers of one teacher.

The mixture is one of probabilities, weighed row by row, so it stays a distribution. A layer's prediction is its output
passed through the model's final norm and head (nostalgebraist 2020, "logit lens").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from kdkit.errors import UserError
from kdkit.losses.chunked.engine import Room, log_softmax_
from kdkit.losses.chunked.events import Events
from kdkit.losses.chunked.signals import DenseSignals


@dataclass(frozen=True, kw_only=True)
class MixedSignals(DenseSignals):
    """Signals of a mixture, `log sum_i w_i softmax(logits_i)`; the inherited fields are those of the first source."""

    parts: tuple[DenseSignals, ...]
    """One per source."""
    log_weights: torch.Tensor
    """fp32, `[teacher_rows, num_sources]`: logs of weights that sum to 1 in every row; -inf for a source left out."""

    def unchecked_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the mixture's log-probabilities, which are logits too, `[rows, V]`."""
        weights = self.log_weights.index_select(0, rows.to(self.log_weights.device)).to(self.device)
        total = None
        for number, part in enumerate(self.parts):
            logprobs = part.unchecked_logits(rows)
            log_softmax_(logprobs)
            logprobs.add_(weights[:, number, None])
            total = logprobs if total is None else torch.logaddexp(total, logprobs, out=total)
        assert total is not None
        return total

    def columns(self, rows: torch.Tensor, events: Events, room: Room | None = None) -> torch.Tensor:
        """See `DenseSignals.columns`; a mixture is made of several rows of logits, which need memory of their own."""
        return events.pick(self.unchecked_logits(rows))

    def mixed_logprobs(self, rows: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
        """Return the mixture of some rows with a graph to other weights than its own, `[rows, V]`.

        Args:
            rows: int64, `[rows]`.
            log_weights: fp32, `[rows, num_sources]`.
        """
        parts = torch.stack([part.unchecked_logits(rows).log_softmax(dim=-1) for part in self.parts], dim=1)
        return (parts + log_weights[..., None]).logsumexp(dim=1)


@contextmanager
def last_layers(model: PreTrainedModel, count: int) -> Iterator[list[torch.Tensor]]:
    """Catch what the last decoder layers would give to the head, while a model runs.

    Args:
        count: how many layers, the last one included.

    Yields:
        A list that every forward fills anew with `count` tensors `[B, T, H]`, from the earliest layer to the last.

    Raises:
        UserError: fewer layers, or a model whose parts have other names than Llama's.
    """
    children = dict(model.base_model.named_children())
    if "layers" not in children or "norm" not in children:
        raise UserError(
            f"router.sources: expected a model with decoder `layers` and a final `norm` for 'layers', got "
            f"{type(model).__name__} with {', '.join(children)}; route over teachers (teacher.others)"
        )
    layers, norm = children["layers"], children["norm"]
    if count > len(layers):
        raise UserError(
            f"router.num_layers: expected at most {len(layers)}, the layers of the teacher, got {count}; lower it"
        )
    caught: list[torch.Tensor] = []
    first = len(layers) - count

    def catch(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        if module is layers[first]:
            caught.clear()
        caught.append(norm(output))

    handles = [layer.register_forward_hook(catch) for layer in layers[first:]]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()
