"""Cache of the teacher's signals on disk: what it holds, what it must match, and reading it batch by batch.

The container is `kdkit.runs.store`; `cache_build` fills it. The arrays of one window, K kept events:

    top_k       gaps `[N, K]`, levels `[N, K]`: the most likely events; rest `[N]`: log of what is left, or `[N, T]`:
                of what is left at each of T temperatures
    sampled     gaps `[N, K]`, shares `[N, K]`: events drawn from the teacher, and how often (RS-KD, arXiv:2503.16870)
    true_token  logprobs `[teacher_rows]`: log-probability of the text's own next token, for every teacher position

In the first two modes a row is a span, and ids mean events of the pair (`kdkit.losses.chunked.signals`). They are kept
in increasing order as the gaps between them, which gzip can shorten and ids cannot. A level is a log-probability in
sixteenths of a nat, rounded; the kept ones are scaled back to their exact sum on reading. Both modes hold events at
the header's temperature, tempered after the teacher's tokens were summed.

At other temperatures the same events are the most likely ones, and keep their proportions as powers of what they were:
all that is new is what the others weigh together. So one number more for each position serves another temperature
exactly, and one pass of the teacher serves all that the header names (`temperatures`); the levels are those of the
coolest, whose nats are the finest.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.runs.folder import fingerprint
from kdkit.runs.records import Field
from kdkit.runs.store import Store, store_error

MEANING = 3
"""Raise it when the meaning of the stored numbers or the store's format changes: older caches are refused."""
SUMMED = "student tokens"
"""Events that are sums of the teacher's tokens. Older builds tempered the tokens and summed then, which is the same at
temperature 1; since then the header of such answers at another one says `tempered: events`."""

LEVELS_PER_NAT = 16
"""Steps of a kept log-probability: it is at most 1/32 nat off, and 255 steps reach down to 1e-7."""


@dataclass(frozen=True)
class CachedSignals:
    """Signals from an open cache, read by the row numbers of the windows that it was made from, in any order."""

    store: Store
    keys: list[str]
    """Content hash of every window: see `window_keys`."""
    place: int = 0
    """Which of its temperatures the answers are read at."""

    @property
    def temperatures(self) -> list[float]:
        """Temperatures that the answers serve exactly, coolest first."""
        header = self.store.header
        return header.get("temperatures", [header.get("temperature", 1.0)])

    @property
    def temperature(self) -> float:
        """Temperature that the answers are read at."""
        return self.temperatures[self.place]

    def at(self, wanted: float) -> "CachedSignals":
        """Return the same answers, read at the temperature nearest to a wanted one."""
        apart = [abs(math.log(temperature / wanted)) for temperature in self.temperatures]
        return replace(self, place=apart.index(min(apart)))

    def read(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """Read the signals for some windows, one after the other.

        Returns:
            `kept_ids` (int32, `[N, K]`), `kept_logprobs` (fp32, `[N, K]`) and `kept_rest` (fp32, `[N, 1]`), whose
            probabilities sum to 1; or `token_logprobs` (fp32, `[teacher_rows]`).
        """
        joined = self.store.read_all([self.keys[row] for row in rows])
        if "gaps" not in joined:
            return {"token_logprobs": torch.from_numpy(joined["logprobs"].astype(np.float32))}
        ids = joined["gaps"].cumsum(axis=1, dtype=np.int32)
        if "shares" in joined:
            with np.errstate(divide="ignore"):  # places that are not used have share 0
                counts = joined["shares"].astype(np.float32)
                logprobs = np.log(counts / counts.sum(axis=1, keepdims=True))
            rest = np.full((len(logprobs), 1), -np.inf, dtype=np.float32)
        else:
            logprobs = joined["levels"].astype(np.float32) * (self.temperatures[0] / self.temperature / -LEVELS_PER_NAT)
            rest = joined["rest"].astype(np.float32).reshape(len(ids), -1)[:, [self.place]]
            # rounding changed the sum of the kept ones, and what is left may be smaller than that
            kept = np.exp(logprobs).sum(axis=1, keepdims=True)
            logprobs += np.log(-np.expm1(rest)) - np.log(kept)
        return {
            "kept_ids": torch.from_numpy(ids),
            "kept_logprobs": torch.from_numpy(logprobs),
            "kept_rest": torch.from_numpy(rest),
        }


def cache_fields(config: Config, num_events: int) -> list[Field]:
    """Return the arrays that a record of the configured mode consists of."""
    ids = "uint16" if num_events <= 2**16 else "uint32"
    match config.cache.mode:
        case "top_k":
            width = config.cache.top_k
            count = len(config.answer_temperatures)
            if count == 1:
                return [Field("gaps", ids, width), Field("levels", "uint8", width), Field("rest", "float16")]
            # what is next to nothing at the coolest temperature is not at the warmest
            return [Field("gaps", ids, width), Field("levels", "uint16", width), Field("rest", "float16", count)]
        case "sampled":
            width = min(config.cache.num_samples, num_events)
            return [Field("gaps", ids, width), Field("shares", "uint8", width)]
    return [Field("logprobs", "float16", 0)]


def encode_kept(ids: np.ndarray, logprobs: np.ndarray, dtype: str = "uint8") -> dict[str, np.ndarray]:
    """Put kept events in order; return their gaps, integers, and levels, both `[N, K]`.

    Args:
        ids: int64, `[N, K]`, distinct in a row, below 2**23.
        logprobs: float, `[N, K]`.
        dtype: of the levels; what it cannot hold is taken for its largest.
    """
    steps = np.iinfo(dtype).max + 1
    numbers = np.int32 if steps == 256 else np.int64
    levels = np.clip(np.rint(logprobs * -LEVELS_PER_NAT), 0, steps - 1).astype(numbers)
    # an id and its level in one number: sorting numbers is much faster than finding their order
    both = np.sort(ids.astype(numbers) * steps + levels, axis=1)
    return {"gaps": np.diff(both // steps, axis=1, prepend=0), "levels": (both % steps).astype(dtype)}


def describe_cache(
    config: Config, data: PreparedData, identity: dict[str, Any], events: str, precision: str
) -> dict[str, Any]:
    """Return the header of a cache: everything that a reader must agree with.

    Args:
        identity: of the teacher; see `kdkit.teachers.prepare.identify_teacher`.
        events: what the ids mean, as `kdkit.distill.objective` names it; empty for true tokens.
        precision: in which the teacher answered; left out where it is fp32, as in older caches.
    """
    mode = config.cache.mode
    header: dict[str, Any] = {} if precision == "fp32" else {"precision": precision}
    header |= {
        "kind": "teacher answers",
        "meaning": MEANING,
        "mode": mode,
        "teacher": identity,
        "teacher_tokenizer": hash_tokenizer(data.teacher_tokenizer),
    }
    if mode != "true_token":
        header |= {"student_tokenizer": hash_tokenizer(data.student_tokenizer), "events": events}
        temperatures = config.answer_temperatures
        header["temperature"] = temperatures[0]
        if len(temperatures) > 1:
            header["temperatures"] = list(temperatures)
        if events == SUMMED and temperatures != (1.0,):
            header["tempered"] = "events"
        if events == SUMMED and "ByteLevel" not in data.student_tokenizer.backend_tokenizer.to_str():
            # older builds cut the teacher's tokens with the space that SentencePiece puts before a text
            header["cut"] = "as within a text"
        header["top_k" if mode == "top_k" else "num_samples"] = (
            config.cache.top_k if mode == "top_k" else config.cache.num_samples
        )
    return header


def check_temperature_of(store: Store, wanted: float) -> None:
    """Refuse answers of a temperature that cannot serve, or that meant something else when they were made.

    Raises:
        UserError: naming both.
    """
    header = store.header
    made_at = header.get("temperature", wanted)
    if header.get("events") == SUMMED and made_at != 1.0 and header.get("tempered") != "events":
        raise store_error(
            store.path,
            "the teacher's tokens summed to events and tempered then",
            f"answers of an older kdkit, whose tokens were tempered (at {made_at:g}) before they were summed",
            "delete the file: the next run asks the teacher again; caches of temperature 1 are still good",
        )
    if header.get("mode") == "sampled" and made_at != wanted:
        raise store_error(
            store.path,
            f"answers drawn at temperature {wanted:g}",
            f"answers drawn at {made_at:g}, whose counts cannot be converted without bias",
            f"set distill.temperature={made_at:g}, or leave cache.file empty: the next run draws anew",
        )


def window_keys(windows: Windows) -> list[str]:
    """Name every window by its content: what both models read, and where they agree."""
    keys = []
    for student, teacher, positions in zip(
        windows.student_ids, windows.teacher_ids, windows.teacher_positions, strict=True
    ):
        digest = hashlib.sha256(student[student != PAD].astype(np.int32).tobytes() + b"|")
        digest.update(teacher[teacher != PAD].astype(np.int32).tobytes() + b"|")
        digest.update(positions[student != PAD].astype(np.int32).tobytes())
        keys.append(digest.hexdigest()[:32])
    return keys


def hash_tokenizer(tokenizer: PreTrainedTokenizerFast) -> str:
    """Fingerprint what a tokenizer does: its vocabulary, merges and rules."""
    return fingerprint(tokenizer.backend_tokenizer.to_str())
