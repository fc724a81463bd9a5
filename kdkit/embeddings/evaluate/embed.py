"""What a model makes of the texts of tasks: a vector of each, or a vector of every token of each."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.late import TokenVectors, embed_tokens
from kdkit.embeddings.evaluate.measures import PromptedText, Vectors, texts_of
from kdkit.embeddings.evaluate.prompts import find_prompt
from kdkit.embeddings.models.embedder import EmbeddingModel, encode


def embed_tasks(
    model: EmbeddingModel,
    tasks: list[TaskData],
    name: str,
    batch_size: int,
    autocast_dtype: torch.dtype | None,
    sentences: Sequence[str] = (),
) -> tuple[Vectors | TokenVectors, np.ndarray]:
    """Encode all texts of tasks, and some sentences.

    Returns:
        What the tasks are measured by; and a vector of each sentence, `[num_sentences, H]`: of a model with token
        vectors their mean.

    Raises:
        UserError: a task that such a model cannot do.
        RuntimeError: the vectors of the model, called by its `name`, are not finite.
    """
    if model.reading.late is not None:
        held_out = encode(model, list(sentences), batch_size, autocast_dtype=autocast_dtype)
        return embed_tokens(model, tasks, name, batch_size, autocast_dtype), held_out
    texts = [*texts_of(tasks), *(("", sentence) for sentence in sentences)]
    vectors = _embed(model, texts, name, batch_size, autocast_dtype)
    return vectors, vectors.of(list(sentences))


def _embed(
    model: EmbeddingModel, texts: Iterable[PromptedText], name: str, batch_size: int, autocast_dtype: torch.dtype | None
) -> Vectors:
    """Encode every distinct text once, behind its prompt."""
    places: dict[PromptedText, int] = {}
    parts, done = [], 0
    by_prompt: dict[str, list[PromptedText]] = {}
    for prompt, text in dict.fromkeys(texts):
        by_prompt.setdefault(find_prompt(model.reading, prompt), []).append((prompt, text))
    for prompt, prompted in by_prompt.items():
        number = {text: place for place, text in enumerate(dict.fromkeys(text for _, text in prompted), start=done)}
        places |= {entry: number[entry[1]] for entry in prompted}
        parts.append(encode(model, list(number), batch_size, autocast_dtype=autocast_dtype, prompt=prompt))
        done += len(number)
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    broken = int((~np.isfinite(values)).any(axis=1).sum())
    if broken:
        raise RuntimeError(
            f"{name}: expected finite vectors, got NaN or infinite ones for {broken} of {len(values)} texts; its "
            "training diverged, or it overflows in half precision"
        )
    return Vectors(values, places)
