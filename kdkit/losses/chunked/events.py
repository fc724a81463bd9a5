"""What a pair's predictions are compared on: the same outcomes for both models, made from the logits of each.

Letters: c rows, v vocabulary, g events. With one tokenizer the events are its tokens. With two, they are
the tokens that both have (`CommonTokenEvents`), or the tokens of the finer one, which the coarser one's tokens begin
with (`PrefixEvents`). An event's logit is the log-sum-exp of its tokens' logits, so a softmax over events is
the distribution that the tokens' softmax implies, renormalised over those that belong to an event.
"""

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class TokenEvents:
    """Every token is an event."""

    def push(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits, c v, into the logits of the events, c g."""
        return logits

    def pull(self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
        """Turn a gradient by the events' logits into one by the logits.

        Args:
            gradient: c g.
            logits: c v: what was pushed.
            events: c g: what came out.
        """
        return gradient


@dataclass(frozen=True)
class CommonTokenEvents:
    """Some tokens are events, in a given order."""

    ids: torch.Tensor
    """int64, g: distinct tokens."""

    def push(self, logits: torch.Tensor) -> torch.Tensor:
        """See `TokenEvents.push`."""
        return logits.index_select(-1, self.ids)

    def pull(self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
        """See `TokenEvents.pull`; tokens that are no event get 0."""
        return torch.zeros_like(logits).index_copy_(-1, self.ids, gradient)


@dataclass(frozen=True)
class PrefixEvents:
    """Tokens that begin with the same piece of text are one event."""

    groups: torch.Tensor
    """int64, v: the event of each token; `size` for none."""
    size: int

    def push(self, logits: torch.Tensor) -> torch.Tensor:
        """See `TokenEvents.push`; an event without a token gets the smallest probability that fp32 has."""
        firsts, is_empty, others, their_events = self._members
        largest = logits.amax(dim=-1, keepdim=True)
        scaled = (logits - largest).exp_()
        # most events have one token, which is copied: adding column by column is slow on a CPU
        sums = scaled.index_select(-1, firsts).masked_fill_(is_empty, 0.0)
        sums.index_add_(-1, their_events, scaled.index_select(-1, others))
        return sums.clamp_(min=torch.finfo(logits.dtype).tiny).log_().add_(largest)

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

    def pull(self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
        """See `TokenEvents.pull`; d event / d logit is the token's share of its event."""
        padded = torch.nn.functional.pad(gradient, (0, 1))
        totals = torch.nn.functional.pad(events, (0, 1), value=torch.inf)
        shares = (logits - totals.index_select(-1, self.groups)).exp_()
        return shares.mul_(padded.index_select(-1, self.groups))


Events = TokenEvents | CommonTokenEvents | PrefixEvents


@dataclass(frozen=True)
class EventPair:
    """The same outcomes, seen from both vocabularies."""

    student: Events
    teacher: Events
    size: int
    """Number of events."""
    name: str
    """What the ids of a cache mean."""
