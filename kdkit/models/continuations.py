"""Sampled continuations of held-out openings, by every model: what the numbers look like as text."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.data.duplicates import UNIT


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


@torch.no_grad()
def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[str]:
    """Sample a continuation of every prompt; equal seeds give equal text.

    Args:
        max_new_tokens: tokens to add at most.
        temperature: sampling temperature, > 0.
    """
    set_seed(seed)
    texts = []
    for prompt in prompts:
        ids = [start_token_id(tokenizer), *tokenizer(prompt, add_special_tokens=False).input_ids]
        input_ids = torch.tensor([ids], device=model.device)
        output = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=50,
            eos_token_id=end_token_id(tokenizer),
            pad_token_id=end_token_id(tokenizer),
        )
        texts.append(tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True))
    return texts
