"""Accuracy of models on minimal pairs: how often the sentence that keeps the rule is the more likely one.

A sentence's score is the sum of the log-probabilities of its tokens after the token that begins a text, so a model
needs no training for the task, and two models compare whatever their tokenizers are.
Source: Warstadt et al. 2020, BLiMP, arXiv:1912.00582 (the full-sentence method).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import start_token_id
from kdkit.config.tasks import EvaluateConfig
from kdkit.data.batches import Side
from kdkit.distill.checkpoints import STUDENT
from kdkit.errors import UserError
from kdkit.evaluate.pairs.files import KEY, Pair
from kdkit.evaluate.significance import paired_t_test
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.models.loading import context_length
from kdkit.models.reading import Reader, open_reader

Z95 = 1.959964


def evaluate_pairs(
    pairs: Sequence[Pair],
    models: Mapping[str, tuple[PreTrainedModel | Reader, Side]],
    tokenizers: Mapping[Side, PreTrainedTokenizerFast],
    settings: EvaluateConfig,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Let every model judge all pairs.

    Args:
        models: by name, with whose tokens each one reads; `student` among them.
        settings: what names the pairs, and how many sentences are read at once.

    Returns:
        `minimal_pairs`: `source`; `num_pairs`, by phenomenon; `models`: per model `accuracy` with `interval_95` over
        all pairs and, in `phenomena`, of each; `differences`: per other model, student - model in accuracy, in pairs of
        one pair, with `interval_95`. Empty without pairs.
    """
    if not pairs:
        return {}
    kinds = list(dict.fromkeys(pair.phenomenon for pair in pairs))
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    found, rows = {}, {}
    for name, (model, side) in models.items():
        logprobs = score_sentences(model, tokenizers[side], sentences, settings.batch_size, autocast_dtype)
        rows[name] = won = compare(logprobs[::2], logprobs[1::2])
        of_kind = {kind: won[[pair.phenomenon == kind for pair in pairs]] for kind in kinds}
        found[name] = _accuracy(won) | {"phenomena": {kind: _accuracy(values) for kind, values in of_kind.items()}}
    others = [name for name in models if name != STUDENT]
    return {
        "minimal_pairs": {
            "source": settings.minimal_pairs,
            "num_pairs": {kind: sum(pair.phenomenon == kind for pair in pairs) for kind in kinds},
            "models": found,
            "differences": {name: _difference(rows[STUDENT] - rows[name]) for name in others},
        }
    }


@torch.no_grad()
def score_sentences(
    model: PreTrainedModel | Reader,
    tokenizer: PreTrainedTokenizerFast,
    sentences: Sequence[str],
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> np.ndarray:
    """Return the log-probability of every sentence, in nats, float64, `[sentences]`.

    Raises:
        UserError: a sentence that has no tokens, or more than the model reads.
    """
    start = start_token_id(tokenizer)
    ids = [[start, *row] for row in tokenizer(list(sentences), add_special_tokens=False).input_ids]
    _check_lengths(ids, sentences, context_length(model.config) if isinstance(model, PreTrainedModel) else None)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    scores = np.zeros(len(ids))
    with open_reader(model, autocast_dtype, len(tokenizer)) as reader:
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            scores[batch] = _sums(reader, [ids[i] for i in batch])
    return scores


def compare(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return 1 where the good sentence is the more likely one, 0 where the bad one is, a half where neither is."""
    return (good > bad) + 0.5 * (good == bad)


def wilson_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` trials (Wilson 1927), which stays within 0 and 1."""
    shrink = 1 + Z95**2 / count
    middle = (accuracy + Z95**2 / (2 * count)) / shrink
    reach = Z95 / shrink * math.sqrt(accuracy * (1 - accuracy) / count + Z95**2 / (4 * count**2))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def _sums(reader: Reader, rows: list[list[int]]) -> np.ndarray:
    """Sum the log-probabilities of the tokens behind the first one, row by row."""
    width = max(map(len, rows))
    input_ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    is_predicted = torch.arange(1, width + 1) < torch.tensor([[len(row)] for row in rows])
    places = is_predicted.flatten().nonzero().squeeze(1)
    targets = input_ids.roll(-1, dims=1).flatten()
    logits_of, nats = reader.read(input_ids), torch.zeros(input_ids.numel(), dtype=torch.float64)
    for part in even_chunks(len(places), rows_per_chunk(reader.vocab_size, reader.device)):
        chosen = places[part]
        logits = logits_of(chosen).float()
        wanted = logits.gather(1, targets[chosen, None].to(logits.device)).squeeze(1)
        nats[chosen] = (wanted - logits.logsumexp(dim=-1)).double().cpu()
    return nats.view(input_ids.shape).sum(dim=1).numpy()


def _check_lengths(ids: list[list[int]], sentences: Sequence[str], context: int | None) -> None:
    """Refuse a sentence that a model cannot judge."""
    for row, sentence in zip(ids, sentences, strict=True):
        if len(row) < 2:
            raise UserError(f"{KEY}: expected sentences that a tokenizer reads, got {sentence!r}; remove the row")
        if context is not None and len(row) > context:
            raise UserError(
                f"{KEY}: expected sentences of at most {context} tokens, a model's context, got {len(row)} in "
                f"{sentence[:60]!r}; remove the row"
            )


def _accuracy(won: np.ndarray) -> dict[str, Any]:
    """Describe the pairs that a model has judged."""
    accuracy = float(won.mean())
    return {"accuracy": accuracy, "interval_95": wilson_interval(accuracy, len(won))}


def _difference(values: np.ndarray) -> dict[str, Any]:
    """Compare two models on the same pairs."""
    test = paired_t_test(values.tolist())
    return {"mean": test.mean, "interval_95": test.interval}
