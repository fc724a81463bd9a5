"""Attention: how similar a student's is to its teacher's, and where a model looks in a text.

To compare, both sides' attention is pooled over spans, as in the attention part of the loss (`kdkit.losses.layers`),
because their tokenizers cut the text differently.
"""

import math
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from kdkit.alignment.tokenizers import encode_with_ends, start_token_id, token_bytes
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.evaluate.language import Units
from kdkit.losses.layers import Layout, lay_out, match_heads, pool_maps
from kdkit.machine.session import Session
from kdkit.models.heads import autocast, last_hidden_state
from kdkit.models.loading import load_causal_lm
from kdkit.models.taps import Taps, decoder_layers
from kdkit.runs.disk import whole_file, writing
from kdkit.training.scoring import iterate_batches

INSIDE_FILE, MAPS_FILE = "inside.json", "inside.npz"
"""In the run folder: what `look_inside` found."""
ATTENTION_WINDOWS = 16
"""Held-out windows that are compared; maps grow with the square of a window, so these are few."""
MAP_TOKENS = 24
"""Tokens of the text whose attention is drawn, the start token included."""


def measure_attention(
    teacher: PreTrainedModel,
    students: dict[str, PreTrainedModel],
    pairs: list[tuple[int, int]],
    windows: Windows,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, dict[str, Any]]:
    """Return per student `attention_similarity` and `attention_similarity_interval_95`, over windows; see below."""
    sums, counts = compare_attention(teacher, students, pairs, windows, autocast_dtype)
    units = Units(len(windows), 1, 0)
    return {
        name: {
            "attention_similarity": float(each.sum() / max(counts.sum(), 1)),
            "attention_similarity_interval_95": units.interval_of_ratio(each, counts) if counts.any() else None,
        }
        for name, each in sums.items()
    }


@torch.no_grad()
def compare_attention(
    teacher: PreTrainedModel,
    students: dict[str, PreTrainedModel],
    pairs: list[tuple[int, int]],
    windows: Windows,
    autocast_dtype: torch.dtype | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Compare the attention of students with their teacher's, averaged over heads.

    Args:
        students: by name.
        pairs: student layer and teacher layer, see `kdkit.distill.layer_map`.
        windows: held-out text, one window at a time: the maps of all its layers are in memory together.

    Returns:
        Per student the sum of `similarity` over the spans in the loss and the pairs of layers, by window, fp64,
        `[num_windows]`; and how many they are, `[num_windows]`.

    Raises:
        UserError: an architecture that shows no attention maps; see `Taps`.
    """
    student_layers, teacher_layers = (sorted(set(side)) for side in zip(*pairs, strict=True))
    sums, counts = {name: np.zeros(len(windows)) for name in students}, np.zeros(len(windows))
    for batch in iterate_batches(windows, "student", 1, with_teacher=True):
        student_ids, teacher_ids = batch["input_ids"], batch["teacher_input_ids"]
        sides = lay_out(batch["spans"], student_ids.shape[1], teacher_ids.shape[1])
        is_counted = torch.from_numpy(batch["counted"])[batch["spans"].student_starts[:-1]]
        (row,) = batch["windows"]
        counts[row] = int(is_counted.sum()) * len(pairs)
        expected = _maps(teacher, teacher_ids, teacher_layers, autocast_dtype)
        for name, student in students.items():
            got = _maps(student, student_ids, student_layers, autocast_dtype)
            for student_layer, teacher_layer in pairs:
                matched = match_heads(got[student_layer], expected[teacher_layer], "mean")
                pooled = (pool_maps(*side) for side in zip(matched, sides, strict=True))
                sums[name][row] += similarity(*pooled, sides[0])[is_counted].sum().item()
    return sums, counts


def similarity(first: torch.Tensor, second: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Compute 1 - the Jensen-Shannon divergence, in bits, of each span's attention: 1 the same, 0 nothing in common.

    Args:
        first: `[B, num_heads, max_spans, max_spans + 1]`, from `pool_maps`; rows sum to 1.
        second: the same shape.
        layout: of either side.

    Returns:
        `[N]`, the mean over heads.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy", equation 4.1 with equal weights.
    """
    log_mean = ((first + second) / 2).clamp(min=torch.finfo(first.dtype).tiny).log()
    # log 0 never counts: xlogy(0, 0) and 0 * log_mean are 0
    nats = sum(torch.xlogy(side, side) - side * log_mean for side in (first, second)).sum(dim=-1) / 2
    return 1.0 - (nats / math.log(2)).mean(dim=1)[layout.sequence, layout.place]


@torch.no_grad()
def look_inside(session: Session[Config], data: PreparedData, text: str) -> PreTrainedModel:
    """See where the run's student looks: in a text, and in a whole window of held-out text; and what surprises it.

    Writes `inside.json` (the text's tokens, the window's tokens and the bits that each of those costs) and `inside.npz`
    (`maps`, float32, `[num_layers, num_heads, S, S]`, of the text, its start token first; `seen`, bool,
    `[num_layers, T, T]`: which tokens of the window each one can see at all).

    Returns:
        The student.

    Raises:
        UserError: the run has no student; an architecture that shows no attention maps (see `Taps`).
    """
    model = load_causal_lm(str(session.run.path / "student"), "student.path", device=session.hardware.device).eval()
    tokenizer, layers = data.student_tokenizer, list(range(len(decoder_layers(model))))
    start, table = start_token_id(tokenizer), token_bytes(tokenizer)
    ids = [start, *encode_with_ends(tokenizer, table, text)[0]][:MAP_TOKENS]
    row = data.evaluation.student_ids[0]
    window = row[row != PAD].tolist()
    of_text, of_window = (_maps(model, torch.tensor([each]), layers, None) for each in (ids, window))
    logits = model(input_ids=torch.tensor([window], device=model.device)).logits[0, :-1, : len(tokenizer)].float().cpu()
    nats = -logits.log_softmax(dim=-1).gather(1, torch.tensor(window[1:])[:, None])[:, 0]
    facts = {
        "text_tokens": [(table[token_id] or b"").hex() for token_id in ids],
        "window_tokens": [(table[token_id] or b"").hex() for token_id in window[1:]],
        "bits": (nats / math.log(2)).tolist(),
    }
    session.run.write_json(INSIDE_FILE, facts)
    maps = torch.stack([of_text[layer][0].float() for layer in layers]).numpy()
    # a hidden key has weight 0 in every head; none that is seen has, in float32
    seen = torch.stack([(of_window[layer][0] > 0).any(dim=0) for layer in layers]).numpy()
    path = session.run.path / MAPS_FILE
    with writing(session.run.path, "--runs-dir"), whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, maps=maps, seen=seen)
    return model


def _maps(
    model: PreTrainedModel, input_ids: torch.Tensor, layers: list[int], autocast_dtype: torch.dtype | None
) -> dict[int, torch.Tensor]:
    """Run a model on a batch; return the maps of some layers, `[B, num_heads, S, S]`, on the CPU."""
    with ExitStack() as stack:
        taps = stack.enter_context(Taps(model, maps=layers))
        stack.enter_context(autocast(model, autocast_dtype))
        last_hidden_state(model, input_ids.to(model.device))
        _, maps = taps.take()
    return {layer: values.cpu() for layer, values in maps.items()}
