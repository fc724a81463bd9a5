"""What every teacher thinks of every piece of the training text: computed once, one teacher in memory at a time."""

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdkit.config.teachers import TeachersConfig
from kdkit.data.batches import Side
from kdkit.data.windows import PAD, Windows
from kdkit.distill.curriculum import cached_rows
from kdkit.distill.plan import TrainingPlan
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels
from kdkit.machine.hardware import DTYPES
from kdkit.models.reading import Reader
from kdkit.runs.costs import write_cost
from kdkit.runs.disk import whole_file, writing
from kdkit.runs.folder import fingerprint
from kdkit.runs.messages import note
from kdkit.teachers.prepare import identify_teacher, prepare_teacher
from kdkit.training.scoring import iterate_batches, sum_by_piece


@dataclass(frozen=True)
class PieceScores:
    """Sums over the teacher's tokens of every piece of some windows, float64, `[num_windows, D]`."""

    loss: np.ndarray
    """-log probability of the text, nats."""
    entropy: np.ndarray
    """Entropy of the predictions, nats."""
    max_prob: np.ndarray
    """-log of the largest probability, nats."""


def needs_scores(settings: TeachersConfig) -> bool:
    """Return whether the teachers' own opinion of a text decides who teaches it."""
    return settings.combine == "dynamic" or (settings.combine == "select" and settings.select_by != "source")


def asked_rows(plan: TrainingPlan) -> list[int]:
    """Return the row numbers of the training windows about which the teachers are asked, increasing.

    With a router they are a share of those that are read, drawn by the run's seed.
    """
    rows, settings = cached_rows(plan), plan.session.config.teachers
    if settings.combine != "select" or settings.select_by != "router":
        return rows
    drawn = np.random.default_rng(plan.session.config.seed).permutation(rows)
    return sorted(drawn[: math.ceil(settings.asked_share * len(rows))].tolist())


def score_member(plan: TrainingPlan, rows: list[int]) -> PieceScores:
    """Ask one teacher about the training windows that are read; the answer is kept in the cache.

    Args:
        plan: the teacher's own.
        rows: row numbers of the windows; the others get 0.

    Raises:
        UserError: see `prepare_teacher`.
    """
    session, data, path = plan.session, plan.data, score_path(plan, rows)
    if not path.is_file():
        teacher, begin = prepare_teacher(session, data, DTYPES[plan.answer_precision]), time.perf_counter()
        note(f"{session.config.teachers.only}: reads {len(rows):,} training sequences to say how well it knows them")
        reader, size = teacher.reader(session.hardware.autocast_dtype), len(data.teacher_tokenizer)
        found = score_pieces(reader, data.train, size, session.config.evaluate.batch_size, rows)
        tokens = int((data.train.teacher_ids[rows, 1:] != PAD).sum())
        with writing(path.parent, "cache_dir"):
            write_cost(path, time.perf_counter() - begin, tokens, sequences=len(rows))
            with whole_file(path) as partial, partial.open("wb") as file:
                np.savez(file, **vars(found))
        del teacher
        gc.collect()
        torch.cuda.empty_cache()
    with np.load(path) as arrays:
        return PieceScores(**{name: arrays[name] for name in PieceScores.__dataclass_fields__})


def score_path(plan: TrainingPlan, rows: list[int]) -> Path:
    """Return the file in which one teacher's opinion of some windows is kept."""
    identity = identify_teacher(plan.session, plan.data)
    key = fingerprint("piece scores", plan.data.key, identity, plan.answer_precision, rows)
    return plan.session.run.cache_path / "scores" / f"{key}.npz"


@torch.no_grad()
def score_pieces(reader: Reader, windows: Windows, vocab_size: int, batch_size: int, rows: list[int]) -> PieceScores:
    """Let a teacher read some windows.

    Args:
        reader: of the teacher.
        vocab_size: true size of its tokenizer.
        rows: row numbers of the windows.
    """
    starts = first_positions(windows.pieces, "teacher")
    sums = np.zeros((3, *starts.shape))
    for batch in iterate_batches(windows, "teacher", batch_size, rows=rows):
        logits_of, targets = reader.read(batch["input_ids"]), shift_labels(batch["labels"])
        flat = targets.flatten()
        places = (flat != IGNORE_INDEX).nonzero().squeeze(1)
        values = torch.zeros(3, len(flat), dtype=torch.float64)
        for part in even_chunks(len(places), rows_per_chunk(vocab_size, reader.device)):
            chosen = places[part]
            logprobs = logits_of(chosen)[:, :vocab_size].log_softmax(dim=-1)
            own = logprobs.gather(1, flat[chosen, None].to(logprobs.device)).squeeze(1)
            entropy = torch.special.entr(logprobs.exp()).sum(dim=-1)
            values[:, chosen] = torch.stack([-own, entropy, -logprobs.amax(dim=-1)]).double().cpu()
        these = batch["windows"]
        for number, of_positions in enumerate(values.view(3, *targets.shape).numpy()):
            sums[number, these] = sum_by_piece(of_positions, starts[these])
    return PieceScores(*sums)


def first_positions(pieces: np.ndarray, side: Side) -> np.ndarray:
    """Return the first position of every piece that predicts it, int64, `[num_windows, D]`; `PAD` where there is none.

    Args:
        pieces: of some windows, see `Windows.pieces`; windows that know no documents are one piece each.
    """
    if not pieces.shape[1]:
        return np.zeros((len(pieces), 1), np.int64)
    return np.array(pieces[:, :, 1 if side == "student" else 2], np.int64)


def bytes_of_pieces(windows: Windows) -> np.ndarray:
    """Return the UTF-8 bytes of every piece, at least 1, int64, `[num_windows, D]`."""
    known = windows.pieces[:, :, 3] if windows.pieces.shape[1] else np.asarray(windows.num_bytes)[:, None]
    return np.maximum(known, 1).astype(np.int64)
