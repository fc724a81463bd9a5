"""A doctor for embedding models: is a model read the way it was trained?

What goes wrong most often raises no error: the wrong pooling, a prompt left out, vectors that all point one way
(sentence-transformers issues 694, 1068, 1164, 1505).
"""

import numpy as np
import torch
import torch.nn.functional as F

from kdkit.embeddings.models.backbone import is_causal
from kdkit.embeddings.models.embedder import EmbeddingModel, batches_by_length, pad_ids, tokenize
from kdkit.machine.doctor import Finding

COLLAPSED = 0.9
"""Mean cosine of different sentences above which vectors count as collapsed."""
SMALLEST_DIFFERENCE = 1e-2
"""Of vectors of length 1 under left and right padding: above it the padding matters. Rounding of fp16 stays below."""
USUAL_POOLINGS = ("mean", "cls", "last")


def examine_embeddings(model: EmbeddingModel, texts: list[str], batch_size: int) -> list[Finding]:
    """Read some sentences and look for what is known to go wrong: pooling, collapse, lengths, prompt, padding.

    Args:
        texts: different sentences of the kind that the model is meant for; two at least, a hundred are enough.
    """
    texts = list(dict.fromkeys(texts))
    ids = tokenize(model.tokenizer, texts, model.reading.max_length, model.reading.prompt)
    vectors = _pool_all_ways(model, ids, batch_size)
    cosines = {how: mean_off_diagonal_cosine(values) for how, values in vectors.items()}
    causal = is_causal(model.backbone)
    return [
        _pooling(model, cosines, causal),
        _collapse(cosines[model.reading.pooling]),
        _normalisation(model, np.linalg.norm(vectors[model.reading.pooling], axis=1)),
        _prompt(model),
        _padding(model, ids[:batch_size], causal),
    ]


def examine_vectors(vectors: np.ndarray, num_missing: int, num_texts: int) -> list[Finding]:
    """Look at the vectors of a teacher that is known by them only.

    Args:
        vectors: `[num_sentences, H]`, of held-out sentences.
        num_missing: held-out sentences without a vector, out of `num_texts`.
    """
    missing = Finding("held-out vectors", "ok", f"all {num_texts} held-out sentences have one")
    if num_missing:
        advice = "agreement with the teacher is not measured: embed them too"
        missing = Finding("held-out vectors", "note", f"{num_missing} of {num_texts} have none; {advice}")
    return [_collapse(mean_off_diagonal_cosine(vectors)), missing]


def mean_off_diagonal_cosine(vectors: np.ndarray) -> float:
    """Return the mean cosine between different rows; 0 for fewer than two. Zeros count as at right angles to all.

    Args:
        vectors: `[num_sentences, H]`, of any length.
    """
    if len(vectors) < 2:
        return 0.0
    units = vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True).clip(min=1e-12)
    # the sum over all pairs is the squared length of the sum: no matrix of all pairs is needed
    pairs = (units.sum(axis=0) ** 2).sum() - (units**2).sum()
    return float(pairs / (len(units) * (len(units) - 1)))


@torch.no_grad()
def _pool_all_ways(model: EmbeddingModel, ids: list[list[int]], batch_size: int) -> dict[str, np.ndarray]:
    """Return the sentence vectors under each pooling, fp32, `[num_texts, H]`, in the order of their lengths."""
    ways = dict.fromkeys((*USUAL_POOLINGS, model.reading.pooling))
    parts: dict[str, list[np.ndarray]] = {how: [] for how in ways}
    for rows in batches_by_length(ids, batch_size):
        input_ids, attention_mask = (t.to(model.device) for t in pad_ids([ids[row] for row in rows], model.pad_id))
        states = model(input_ids, attention_mask, hidden_states=True).hidden_states[-1]
        for how in ways:
            pooled = model.pool(states, attention_mask, how)
            fits = pooled.shape[1] == model.pooled_width  # a head for several poolings has no use for one of them
            parts[how].append((model.project(pooled) if fits else pooled).cpu().numpy())
    none = np.zeros((0, model.width), np.float32)
    return {how: np.concatenate(several) if several else none for how, several in parts.items()}


def _pooling(model: EmbeddingModel, cosines: dict[str, float], causal: bool) -> Finding:
    """Compare the pooling with the one that the model's folder declares, and with what its tokens attend to."""
    used, own = model.reading.pooling, model.reading.own_pooling
    measured = ", ".join(f"{how} {cosine:.2f}" for how, cosine in cosines.items())
    measured = f"mean cosine of different sentences by pooling: {measured}"
    if own and own != used:
        return Finding("pooling", "problem", f"{used}, but its folder says {own}: set pooling=auto; {measured}")
    if causal and used == "cls":
        return Finding(
            "pooling", "problem", f"cls, but its first token sees no other token: set pooling=last; {measured}"
        )
    if not own:
        return Finding("pooling", "note", f"{used}, but its folder does not say which one it needs; {measured}")
    return Finding("pooling", "ok", f"{used}, as its folder says; {measured}")


def _collapse(cosine: float) -> Finding:
    """Check whether the vectors of different sentences differ."""
    if cosine > COLLAPSED:
        advice = "they hardly tell sentences apart: check pooling and prompt, or the model is no embedding model"
        return Finding("collapse", "problem", f"mean cosine of different sentences {cosine:.2f}; {advice}")
    return Finding("collapse", "ok", f"mean cosine of different sentences {cosine:.2f}")


def _normalisation(model: EmbeddingModel, lengths: np.ndarray) -> Finding:
    """Check whether the vectors have length 1 when they leave the model."""
    if model.reading.normalize:
        return Finding("normalisation", "ok", "its vectors have length 1")
    spread = f"its vectors have lengths from {lengths.min(initial=np.inf):.3g} to {lengths.max(initial=0.0):.3g}"
    return Finding("normalisation", "note", f"{spread}: compare them by cosine; students learn from length 1")


def _prompt(model: EmbeddingModel) -> Finding:
    """Check whether the model has prompts that are not used."""
    reading = model.reading
    names = [name for name, text in reading.prompts.items() if text]
    if names and not reading.prompt:
        advice = f"it was trained with prompts ({', '.join(names[:5])}) and none is used"
        return Finding(
            "prompt", "note", f"{advice}: name one, or its text, as prompt where the sentences are of its kind"
        )
    return Finding("prompt", "ok", repr(reading.prompt) if reading.prompt else "none, and its folder names none")


@torch.no_grad()
def _padding(model: EmbeddingModel, ids: list[list[int]], causal: bool) -> Finding:
    """Compare both sides of padding, and look for the end token that last-token models are trained with."""
    if model.reading.pooling == "last" and causal:
        special = set(model.tokenizer.all_special_ids)
        if any(text and text[-1] not in special for text in ids):
            advice = "texts end without an end token, which models read by their last token are trained with"
            return Finding("padding", "note", f"{advice}: check its tokenizer's post-processor")
    if not ids:
        return Finding("padding", "ok", "nothing to pad")
    left, right = (
        F.normalize(model(*(t.to(model.device) for t in pad_ids(ids, model.pad_id, side))).pooled, dim=-1)
        for side in ("left", "right")
    )
    difference = float((left - right).abs().max())
    if difference > SMALLEST_DIFFERENCE:
        text = "its positions are absolute: left padding changes its vectors"
        if model.tokenizer.padding_side == "left":
            return Finding("padding", "problem", f"{text}, yet its tokenizer pads left (kdkit pads right)")
        return Finding("padding", "ok", f"right; {text}")
    return Finding("padding", "ok", f"either side (kdkit pads right); vectors differ by {difference:.1e}")
