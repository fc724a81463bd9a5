"""The teacher's signals at the rows of a batch: whole rows from its hidden states, or kept ones from a cache.

Losses take either kind and do not know where it came from. A whole row exists for one chunk at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from kdkit.errors import UserError
from kdkit.losses.chunked.engine import Head, Room, blocks_of, even_chunks, rows_per_chunk, to_device
from kdkit.losses.chunked.events import Events


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

    def columns(self, rows: torch.Tensor, events: Events, room: Room | None = None) -> torch.Tensor:
        """Return what `softmax_` of some events reads, `[chunk_rows, num_columns]`, unchecked; see `Head.logits`."""
        return self._product(events.arrange(self.head), rows, room)

    def _product(self, head: Head, rows: torch.Tensor, room: Room | None = None) -> torch.Tensor:
        here = self._here.index_select(0, to_device(rows, self.device))
        return head.on(self.device, self.hidden.dtype).logits(here, room)

    def logprobs(self, rows: torch.Tensor, events: Events, temperature: float) -> torch.Tensor:
        """Return log-probabilities of the events at some teacher rows, fp32, `[chunk_rows, num_events]`.

        Raises:
            UserError: NaN or inf in the teacher's logits.
        """
        return next(self.logprobs_at(rows, events, [temperature]))

    def logprobs_at(self, rows: torch.Tensor, events: Events, temperatures: Sequence[float]) -> Iterator[torch.Tensor]:
        """Yield what `logprobs` returns for each of some temperatures, from one product with the head.

        Raises:
            UserError: NaN or inf in the teacher's logits.
        """
        columns = self.columns(rows, events)
        for number, temperature in enumerate(temperatures, start=1):
            own = columns if number == len(temperatures) else columns.clone()
            logprobs = torch.cat([events.softmax_(own[block], temperature)[0] for block in blocks_of(own)])
            self.check(rows, logprobs.amax(dim=-1))
            yield logprobs

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


@dataclass(frozen=True, kw_only=True)
class LogitSignals(DenseSignals):
    """Signals of a teacher that gives logits and no hidden states: the inherited ones are `[teacher_rows, 0]`.

    Every row is made when it is asked for, and made again when it is asked for again.
    """

    read: Callable[[torch.Tensor], torch.Tensor]
    """From teacher rows, int64, `[rows]`, on the CPU, to their logits, fp32, `[rows, V]`."""

    def unchecked_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """See `DenseSignals.unchecked_logits`."""
        return self.read(rows.cpu()).to(self.device)

    def columns(self, rows: torch.Tensor, events: Events, room: Room | None = None) -> torch.Tensor:
        """See `DenseSignals.columns`; a teacher's own memory is not overwritten."""
        logits = self.unchecked_logits(rows)
        columns = events.pick(logits)
        return columns.clone() if columns is logits else columns


def logit_signals(
    read: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    device: torch.device,
    targets: torch.Tensor,
    windows: torch.Tensor,
    name: str,
) -> LogitSignals:
    """Make signals of logits that are given row by row; arguments as in `LogitSignals`."""
    nothing = torch.empty(len(targets), 0, device=device)
    head = Head(torch.empty(vocab_size, 0, device=device), vocab_size)
    return LogitSignals(nothing, head, device, targets, windows, name=name, read=read)


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
        rows = to_device(rows, self.device)
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
