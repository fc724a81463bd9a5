"""Measurement of a teacher on held-out text: perplexity, entropy, use of its experts.

Used by notebook 02; also how hard each sequence is for it, by which a curriculum is ordered.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from kdkit.config.language import Config
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.errors import UserError
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.models.continuations import choose_prompts, continue_with
from kdkit.models.experts import Experts, all_experts, top_k_choice
from kdkit.models.finite import REMEDY, check_finite
from kdkit.models.generation import Sampling, generate_ids
from kdkit.models.heads import autocast
from kdkit.models.loading import num_experts
from kdkit.models.reading import Reader
from kdkit.teachers.interface import TextTeacher
from kdkit.training.ends import measure_ends, warn_of_ends
from kdkit.training.score import Score
from kdkit.training.scoring import iterate_batches, score_windows


def probe_teacher(session: Session[Config], data: PreparedData, teacher: TextTeacher) -> dict[str, Any]:
    """Measure the teacher on held-out text and write `teacher/probe.json`.

    Returns:
        `perplexity`, `bits_per_byte`, `document_ends` (see `measure_ends`), `entropy` (nats a token), `top_k_mass`
        (mean probability of its `top_k` most likely tokens), `expert_load` (`[num_layers, E]`, shares that sum to 1
        per layer; None for a dense model), `by_routing` (see `measure_routings`; None likewise), `continuations`.
    """
    config, reader = session.config, teacher.reader(session.hardware.autocast_dtype)
    windows, batch_size = data.evaluation.first(config.evaluate.max_sequences), config.evaluate.batch_size
    score = score_windows(reader, windows, "teacher", batch_size)
    check_scores(session, data, teacher, windows, score)
    curve_windows = data.evaluation.first(config.evaluate.curve_sequences)
    level = score_windows(reader, curve_windows, "teacher", batch_size)
    prompts = choose_prompts(data.manifest["openings"], config.evaluate.num_prompts, config.evaluate.prompt_length)
    texts = write_continuations(session, data, teacher, prompts)
    ends = measure_ends(reader, curve_windows, "teacher", data.teacher_tokenizer, batch_size)
    # a chat template decides what ends a turn
    if not data.is_chat and (warning := warn_of_ends(ends, "teacher.document_end")):
        print(warning)
    probe = {
        "path": teacher.path,
        "architecture": type(teacher.model).__name__ if teacher.has_layers else teacher.name,
        "parameters": teacher.parameters,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "teacher_on_curve": level.bits_per_byte,
        "document_ends": ends,
        **_measure_certainty(session, data, reader, windows),
        "expert_load": _measure_load(session, teacher, windows),
        "by_routing": measure_routings(teacher, curve_windows, batch_size, session.hardware),
        "continuations": [{"prompt": p, "teacher": t} for p, t in zip(prompts, texts, strict=True)],
    }
    session.run.write_json("teacher/probe.json", probe)
    return probe


def write_continuations(
    session: Session[Config], data: PreparedData, teacher: TextTeacher, prompts: list[str]
) -> list[str]:
    """Continue prompts with a teacher; empty texts, and a printed line, where it does not write."""
    settings = session.config.evaluate
    sampling = Sampling(
        settings.generation_temperature, max_new_tokens=settings.max_new_tokens, seed=session.config.seed
    )
    write = teacher.write
    if teacher.has_layers:
        sizes = {"vocab_size": len(data.teacher_tokenizer), "autocast_dtype": session.hardware.autocast_dtype}
        write = partial(generate_ids, teacher.model, **sizes)
    try:
        return continue_with(write, teacher.context, data.teacher_tokenizer, prompts, sampling)
    except UserError as error:
        print(f"the teacher writes no text: {error}")
        return [""] * len(prompts)


def check_scores(
    session: Session[Config], data: PreparedData, teacher: TextTeacher, windows: Windows, score: Score
) -> None:
    """Stop at a held-out text about which the teacher said NaN or inf.

    Raises:
        UserError: naming the model, the layer where it began, and the text.
    """
    bad = np.flatnonzero(~np.isfinite(score.window_nats))
    if not len(bad):
        return
    input_ids = WindowCollator(windows, "teacher")([int(bad[0])])["input_ids"]
    opening = data.teacher_tokenizer.decode(input_ids[0, :16], skip_special_tokens=True)
    what = f"held-out sequence {bad[0]} ({opening!r}...), one of {len(bad)} in {len(windows)}"
    if not teacher.has_layers:
        raise UserError(
            f"teacher.path: expected a finite loss, got NaN or inf from {teacher.name} for {what}; check its weights"
        )
    check_finite(teacher.model, input_ids, "teacher.path", what, session.hardware.autocast_dtype)
    raise UserError(
        f"teacher.path: expected a finite loss, got NaN or inf from {teacher.name} for {what}, with "
        f"finite logits; its batches overflow, run it in {REMEDY}"
    )


def measure_routings(
    teacher: TextTeacher, windows: Windows, batch_size: int, hardware: Hardware
) -> list[dict[str, Any]] | None:
    """Score a MoE teacher with its own routing, with its top 1 and top 2 experts, if it has two, and with all.

    A merged mixture can get worse the more experts are used, and then a router that uses more teaches worse.

    Returns:
        `routing`, `perplexity` and `bits_per_byte` per routing; None for a dense teacher and for one whose experts
        cannot be routed, which a printed line says.
    """
    if not teacher.has_layers or num_experts(teacher.model.config) == 0:
        return None
    try:
        experts = Experts(teacher.model)
    except UserError as error:
        print(f"probed with its own routing only: {error}")
        return None

    def top(k: int) -> AbstractContextManager:
        return experts.routed(lambda _, __, logits: top_k_choice(logits, k, normalised=experts.normalised))

    all_of_them = experts.routed(lambda _, __, logits: all_experts(logits))
    few = {f"top {k}": top(k) for k in (1, 2) if k <= experts.num_experts}
    contexts = {"own": nullcontext(), **few, "all": all_of_them}
    rows = []
    for name, context in contexts.items():
        with context:
            score = score_windows(teacher.model, windows, "teacher", batch_size, hardware.autocast_dtype)
        rows.append({"routing": name, "perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte})
    return rows


@torch.no_grad()
def _measure_certainty(
    session: Session[Config], data: PreparedData, reader: Reader, windows: Windows
) -> dict[str, Any]:
    """Average entropy and top-k mass over tokens."""
    size = len(data.teacher_tokenizer)
    top_k, entropy, mass, tokens = min(session.config.teacher.top_k, size), 0.0, 0.0, 0
    for batch in iterate_batches(windows, "teacher", session.config.evaluate.batch_size):
        logits_of = reader.read(batch["input_ids"])
        rows = (shift_labels(batch["labels"]).flatten() != IGNORE_INDEX).nonzero().squeeze(1)
        for part in even_chunks(len(rows), rows_per_chunk(reader.vocab_size, reader.device)):
            logprobs = torch.log_softmax(logits_of(rows[part])[:, :size], dim=-1)
            entropy -= (logprobs.exp() * logprobs).sum().item()
            mass += logprobs.topk(top_k).values.exp().sum().item()
        tokens += len(rows)
    return {"entropy": entropy / tokens, "top_k": top_k, "top_k_mass": mass / tokens}


@torch.no_grad()
def _measure_load(session: Session[Config], teacher: TextTeacher, windows: Windows) -> list[list[float]] | None:
    """Count the tokens of every expert; return their shares, `[num_layers, E]`, None without experts to be seen."""
    if not teacher.has_layers or not num_experts(teacher.model.config):
        return None
    model, load = teacher.model, torch.zeros(())
    for batch in iterate_batches(windows, "teacher", session.config.evaluate.batch_size):
        with autocast(model, session.hardware.autocast_dtype):
            outputs = model.base_model(
                input_ids=batch["input_ids"].to(model.device), use_cache=False, output_router_logits=True
            )
        is_token = (shift_labels(batch["labels"]) != IGNORE_INDEX).to(model.device)
        load = load + _count_experts(outputs.router_logits, is_token, model.config.num_experts_per_tok)
    return (load / load.sum(dim=1, keepdim=True)).tolist()


def _count_experts(router_logits: tuple[torch.Tensor, ...], is_token: torch.Tensor, top_k: int) -> torch.Tensor:
    """Count how many tokens each expert of each layer is sent; float64, `[num_layers, E]`.

    Args:
        router_logits: per layer, `[B * T, E]`.
        is_token: bool, `[B, T]`: which positions count.
    """
    counted = is_token.flatten()
    rows = []
    for logits in router_logits:
        chosen = logits[counted].topk(top_k, dim=-1).indices.flatten()
        rows.append(torch.bincount(chosen, minlength=logits.shape[-1]).double().cpu())
    return torch.stack(rows)


def teacher_loss(teacher: TextTeacher, windows: Windows, batch_size: int, hardware: Hardware) -> np.ndarray:
    """Return the teacher's mean cross-entropy of each window, nats per token: float64, `[num_windows]`."""
    score = score_windows(teacher.reader(hardware.autocast_dtype), windows, "teacher", batch_size)
    return score.window_nats / np.maximum(windows.labels(slice(None), of_teacher=True).sum(axis=1), 1)


@torch.no_grad()
def teacher_entropy(
    teacher: TextTeacher, windows: Windows, vocab_size: int, batch_size: int, hardware: Hardware
) -> np.ndarray:
    """Return the mean entropy in nats of the teacher's predictions in each window: float64, `[num_windows]`."""
    reader, means = teacher.reader(hardware.autocast_dtype), []
    for batch in iterate_batches(windows, "teacher", batch_size):
        logits_of, is_token = reader.read(batch["input_ids"]), shift_labels(batch["labels"]) >= 0
        rows = is_token.flatten().nonzero().squeeze(1)
        entropies = torch.zeros(len(rows), dtype=torch.float64)
        for part in even_chunks(len(rows), rows_per_chunk(vocab_size, reader.device)):
            logprobs = logits_of(rows[part])[:, :vocab_size].log_softmax(dim=-1)
            entropies[part] = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(dim=-1).double().cpu()
        counts = is_token.sum(dim=1)
        of_row = torch.repeat_interleave(torch.arange(len(counts)), counts)
        sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, of_row, entropies)
        means.append((sums / counts.clamp(min=1)).numpy())
    return np.concatenate(means)
