"""Drawing text from a causal LM with the distribution that the settings state, whatever lies in its folder."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel

from kdkit.models.heads import autocast


@torch.no_grad()
def sample_text(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    max_new_tokens: int,
    temperature: float,
    vocab_size: int,
    end_id: int,
    autocast_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Draw every next token from softmax(logits / temperature) over the tokens of the vocabulary, and nothing else.

    Args:
        input_ids: int64, `[B, S]`, without padding: what is continued.
        max_new_tokens: tokens to add at most.
        temperature: > 0.
        vocab_size: true size of the tokenizer; rows of a padded head beyond it are never drawn.
        end_id: the token that ends a text, and that shorter texts are filled with.
        autocast_dtype: dtype for autocast, that of the training; None: none.

    Returns:
        int64, `[B, S + new]`: the input and what follows.
    """
    padding = list(range(vocab_size, model.get_output_embeddings().weight.shape[0]))
    stated = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,  # transformers' own default keeps the 50 most likely tokens
        max_new_tokens=max_new_tokens,
        suppress_tokens=padding or None,
        eos_token_id=end_id,
        pad_token_id=end_id,
    )
    with _only(model, stated), autocast(model, autocast_dtype):
        return model.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=stated)


@contextmanager
def _only(model: PreTrainedModel, stated: GenerationConfig) -> Iterator[None]:
    """Put the settings of the model's folder aside: `generate` fills whatever a given configuration leaves open."""
    of_folder = model.generation_config
    model.generation_config = stated
    try:
        yield
    finally:
        model.generation_config = of_folder
