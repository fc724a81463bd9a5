"""Sampled continuations of held-out openings, by every model: what the numbers look like as text."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.data.duplicates import UNIT
from kdkit.models.loading import context_length
from kdkit.models.sampling import sample_text


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
        temperature: sampling temperature, > 0, of the whole distribution; see `sample_text`.
        autocast_dtype: dtype for autocast; None: none.
    """
    set_seed(seed)
    texts, context = [], context_length(model.config)
    for prompt in prompts:
        ids = [start_token_id(tokenizer), *tokenizer(prompt, add_special_tokens=False).input_ids]
        room = max_new_tokens if context is None else min(max_new_tokens, context - len(ids))
        if room < 1:
            print(f"continuations: a prompt of {len(ids)} tokens fills the context of {context}, and is not continued")
            texts.append("")
            continue
        output = sample_text(
            model,
            torch.tensor([ids], device=model.device),
            max_new_tokens=room,
            temperature=temperature,
            vocab_size=len(tokenizer),
            end_id=end_token_id(tokenizer),
            autocast_dtype=autocast_dtype,
        )
        texts.append(tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True))
    return texts
