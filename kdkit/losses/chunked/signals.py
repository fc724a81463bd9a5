"""The teacher's signals at the rows of a batch, and the outcomes on which both models' predictions are compared.

Losses take whole rows (hidden states and a head) or kept ones (a cache) and do not know where they came from. A whole
row exists for one chunk at a time.

Outcomes are called events. With one tokenizer they are its tokens. With two, they are the tokens that both have
(`CommonTokenEvents`), or the tokens of the finer one, which the coarser one's tokens begin with (`PrefixEvents`). An
event's logit is the log-sum-exp of its tokens' logits, so a softmax over events is the distribution that the tokens'
softmax implies, renormalised over those that belong to an event.

A temperature divides the logits of events, not of tokens: tokens are summed at temperature 1. Tempered before the
sum, an event would grow with the number of its tokens, which is a fact of a vocabulary and no belief of a model.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from kdkit.errors import UserError
from kdkit.losses.chunked.engine import Head, blocks_of, log_softmax_


@dataclass(frozen=True)
class TokenEvents:
    """Every token is an event."""

    def push(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Turn logits into the logits of the events, divided by a temperature.

        Args:
            logits: `[chunk_rows, V]`; may be overwritten.
            temperature: of the softmax over events.

        Returns:
            `[chunk_rows, num_events]`.
        """
        return logits.div_(temperature) if temperature != 1.0 else logits

    def pull(
        self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """Turn a gradient by the events' logits, before they were divided by the temperature, into one by the logits.

        Args:
            gradient: `[chunk_rows, num_events]`: that by what `push` returned, divided by the temperature.
            logits: `[chunk_rows, V]`: what was pushed.
            events: `[chunk_rows, num_events]`: what `push` returned.
            temperature: what was pushed with.
        """
        return gradient


@dataclass(frozen=True)
class CommonTokenEvents:
    """Some tokens are events, in a given order."""

    ids: torch.Tensor
    """int64, `[num_events]`: distinct tokens."""

    def push(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """See `TokenEvents.push`."""
        return TokenEvents().push(logits.index_select(-1, self.ids), temperature)

    def pull(
        self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """See `TokenEvents.pull`; tokens that are no event get 0."""
        return torch.zeros_like(logits).index_copy_(-1, self.ids, gradient)


@dataclass(frozen=True)
class PrefixEvents:
    """Tokens that begin with the same piece of text are one event."""

    groups: torch.Tensor
    """int64, `[V]`: the event of each token; `size` for none."""
    size: int

    def push(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """See `TokenEvents.push`; an event without a token gets the smallest probability that fp32 has, at any T."""
        firsts, is_empty, others, their_events = self._members
        largest = logits.amax(dim=-1, keepdim=True)
        scaled = (logits - largest).exp_()
        # most events have one token, which is copied: adding column by column is slow on a CPU
        sums = scaled.index_select(-1, firsts).masked_fill_(is_empty, 0.0)
        sums.index_add_(-1, their_events, scaled.index_select(-1, others))
        sums.clamp_(min=torch.finfo(logits.dtype).tiny).log_()
        if temperature == 1.0:
            return sums.add_(largest)
        exponents = torch.full_like(is_empty, 1.0 / temperature, dtype=sums.dtype).masked_fill_(is_empty, 1.0)
        return sums.mul_(exponents).add_(largest / temperature)

    @cached_property
    def _members(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return one token of each event (any for none), which have none, the other tokens, and their events."""
        groups, tokens = self.groups.sort(stable=True)
        inside = groups < self.size
        groups, tokens = groups[inside], tokens[inside]
        is_first = torch.ones_like(groups, dtype=torch.bool)
        is_first[1:] = groups.diff() != 0
        firsts = torch.zeros(self.size, dtype=torch.int64, device=groups.device)
        firsts[groups[is_first]] = tokens[is_first]
        is_empty = torch.ones(self.size, dtype=torch.bool, device=groups.device)
        is_empty[groups] = False
        return firsts, is_empty, tokens[~is_first], groups[~is_first]

    def pull(
        self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """See `TokenEvents.pull`; d event / d logit is the token's share of its event, at temperature 1."""
        padded = torch.nn.functional.pad(gradient, (0, 1))
        totals = torch.nn.functional.pad(events, (0, 1), value=torch.inf)
        if temperature != 1.0:
            totals.mul_(temperature)
        shares = (logits - totals.index_select(-1, self.groups)).exp_()
        return shares.mul_(padded.index_select(-1, self.groups))


Events = TokenEvents | CommonTokenEvents | PrefixEvents


@dataclass(frozen=True)
class EventPair:
    """The same outcomes, as events of both vocabularies."""

    student: Events
    teacher: Events
    size: int
    """Number of events."""
    name: str
    """What the ids of a cache mean."""


@dataclass(frozen=True)
class DenseSignals:
    """Hidden states of an online teacher, which become logits chunk by chunk."""

    hidden: torch.Tensor
    """`[teacher_rows, H]`, on the teacher's device."""
    head: Head
    device: torch.device
    """Where the student's loss is computed."""
    targets: torch.Tensor
    """int64, `[teacher_rows]`: the token that each teacher row predicts; on `device`."""
    windows: torch.Tensor
    """int64, `[teacher_rows]`: row number of the window that each teacher row belongs to; on the CPU."""

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of some teacher rows, fp32, `[chunk_rows, V]`.

        Raises:
            UserError: NaN or inf among them.
        """
        logits = self.unchecked_logits(rows)
        self.check(rows, logits.sum(dim=-1))  # a sum is finite only if every part is
        return logits

    def unchecked_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of some teacher rows, unchecked; the caller calls `check` with values made of them."""
        return self.head.logits(self.hidden.index_select(0, rows.to(self.hidden.device))).to(self.device)

    def logprobs(self, rows: torch.Tensor, events: Events, temperature: float) -> torch.Tensor:
        """Return log-probabilities of the events at some teacher rows, fp32, `[chunk_rows, num_events]`.

        Raises:
            UserError: NaN or inf in the teacher's logits.
        """
        logits = events.push(self.unchecked_logits(rows), temperature)
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
    """Kept events of a cache at each queried row."""

    ids: torch.Tensor
    """int64, `[queried_rows, K]`: events, distinct in a row unless their probability is 0."""
    logprobs: torch.Tensor
    """fp32, `[queried_rows, K]`: their log-probabilities at `temperature`, -inf for places that are not used."""
    rest: torch.Tensor
    """fp32, `[queried_rows, 1]`: log of the probability of all events that are not kept; kept and rest sum to 1."""
    temperature: float
    """Of the teacher's softmax when the cache was made."""

    @property
    def device(self) -> torch.device:
        """Where the signals lie."""
        return self.ids.device

    def at(self, rows: torch.Tensor) -> "SparseSignals":
        """Return the signals at some rows."""
        rows = rows.to(self.device)
        ids, logprobs, rest = (part.index_select(0, rows) for part in (self.ids, self.logprobs, self.rest))
        return SparseSignals(ids, logprobs, rest, self.temperature)


@dataclass(frozen=True)
class TokenSignals:
    """Log-probabilities of the text's own tokens, from a cache."""

    logprobs: torch.Tensor
    """fp32, `[teacher_rows]`: of each teacher row's next token."""


Signals = DenseSignals | SparseSignals | TokenSignals
