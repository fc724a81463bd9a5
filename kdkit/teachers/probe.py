"""Measurement of a teacher on held-out text: perplexity, entropy, use of its experts.

Used by notebook 02.
"""

from contextlib import AbstractContextManager, nullcontext
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
from kdkit.models.continuations import choose_prompts, continue_prompts
from kdkit.models.experts import Experts, all_experts, top_k_choice
from kdkit.models.finite import REMEDY, check_finite, describe_model
from kdkit.models.heads import autocast, find_head
from kdkit.models.loading import num_experts
from kdkit.teachers.prepare import Teacher
from kdkit.training.ends import measure_ends, warn_of_ends
from kdkit.training.score import Score
from kdkit.training.scoring import iterate_batches, score_windows


def probe_teacher(session: Session[Config], data: PreparedData, teacher: Teacher) -> dict[str, Any]:
    """Measure the teacher on held-out text and write `teacher/probe.json`.

    Returns:
        `perplexity`, `bits_per_byte`, `document_ends` (see `measure_ends`), `entropy` (nats a token), `top_k_mass`
        (mean probability of its `top_k` most likely tokens), `expert_load` (`[num_layers, E]`, shares that sum to 1
        per layer; None for a dense model), `by_routing` (see `measure_routings`; None likewise), `continuations`.
    """
    config, dtype = session.config, session.hardware.autocast_dtype
    windows = data.evaluation.first(config.evaluate.max_sequences)
    score = score_windows(teacher.model, windows, "teacher", config.evaluate.batch_size, dtype)
    check_scores(session, data, teacher, windows, score)
    curve_windows = data.evaluation.first(config.evaluate.curve_sequences)
    level = score_windows(teacher.model, curve_windows, "teacher", config.evaluate.batch_size, dtype)
    prompts = choose_prompts(data.manifest["openings"], config.evaluate.num_prompts, config.evaluate.prompt_length)
    texts = continue_prompts(
        teacher.model,
        data.teacher_tokenizer,
        prompts,
        max_new_tokens=config.evaluate.max_new_tokens,
        temperature=config.evaluate.generation_temperature,
        seed=config.seed,
        autocast_dtype=dtype,
    )
    ends = measure_ends(
        teacher.model, curve_windows, "teacher", data.teacher_tokenizer, config.evaluate.batch_size, dtype
    )
    # a chat template decides what ends a turn
    if not data.is_chat and (warning := warn_of_ends(ends, "teacher.document_end")):
        print(warning)
    probe = {
        "path": teacher.path,
        "architecture": type(teacher.model).__name__,
        "parameters": sum(parameter.numel() for parameter in teacher.model.parameters()),
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "teacher_on_curve": level.bits_per_byte,
        "document_ends": ends,
        **_measure_certainty(session, data, teacher, windows),
        "by_routing": measure_routings(teacher, curve_windows, config.evaluate.batch_size, session.hardware),
        "continuations": [{"prompt": p, "teacher": t} for p, t in zip(prompts, texts, strict=True)],
    }
    session.run.write_json("teacher/probe.json", probe)
    return probe


def check_scores(
    session: Session[Config], data: PreparedData, teacher: Teacher, windows: Windows, score: Score
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
    check_finite(teacher.model, input_ids, "teacher.path", what, session.hardware.autocast_dtype)
    raise UserError(
        f"teacher.path: expected a finite loss, got NaN or inf from {describe_model(teacher.model)} for {what}, with "
        f"finite logits; its batches overflow, run it in {REMEDY}"
    )


def measure_routings(
    teacher: Teacher, windows: Windows, batch_size: int, hardware: Hardware
) -> list[dict[str, Any]] | None:
    """Score a MoE teacher with its own routing, with its top 1 and top 2 experts, and with all of them.

    A merged mixture can get worse the more experts are used, and then a router that uses more teaches worse.

    Returns:
        `routing`, `perplexity` and `bits_per_byte` per routing; None for a dense teacher and for one whose experts
        cannot be routed, which a printed line says.
    """
    if num_experts(teacher.model.config) == 0:
        return None
    try:
        experts = Experts(teacher.model)
    except UserError as error:
        print(f"probed with its own routing only: {error}")
        return None

    def top(k: int) -> AbstractContextManager:
        return experts.routed(lambda _, __, logits: top_k_choice(logits, k, normalised=experts.normalised))

    all_of_them = experts.routed(lambda _, __, logits: all_experts(logits))
    contexts = {"own": nullcontext(), "top 1": top(1), "top 2": top(2), "all": all_of_them}
    rows = []
    for name, context in contexts.items():
        with context:
            score = score_windows(teacher.model, windows, "teacher", batch_size, hardware.autocast_dtype)
        rows.append({"routing": name, "perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte})
    return rows


@torch.no_grad()
def _measure_certainty(
    session: Session[Config], data: PreparedData, teacher: Teacher, windows: Windows
) -> dict[str, Any]:
    """Average entropy and top-k mass over tokens, and count the tokens of every expert."""
    is_moe = num_experts(teacher.model.config) > 0
    top_k = min(session.config.teacher.top_k, len(data.teacher_tokenizer))
    entropy = mass = 0.0
    tokens = 0
    load: torch.Tensor | float = 0.0
    head = find_head(teacher.model, len(data.teacher_tokenizer))
    for batch in iterate_batches(windows, "teacher", session.config.evaluate.batch_size):
        options = {"output_router_logits": True} if is_moe else {}
        input_ids = batch["input_ids"].to(teacher.model.device)
        with autocast(teacher.model, session.hardware.autocast_dtype):
            outputs = teacher.model.base_model(input_ids=input_ids, use_cache=False, **options)
        is_token = (shift_labels(batch["labels"]) != IGNORE_INDEX).to(teacher.model.device)
        hidden = outputs.last_hidden_state[is_token]
        for part in even_chunks(len(hidden), rows_per_chunk(head.vocab_size, hidden.device)):
            logprobs = torch.log_softmax(head.logits(hidden[part]), dim=-1)
            entropy -= (logprobs.exp() * logprobs).sum().item()
            mass += logprobs.topk(top_k).values.exp().sum().item()
        tokens += int(is_token.sum())
        if is_moe:
            load = load + _count_experts(outputs.router_logits, is_token, teacher.model.config.num_experts_per_tok)
    shares = (load / load.sum(dim=1, keepdim=True)).tolist() if is_moe else None
    return {"entropy": entropy / tokens, "top_k": top_k, "top_k_mass": mass / tokens, "expert_load": shares}


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
