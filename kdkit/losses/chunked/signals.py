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

import math
import weakref
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from kdkit.errors import UserError
from kdkit.losses.chunked.engine import Head, blocks_of, even_chunks, rows_per_chunk, softmax_, to_device


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
    name: str = field(default="the teacher", kw_only=True)
    """What answered, for messages."""

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
        return self._product(self.head, rows)

    @cached_property
    def _here(self) -> torch.Tensor:
        """Hidden states where the loss is computed: they are what crosses between devices, not logits."""
        return self.hidden.to(self.device)

    def columns(self, rows: torch.Tensor, events: Events) -> torch.Tensor:
        """Return what `softmax_` of some events reads, `[chunk_rows, num_columns]`, unchecked."""
        return self._product(events.arrange(self.head), rows)

    def _product(self, head: Head, rows: torch.Tensor) -> torch.Tensor:
        return head.on(self.device, self.hidden.dtype).logits(self._here.index_select(0, to_device(rows, self.device)))

    def logprobs(self, rows: torch.Tensor, events: Events, temperature: float) -> torch.Tensor:
        """Return log-probabilities of the events at some teacher rows, fp32, `[chunk_rows, num_events]`.

        Raises:
            UserError: NaN or inf in the teacher's logits.
        """
        columns = self.columns(rows, events)
        logprobs = torch.cat([events.softmax_(columns[block], temperature)[0] for block in blocks_of(columns)])
        self.check(rows, logprobs.amax(dim=-1))
        return logprobs

    def check_all(self) -> None:
        """Stop at the first row whose logits are not numbers, naming the sample.

        Raises:
            UserError: NaN or inf in a row.
        """
        for part in even_chunks(len(self.hidden), rows_per_chunk(self.head.vocab_size, self.device)):
            self.logits(torch.arange(part.start, part.stop))

    def check(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Stop at rows whose value is not a number, naming the sample.

        Raises:
            UserError: NaN or inf in a row.
        """
        bad = ~values.isfinite().cpu()
        if bool(bad.any()):
            window = int(self.windows[rows.cpu()[bad][0]])
            raise UserError(
                f"teacher: expected finite logits, got NaN or inf for training sequence {window}; check the weights "
                f"of {self.name}, or run it in a dtype that holds its numbers (train.precision=fp32, or bf16 on a GPU "
                "that has it)"
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


def check_teacher(signals: Signals | tuple[Signals, ...] | None, terms: torch.Tensor) -> None:
    """Stop if the terms of a loss are not numbers because those of a teacher in memory are not.

    Once for all chunks: looking at a number makes the host wait for the device.

    Raises:
        UserError: naming the sample.
    """
    passes = signals if isinstance(signals, tuple) else (signals,)
    dense = [part for part in passes if isinstance(part, DenseSignals)]
    if dense and not bool(terms.isfinite().all()):
        for part in dense:
            part.check_all()
