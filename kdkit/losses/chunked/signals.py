"""What the teacher says about the rows of a batch: whole rows from its hidden states, or kept ones from a cache.

Letters: m teacher rows, a asked rows, c rows of a chunk, h hidden, v vocabulary, g events, k kept events.
Losses take either kind and do not know where it came from. A whole row exists for one chunk at a time.
"""

from dataclasses import dataclass

import torch

from kdkit.errors import UserError
from kdkit.losses.chunked.engine import blocks_of, log_softmax_
from kdkit.losses.chunked.events import Events
from kdkit.losses.chunked.head import Head


@dataclass(frozen=True)
class DenseSignals:
    """Hidden states of an online teacher, which become logits when a chunk asks for them."""

    hidden: torch.Tensor
    """m h, on the teacher's device."""
    head: Head
    device: torch.device
    """Where the student's loss is computed."""
    targets: torch.Tensor
    """int64, m: the token that each teacher row predicts; on `device`."""
    windows: torch.Tensor
    """int64, m: row number of the window that each teacher row belongs to; on the CPU."""

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of some teacher rows, fp32, c v.

        Raises:
            UserError: NaN or inf among them.
        """
        logits = self.unchecked_logits(rows)
        self.check(rows, logits.sum(dim=-1))  # a sum is finite only if every part is
        return logits

    def unchecked_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of some teacher rows for a caller that calls `check` with what it made of them."""
        return self.head.logits(self.hidden.index_select(0, rows.to(self.hidden.device))).to(self.device)

    def logprobs(self, rows: torch.Tensor, events: Events, temperature: float) -> torch.Tensor:
        """Return log-probabilities of the events at some teacher rows, fp32, c g.

        Raises:
            UserError: NaN or inf in the teacher's logits.
        """
        logits = self.unchecked_logits(rows)
        logits = events.push(logits.div_(temperature) if temperature != 1.0 else logits)
        normalisers = logits.new_empty(len(logits))
        for block in blocks_of(logits):
            normalisers[block] = log_softmax_(logits[block])
        self.check(rows, normalisers)
        return logits

    def check(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Stop at rows whose value is not a number, naming the sample.

        Raises:
            UserError: NaN or inf in a row.
        """
        bad = ~values.isfinite().cpu()
        if bool(bad.any()):
            window = int(self.windows[rows.cpu()[bad][0]])
            raise UserError(
                f"teacher: expected finite logits, got NaN or inf for training sequence {window}; check the teacher's "
                "weights, or run it in fp32 (train.precision=fp32)"
            )


@dataclass(frozen=True)
class SparseSignals:
    """What a cache holds of each asked row."""

    ids: torch.Tensor
    """int64, a k: events, distinct in a row unless their probability is 0."""
    logprobs: torch.Tensor
    """fp32, a k: their log-probabilities at `temperature`, -inf for places that are not used."""
    rest: torch.Tensor
    """fp32, a 1: log of the probability of all events that are not kept; kept and rest sum to 1."""
    temperature: float
    """Of the teacher's softmax when the cache was made."""

    @property
    def device(self) -> torch.device:
        """Where the answers lie."""
        return self.ids.device

    def at(self, rows: torch.Tensor) -> "SparseSignals":
        """Return the answers for some rows."""
        rows = rows.to(self.device)
        ids, logprobs, rest = (part.index_select(0, rows) for part in (self.ids, self.logprobs, self.rest))
        return SparseSignals(ids, logprobs, rest, self.temperature)


@dataclass(frozen=True)
class TokenSignals:
    """Log-probabilities of the text's own tokens, from a cache."""

    logprobs: torch.Tensor
    """fp32, m: of each teacher row's next token."""


Signals = DenseSignals | SparseSignals | TokenSignals
