"""How many sentences a second embedding models read, timed side by side."""

import time

import torch

from kdkit.embeddings.models.embedder import EmbeddingModel, encode

SPEED_TEXTS, SPEED_ROUNDS = 256, 3
"""Sentences that are timed, and how often: the models take turns, and the fastest round of each counts."""


def measure_sentences_per_second(
    model: EmbeddingModel, texts: list[str], batch_size: int, autocast_dtype: torch.dtype | None = None
) -> float:
    """Time reading the texts once, tokenizing included, after a batch to warm up."""
    encode(model, texts[:batch_size], batch_size, autocast_dtype=autocast_dtype)
    start = time.perf_counter()
    encode(model, texts, batch_size, autocast_dtype=autocast_dtype)  # ends on the CPU: nothing is left to wait for
    return len(texts) / (time.perf_counter() - start)


def measure_speeds(
    models: dict[str, EmbeddingModel], texts: list[str], batch_size: int, autocast_dtype: torch.dtype | None
) -> dict[str, float]:
    """Time every model in turns, so that other load on the machine slows all of them alike."""
    few = texts[:SPEED_TEXTS]
    rounds = [
        {name: measure_sentences_per_second(model, few, batch_size, autocast_dtype) for name, model in models.items()}
        for _ in range(SPEED_ROUNDS)
    ]
    return {name: max(speeds[name] for speeds in rounds) for name in models}
