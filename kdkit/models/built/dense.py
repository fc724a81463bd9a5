"""Dense causal language models from random weights, in transformers' own classes.

A Llama where it suffices. Queries and keys are normalised by Qwen3, which also has a window per layer; Ministral has
the windows without that norm. All three are the same model otherwise.
"""

from typing import Any

from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MinistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.config.built.architecture import sliding_layers
from kdkit.config.built.student import BuildStudentConfig
from kdkit.config.teachers import BuildTeacherConfig
from kdkit.models.built.scratch import initializer_range, spread_embeddings

FULL, SLIDING = "full_attention", "sliding_attention"
"""transformers' names of a layer that sees all before it, and of one with a window."""


def describe_model(
    build: BuildStudentConfig | BuildTeacherConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    context: int,
    intermediate_size: int,
    dropout: float = 0.0,
) -> PreTrainedConfig:
    """Describe a dense model to transformers.

    Args:
        build: sizes and architecture.
        tokenizer: whose tokens it reads.
        context: most tokens that it reads at once.
        intermediate_size: width of the feed-forward layer.
        dropout: share of the attention weights that are dropped in training.
    """
    tokens = {
        "bos_token_id": start_token_id(tokenizer),
        "eos_token_id": end_token_id(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
    }
    return dense_architecture(
        build,
        len(tokenizer),
        context=context,
        intermediate_size=intermediate_size,
        dropout=dropout,
        tokens=tokens,
    )


def dense_architecture(
    build: BuildStudentConfig | BuildTeacherConfig,
    vocab_size: int,
    *,
    context: int,
    intermediate_size: int,
    dropout: float = 0.0,
    tokens: dict[str, int | None] | None = None,
) -> PreTrainedConfig:
    """Do what `describe_model` does without a tokenizer.

    Args:
        tokens: ids of special ones, by transformers' names; None: its defaults.
    """
    shared = {
        "vocab_size": vocab_size,
        "hidden_size": build.hidden_size,
        "num_hidden_layers": build.num_layers,
        "num_attention_heads": build.num_heads,
        "head_dim": build.hidden_size // build.num_heads,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": context,
        "attention_dropout": dropout,
        **architecture_values(build),
        "initializer_range": initializer_range(build.hidden_size),
        **(tokens or {}),
    }
    if not build.qk_norm and build.sliding_window is None:
        return LlamaConfig(**shared)
    sliding = sliding_layers(build, build.num_layers)
    types = [SLIDING if layer in sliding else FULL for layer in range(build.num_layers)]
    window = build.sliding_window
    if not build.qk_norm:
        return MinistralConfig(**shared, sliding_window=window, layer_types=types)
    return Qwen3Config(**shared, use_sliding_window=window is not None, sliding_window=window, layer_types=types)


def architecture_values(build: BuildStudentConfig | BuildTeacherConfig) -> dict[str, Any]:
    """Return what dense models and mixtures of experts have in common, by transformers' names."""
    return {
        "num_key_value_heads": build.num_key_value_heads or build.num_heads,
        "hidden_act": build.hidden_act,
        "tie_word_embeddings": build.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": build.rope_theta},
    }


def build_model(architecture: PreTrainedConfig) -> PreTrainedModel:
    """Draw the weights of a model from torch's random numbers, fp32."""
    return spread_embeddings(AutoModelForCausalLM.from_config(architecture))
