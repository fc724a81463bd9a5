"""The outcomes on which both models' predictions are compared: the same for both, made from the logits of each.

Outcomes are called events. With one tokenizer they are its tokens. With two, they are the tokens that both have
(`CommonTokenEvents`), or the tokens of the finer one, which the coarser one's tokens begin with (`PrefixEvents`). An
event's logit is the log-sum-exp of its tokens' logits, so a softmax over events is the distribution that the tokens'
softmax implies, renormalised over those that belong to an event.

A temperature divides the logits of events, not of tokens: tokens are summed at temperature 1. Tempered before the
sum, an event would grow with the number of its tokens, which is a fact of a vocabulary and no belief of a model.
"""

import math
import weakref
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from kdkit.losses.chunked.engine import Head, softmax_


@dataclass(frozen=True)
class TokenEvents:
    """Every token is an event."""

    def arrange(self, head: Head) -> Head:
        """Return a head that computes the columns which `softmax_` reads, and no others."""
        return head

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Return those columns of logits that are there already, `[chunk_rows, V]`."""
        return logits

    def softmax_(self, columns: torch.Tensor, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probabilities and the probabilities of the events, `[rows, num_events]` each.

        Args:
            columns: `[rows, num_columns]`: logits of a head as `arrange` returns it; overwritten.
            temperature: of the softmax over events.
        """
        if temperature != 1.0:
            columns.div_(temperature)
        return columns, softmax_(columns)

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

    def arrange(self, head: Head) -> Head:
        """See `TokenEvents.arrange`."""
        return _arrange(head, self.ids, self._arranged)

    @cached_property
    def _arranged(self) -> "list[_Arranged]":
        return []

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """See `TokenEvents.pick`."""
        return logits.index_select(-1, self.ids)

    def softmax_(self, columns: torch.Tensor, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TokenEvents.softmax_`."""
        return TokenEvents().softmax_(columns, temperature)

    def push(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """See `TokenEvents.push`."""
        return TokenEvents().push(self.pick(logits), temperature)

    def pull(
        self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """See `TokenEvents.pull`; tokens that are no event get 0."""
        return torch.zeros_like(logits).index_copy_(-1, self.ids, gradient)


@dataclass(frozen=True)
class PrefixEvents:
    """Tokens that begin with the same piece of text are one event.

    Columns are arranged as one token of each event, in the order of the events, and then the others, event by event.
    """

    groups: torch.Tensor
    """int64, `[V]`: the event of each token; `size` for none."""
    size: int

    def arrange(self, head: Head) -> Head:
        """See `TokenEvents.arrange`; tokens that belong to no event are left out."""
        return _arrange(head, self._members.order, self._arranged)

    @cached_property
    def _arranged(self) -> "list[_Arranged]":
        return []

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """See `TokenEvents.pick`."""
        return logits.index_select(-1, self._members.order)

    def softmax_(self, columns: torch.Tensor, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TokenEvents.softmax_`; an event without a token has next to no probability, as in `push`."""
        members, tiny = self._members, torch.finfo(columns.dtype).tiny
        columns[:, : self.size].index_fill_(-1, members.empty, -torch.inf)
        shares = torch.softmax(columns, dim=-1)
        largest = shares.amax(dim=-1, keepdim=True) if len(members.empty) else None
        sums = shares[:, : self.size]
        # most events have one token and are in place: adding column by column is slow on a CPU
        sums.index_add_(-1, members.events, shares[:, self.size :])
        logprobs = sums.clamp(min=tiny).log_().div_(temperature)
        if largest is not None:
            least = largest.log_().div_(temperature).add_(math.log(tiny))
            logprobs.index_copy_(-1, members.empty, least.expand(-1, len(members.empty)))
        if temperature == 1.0:
            return logprobs, sums
        return logprobs, softmax_(logprobs)

    def push(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """See `TokenEvents.push`; an event without a token gets the smallest probability that fp32 has, at any T."""
        members, columns = self._members, self.pick(logits)
        columns[:, : self.size].index_fill_(-1, members.empty, -torch.inf)
        largest = columns.amax(dim=-1, keepdim=True)
        scaled = columns.sub_(largest).exp_()
        sums = scaled[:, : self.size].contiguous()
        sums.index_add_(-1, members.events, scaled[:, self.size :])
        sums.clamp_(min=torch.finfo(logits.dtype).tiny).log_()
        if temperature == 1.0:
            return sums.add_(largest)
        exponents = sums.new_full((self.size,), 1.0 / temperature).index_fill_(0, members.empty, 1.0)
        return sums.mul_(exponents).add_(largest / temperature)

    @cached_property
    def _members(self) -> "_Members":
        """Sort the tokens by their events."""
        groups, tokens = self.groups.sort(stable=True)
        inside = groups < self.size
        groups, tokens = groups[inside], tokens[inside]
        is_first = torch.ones_like(groups, dtype=torch.bool)
        is_first[1:] = groups.diff() != 0
        firsts = torch.zeros(self.size, dtype=torch.int64, device=groups.device)
        firsts[groups[is_first]] = tokens[is_first]
        is_empty = torch.ones(self.size, dtype=torch.bool, device=groups.device)
        is_empty[groups] = False
        order = torch.cat([firsts, tokens[~is_first]])
        return _Members(order, is_empty.nonzero().squeeze(1), groups[~is_first])

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


@dataclass(frozen=True)
class _Members:
    """The tokens of prefix events as columns."""

    order: torch.Tensor
    """int64, `[num_columns]`: one token of each event (any for none), then the others."""
    empty: torch.Tensor
    """int64: events without a token."""
    events: torch.Tensor
    """int64, `[num_columns - num_events]`: the events of the others."""


_Arranged = tuple[weakref.ref[Head], Head]
"""A head, and what has been made of it."""


def _arrange(head: Head, order: torch.Tensor, made: list[_Arranged]) -> Head:
    """Return a head that computes some columns of another one; made once for as long as it is the same head."""
    if not made or made[0][0]() is not head:
        order = order.to(head.weight.device)
        bias = None if head.bias is None else head.bias.index_select(0, order)
        arranged = replace(head, weight=head.weight.index_select(0, order), vocab_size=len(order), bias=bias)
        made[:] = [(weakref.ref(head), arranged)]
    return made[0][1]


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
