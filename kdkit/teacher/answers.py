"""What the teacher says about the rows of a batch: whole rows from its hidden states, or kept ones from a cache.

Letters: m teacher rows, a asked rows, c rows of a chunk, h hidden, v vocabulary, g events, k kept events.
Losses take either kind and do not know where it came from. A whole row exists for one chunk at a time.
"""

from dataclasses import dataclass

import torch

from kdkit.errors import UserError
from kdkit.teacher.events import Events
from kdkit.teacher.heads import Head


@dataclass(frozen=True)
class DenseAnswers:
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
        """Return the logits of some teacher rows, fp32, c v."""
        logits = self.head.logits(self.hidden.index_select(0, rows.to(self.hidden.device))).to(self.device)
        self._check_finite(logits, rows)
        return logits

    def logprobs(self, rows: torch.Tensor, events: Events, temperature: float) -> torch.Tensor:
        """Return log-probabilities of the events at some teacher rows, fp32, c g."""
        logits = events.push(self.logits(rows).div_(temperature))
        return logits.sub_(logits.logsumexp(dim=-1, keepdim=True))

    def _check_finite(self, logits: torch.Tensor, rows: torch.Tensor) -> None:
        """Stop at logits that are not numbers, naming the sample.

        Raises:
            UserError: NaN or inf in a teacher's row.
        """
        bad = ~logits.sum(dim=-1).isfinite()  # a sum is finite only if every part is
        if bool(bad.any()):
            window = int(self.windows[rows.cpu()[bad.cpu()][0]])
            raise UserError(
                f"teacher: expected finite logits, got NaN or inf for training sequence {window}; check the teacher's "
                "weights, or run it in fp32 (train.precision=fp32)"
            )


@dataclass(frozen=True)
class SparseAnswers:
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

    def at(self, rows: torch.Tensor) -> "SparseAnswers":
        """Return the answers for some rows."""
        rows = rows.to(self.device)
        chosen = (part.index_select(0, rows) for part in (self.ids, self.logprobs, self.rest))
        return SparseAnswers(*chosen, self.temperature)


@dataclass(frozen=True)
class TokenAnswers:
    """Log-probabilities of the text's own tokens, from a cache."""

    logprobs: torch.Tensor
    """fp32, m: of each teacher row's next token."""


Answers = DenseAnswers | SparseAnswers | TokenAnswers
