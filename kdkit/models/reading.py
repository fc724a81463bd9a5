"""Readers: what predicts the next token of a text, whether or not it is a model of transformers.

The logits of a batch never exist at once: a reader gives those of the rows that it is asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from kdkit.models.heads import autocast, find_head, last_hidden_state

Rows = Callable[[torch.Tensor], torch.Tensor]
"""From rows of a flattened batch, int64, `[rows]`, in order (row `b * T + t`), to their logits: fp32, `[rows, V]`.

A reader may read on from where the last call ended, so calls in order are the quick ones."""


class Reader:
    """Something that reads token ids and predicts the next ones."""

    def __init__(self, name: str, vocab_size: int, device: torch.device):
        """Keep what every reader says of itself.

        Args:
            name: for messages.
            vocab_size: V.
            device: where its logits are made.
        """
        self.name, self.vocab_size, self.device = name, vocab_size, device

    def read(self, input_ids: torch.Tensor) -> Rows:
        """Read a batch.

        Args:
            input_ids: int64, `[B, T]`, padded on the right by anything.
        """
        raise NotImplementedError(type(self).__name__)


class ModelReader(Reader):
    """A causal LM of transformers: its body runs once for a batch, its head for the rows that are asked for."""

    def __init__(
        self, model: PreTrainedModel, vocab_size: int | None = None, autocast_dtype: torch.dtype | None = None
    ):
        """Find the model's head.

        Args:
            vocab_size: true size of its tokenizer; None: all rows of its head.
            autocast_dtype: dtype for autocast; None: none.

        Raises:
            UserError: see `find_head`.
        """
        size = model.get_output_embeddings().weight.shape[0] if vocab_size is None else vocab_size
        super().__init__(type(model).__name__, size, model.device)
        self.model, self.autocast_dtype = model, autocast_dtype
        self.head = find_head(model, size)
        if autocast_dtype is not None:
            # cast once to what autocast would run the product in, chunk by chunk
            self.head = self.head.used(autocast_dtype)

    @torch.no_grad()
    def read(self, input_ids: torch.Tensor) -> Rows:
        """Run the body of the model; see `Reader.read`."""
        with autocast(self.model, self.autocast_dtype):
            hidden = last_hidden_state(self.model, input_ids.to(self.device)).flatten(0, 1)

        @torch.no_grad()
        def logits(rows: torch.Tensor) -> torch.Tensor:
            return self.head.logits(hidden.index_select(0, rows.to(self.device)).to(self.head.weight.dtype))

        return logits


@contextmanager
def open_reader(
    model: PreTrainedModel | Reader, autocast_dtype: torch.dtype | None = None, vocab_size: int | None = None
) -> Iterator[Reader]:
    """Read with a model in evaluation mode, which is put back afterwards; a reader is taken as it is."""
    if isinstance(model, Reader):
        yield model
        return
    was_training = model.training
    model.eval()
    try:
        yield ModelReader(model, vocab_size, autocast_dtype)
    finally:
        model.train(was_training)
