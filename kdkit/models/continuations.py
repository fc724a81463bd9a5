"""Sampled continuations of held-out openings, by every model: what the numbers look like as text."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from kdkit.alignment.tokenizers import end_token_id, start_token_id


def choose_prompts(openings: list[str], count: int, num_words: int) -> list[str]:
    """Take the first words of the first texts that are longer than that."""
    longer = [text.split(" ") for text in openings if len(text.split(" ")) > num_words]
    return [" ".join(words[:num_words]) for words in longer[:count]]


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
