"""Sampled continuations of held-out openings, by every model: what the numbers look like as text."""

from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.data.text.duplicates import UNIT
from kdkit.models.generation import Generated, Sampling, generate_ids
from kdkit.models.loading import context_length


def choose_prompts(openings: list[str], count: int, num_words: int) -> list[str]:
    """Take the beginnings of the first texts that are longer, `num_words` words each.

    In a script that is written without spaces every character counts as a word. Where no text is longer, its first half
    is taken.
    """
    longer = [text.split(" ") for text in openings if len(text.split(" ")) > num_words]
    prompts = [" ".join(words[:num_words]) for words in longer[:count]]
    if prompts:
        return prompts
    pieces = [(text, list(UNIT.finditer(text))) for text in openings]
    prompts = [text[: units[num_words - 1].end()] for text, units in pieces if len(units) > num_words]
    halves = [text[: min(len(text) // 2, 8 * num_words)] for text in openings if len(text) > 1]
    return (prompts or halves)[:count]


def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    autocast_dtype: torch.dtype | None = None,
) -> list[str]:
    """Sample a continuation of every prompt; equal seeds give equal text.

    A continuation ends where the model's context does.

    Args:
        max_new_tokens: tokens to add at most.
        temperature: sampling temperature, > 0, of the whole distribution.
        autocast_dtype: dtype for autocast; None: none.
    """
    write = partial(generate_ids, model, vocab_size=len(tokenizer), autocast_dtype=autocast_dtype)
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    return continue_with(write, context_length(model.config), tokenizer, prompts, sampling)


def continue_with(
    write: Callable[..., list[list[Generated]]],
    context: int | None,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    sampling: Sampling,
) -> list[str]:
    """Continue every prompt with whatever writes.

    Args:
        write: takes prompts, sampling and stop tokens; see `generate_ids`.
        context: most tokens that it reads; None: no limit.
    """
    start = start_token_id(tokenizer)
    rows = [[start, *tokenizer(prompt, add_special_tokens=False).input_ids] for prompt in prompts]
    full = [context is not None and len(row) >= context for row in rows]
    for row in [row for row, is_full in zip(rows, full, strict=True) if is_full]:
        print(f"continuations: a prompt of {len(row)} tokens fills the context of {context}, and is not continued")
    open_rows = [row for row, is_full in zip(rows, full, strict=True) if not is_full]
    written = write(open_rows, sampling, [end_token_id(tokenizer)])
    texts = iter(tokenizer.decode(samples[0].ids, skip_special_tokens=True) for samples in written)
    return ["" if is_full else next(texts) for is_full in full]
