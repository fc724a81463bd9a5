"""Filling a cache: the teacher reads training sequences once, and its signals are kept."""

import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdkit.config.language import Config
from kdkit.data.batches import WindowCollator
from kdkit.data.windows import Windows
from kdkit.errors import UserError
from kdkit.losses.chunked.engine import BLOCK_BYTES, even_chunks, rows_per_chunk
from kdkit.losses.chunked.events import Events
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.machine.interrupt import stop_when_saved
from kdkit.runs.costs import read_cost, write_cost
from kdkit.runs.disk import check_room
from kdkit.runs.folder import Run
from kdkit.runs.messages import note, step_line
from kdkit.runs.records import Record
from kdkit.runs.store import Shard
from kdkit.runs.store_build import build_store, repair_store
from kdkit.teachers.cache import cache_fields, encode_kept, window_keys
from kdkit.teachers.online import OnlineTeacher

LOWEST_FP16 = -6e4
"""Stands for the logarithm of 0 in the file."""
MIN_ROWS = 256
"""Rows that make the head's product efficient."""


class SignalMaker:
    """Computes the records of a cache, chunk by chunk."""

    def __init__(
        self,
        config: Config,
        windows: Windows,
        teacher: OnlineTeacher | None,
        events: Events | None,
        num_events: int,
        rows: list[int] | None = None,
    ):
        """Prepare the build.

        Args:
            windows: the training sequences; equal ones are computed once.
            teacher: None: nothing can be made; `chunks` and `fields` are known.
            events: what the ids of the cache mean, from the teacher's side; None for true tokens.
            num_events: how many there are.
            rows: row numbers of the sequences that are answered; None: all.

        Raises:
            UserError: more kept events than there are.
        """
        if config.cache.mode == "top_k" and config.cache.top_k > num_events:
            raise UserError(
                f"cache.top_k: expected at most {num_events}, the size of the vocabulary compared, got "
                f"{config.cache.top_k}; lower it"
            )
        self.cache, self.temperatures, self.seed = config.cache, config.answer_temperatures, config.seed
        self.windows, self.teacher, self.events, self.num_events = windows, teacher, events, num_events
        self.batch_size, self.hours = config.evaluate.batch_size, config.train.time_budget_hours
        keys = window_keys(windows)
        self.row_of = {keys[row]: row for row in reversed(range(len(keys)) if rows is None else rows)}
        self.tokens_read = 0
        """The teacher's tokens, so far."""
        self.fields = cache_fields(config, num_events)
        self.collate = WindowCollator(windows, with_teacher=True)

    def chunks(self) -> list[list[str]]:
        """Return the keys of all sequences, in the chunks in which they are made."""
        keys = sorted(self.row_of, key=self.row_of.__getitem__)
        size = self.cache.samples_per_chunk
        return [keys[start : start + size] for start in range(0, len(keys), size)]

    def make(self, keys: Iterable[str]) -> list[Record]:
        """Compute the records of some sequences."""
        rows = [self.row_of[key] for key in keys]
        parts = even_chunks(len(rows), self.batch_size)
        return [record for part in parts for record in self._answer(rows[part])]

    def _answer(self, rows: list[int]) -> list[Record]:
        """Run the teacher over one batch; return a record per sequence."""
        assert self.teacher is not None, "this maker knows no teacher"
        inputs = self.collate(rows)
        spans, device = inputs["spans"], self.teacher.device
        self.tokens_read += len(spans.teacher_rows)
        signals = self.teacher.answer(inputs, device)
        if self.cache.mode == "true_token":
            queried, starts = torch.arange(len(spans.teacher_rows)), spans.teacher_starts[spans.sequence_starts]
        else:
            queried, starts = spans.teacher_starts[:-1], spans.sequence_starts
        # seeded by the sequence, so that a build that was stopped goes on with the same draws
        generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + rows[0])
        parts = [
            self._keep(signals, queried[part], generator)
            for part in even_chunks(len(queried), self._rows_at_once(signals, device))
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return [
            {name: values[a:b] for name, values in joined.items()}
            for a, b in zip(starts.tolist(), starts[1:].tolist(), strict=False)
        ]

    def _rows_at_once(self, signals: DenseSignals, device: torch.device) -> int:
        """Choose as many rows as fit into a CPU's cache, but enough for an efficient product."""
        width = max(self.num_events, signals.head.vocab_size)
        return min(rows_per_chunk(width, device), max(MIN_ROWS, BLOCK_BYTES.get(device.type, 2**22) // (4 * width)))

    @torch.no_grad()
    def _keep(self, signals: DenseSignals, rows: torch.Tensor, generator: torch.Generator) -> Record:
        """Reduce the teacher's rows to what the mode keeps."""
        if self.cache.mode == "true_token":
            logits = signals.logits(rows)
            chosen = logits.gather(1, signals.targets[rows.to(logits.device), None])[:, 0] - logits.logsumexp(dim=-1)
            return {"logprobs": _half(chosen)}
        assert self.events is not None
        if self.cache.mode == "top_k":
            answers = signals.logprobs_at(rows, self.events, self.temperatures)
            values, ids = largest(next(answers), self.cache.top_k)
            kept = [values, *(logprobs.gather(1, ids) for logprobs in answers)]
            rest = (1.0 - torch.stack(kept, dim=-1).exp().sum(dim=1)).clamp(min=0.0).log()
            if self.cache.top_k == self.num_events:
                rest = rest.fill_(LOWEST_FP16)
            record = encode_kept(ids.cpu().numpy(), values.cpu().numpy(), self.fields[1].dtype)
            record |= {"rest": _half(rest).reshape(-1, *self.fields[2].row.shape)}
        else:
            probabilities = signals.logprobs(rows, self.events, self.temperatures[0]).exp_()
            draws = torch.multinomial(probabilities, self.cache.num_samples, replacement=True, generator=generator)
            record = count_draws(draws.sort(dim=-1).values.cpu().numpy(), self.fields[0].width)
        return record | {"gaps": record["gaps"].astype(self.fields[0].dtype)}


def largest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest values of each row and their columns, like `topk`, but not in order.

    They lie in those groups of columns whose largest values are largest, so the rest is not read
    again: on a CPU `topk` over a whole vocabulary takes longer than the head of a small model.
    """
    rows, width = values.shape
    group = max(1, round((width / count) ** 0.5))  # about as many groups as columns in the chosen ones
    num_groups = width // group
    if group == 1 or num_groups <= count:
        return values.topk(count, dim=-1, sorted=False)
    whole = num_groups * group
    # the columns of a group lie `num_groups` apart, which makes their maximum one of whole vectors
    peaks = values[:, :whole].unflatten(1, (group, num_groups)).amax(dim=1)
    chosen = peaks.topk(count, dim=-1, sorted=False).indices
    places = (chosen[..., None] + num_groups * torch.arange(group, device=values.device)).flatten(1)
    tail = torch.arange(whole, width, device=values.device).expand(rows, -1)
    places = torch.cat([places, tail], dim=1)
    found = values.gather(1, places).topk(count, dim=-1, sorted=False)
    return found.values, places.gather(1, found.indices)


def count_draws(draws: np.ndarray, width: int) -> Record:
    """Turn sorted draws into the gaps between distinct ids and how often each one came.

    Args:
        draws: int64, `[rows, num_samples]`, increasing in each row.
        width: columns of the result; those that are not used repeat the last id with share 0.
    """
    is_first = np.diff(draws, axis=1, prepend=-1) != 0
    place = np.cumsum(is_first, axis=1) - 1
    shares = np.zeros((len(draws), width), dtype=np.int64)
    np.add.at(shares, (np.arange(len(draws))[:, None], place), 1)
    gaps = np.zeros_like(shares)
    gaps[np.nonzero(is_first)[0], place[is_first]] = np.diff(draws, axis=1, prepend=0)[is_first]
    return {"gaps": gaps, "shares": shares.astype(np.uint8)}


def build_signals(path: Path, header: dict[str, Any], maker: SignalMaker, run: Run, shard: Shard | None = None) -> Path:
    """Build a cache, or go on with a build that was stopped; prints size and time first.

    Args:
        path: of the shard, if it is one.
        run: whose status says how to go on with a build that is stopped.
        shard: the part of the cache that is built; None: all of it.

    Raises:
        Stopped, SystemExit: by the user, or by the time budget; the chunks that were made are saved.
        UserError: see `build_store`; NaN or inf in the teacher's logits.
    """
    chunks, start, parts = maker.chunks(), time.perf_counter(), Path(f"{path}.parts")
    if shard is not None:
        header, chunks = header | {"shard": shard.describe(chunks)}, shard.part_of(chunks)
    before = read_cost(parts) or {"seconds": 0.0, "tokens": 0}
    try:
        _announce(path, maker, chunks)
        clock = ChunkClock(len(chunks))
        with stop_when_saved(run, maker.hours) as request:

            def make(number: int) -> list[Record]:
                """Make a chunk, unless it is to stop: those before it are kept."""
                request.check(f"cache: {number} of {len(chunks)} chunks are saved")
                records = maker.make(chunks[number])
                request.look()
                return records

            build_store(path, header, maker.fields, chunks, make, clock.tick)
    finally:
        cost = before["seconds"] + time.perf_counter() - start, before["tokens"] + maker.tokens_read
        if parts.is_dir():  # a build that was stopped has cost something, too
            write_cost(parts, *cost)
    write_cost(path, *cost, sequences=sum(map(len, chunks)))
    return path


def repair_signals(path: Path, keys_of: list[list[str]], maker: SignalMaker) -> list[int]:
    """Make the damaged chunks of a cache again.

    Args:
        keys_of: keys of every chunk of the file.
    """
    return repair_store(path, lambda number: maker.make(keys_of[number]))


def _announce(path: Path, maker: SignalMaker, chunks: list[list[str]]) -> None:
    """Print how large the cache will be and how long it will take, from one batch.

    Raises:
        UserError: the disk has no room for it.
    """
    keys = [key for chunk in chunks for key in chunk]
    sample = keys[: maker.batch_size]
    maker.make(sample[:1])  # the first call pays for what the others share
    start = time.perf_counter()
    records = maker.make(sample)
    seconds = time.perf_counter() - start
    num_rows = sum(len(next(iter(record.values()))) for record in records)
    total_rows = num_rows / len(sample) * len(keys)
    num_bytes = total_rows * sum(max(field.width, 1) * np.dtype(field.dtype).itemsize for field in maker.fields)
    note(
        f"cache {path}: {len(keys):,} of {len(maker.windows):,} sequences, about {total_rows:,.0f} positions, "
        f"at most {num_bytes / 1e6:,.1f} MB "
        f"(less when compressed; twice that while it is joined), about {seconds * len(keys) / len(sample):,.0f} s"
    )
    packed = sum(len(zlib.compress(values.tobytes())) for record in records for values in record.values())
    there = sum(part.stat().st_size for part in Path(f"{path}.parts").glob("*"))
    key = "cache.file" if maker.cache.file else "cache_dir"
    check_room(path.parent, key, 2 * packed * len(keys) // len(sample) - there, f"{len(keys):,} sequences' answers")


def _half(values: torch.Tensor) -> np.ndarray:
    """Return log-probabilities as fp16."""
    return values.clamp(min=LOWEST_FP16).half().cpu().numpy()


class ChunkClock:
    """Prints a line now and then while chunks are made."""

    def __init__(self, num_chunks: int):
        self.start = time.perf_counter()
        self.every = max(1, num_chunks // 10)

    def tick(self, ready: int, total: int) -> None:
        """Report after every tenth of the work."""
        if ready % self.every == 0 or ready == total:
            seconds = time.perf_counter() - self.start
            print(step_line("cache", ready, total, "chunks", seconds / ready * (total - ready)), flush=True)
