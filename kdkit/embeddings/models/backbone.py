"""The transformer of an embedding model: loaded, and what it can do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedModel
from transformers.utils import logging

from kdkit.errors import UserError
from kdkit.machine.hardware import choose_attention
from kdkit.machine.hub import explain_load_error, hub_is_reachable, is_local_path
from kdkit.models.loading import bar_of

ENCODER_DECODERS = ("t5", "mt5", "umt5")
"""Families whose encoder alone is read: sentence-t5 and GTR are saved without their decoder."""


def load_backbone(
    name: str, key: str, revision: str | None, trust_remote_code: bool, attentions: bool, dtype: torch.dtype
) -> PreTrainedModel:
    """Load a transformer without its head for words, in evaluation mode, on the CPU; of T5 and its kin the encoder.

    Args:
        name: hub name, or folder.
        key: the setting that named it, for messages.
        attentions: with the kernel that can return attention maps.

    Raises:
        UserError: no network, no safetensors weights, weights of another architecture, or an encoder-decoder (BART)
            whose encoder has no class of its own in transformers.
    """
    shared = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": is_local_path(name) or not hub_is_reachable(),
    }
    kernel = {"attn_implementation": choose_attention(True)[0]} if attentions else {}
    try:
        config = AutoConfig.from_pretrained(name, **shared)
        config.use_cache = False
        loader = AutoModelForTextEncoding if config.model_type in ENCODER_DECODERS else AutoModel
        with bar_of(name), _no_report():
            backbone, report = loader.from_pretrained(
                name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **kernel, **shared
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise explain_load_error(error, name, key, "embedding model with safetensors weights") from None
    if backbone.config.is_encoder_decoder:
        raise UserError(
            f"{key}: expected an encoder, a causal LM or a T5, got the encoder-decoder {name!r}; choose another"
        )
    if any(weight.startswith("pooler.") for weight in report["missing_keys"]):
        backbone.pooler = None  # BERT's own, which nothing here reads, would be random
    missing = sorted(weight for weight in report["missing_keys"] if not weight.startswith("pooler."))
    if missing:
        raise UserError(
            f"{key}: expected weights for every parameter, got none for {len(missing)} of them in {name!r} "
            f"({', '.join(missing[:3])}, ...); the weights belong to another architecture than config.json"
        )
    return backbone.eval()


def is_causal(backbone: PreTrainedModel) -> bool:
    """Return whether tokens attend only to those before them: then the first state does not depend on what follows.

    Tried, not looked up: the same architecture may run either way (a Qwen turned into an encoder).
    """
    was_training = backbone.training
    backbone.eval()
    texts = torch.tensor([[1] + [2] * 7, [1] + [3] * 7], device=backbone.device)
    with torch.no_grad():
        first, second = (backbone(input_ids=text[None]).last_hidden_state[0, 0].float() for text in texts)
    backbone.train(was_training)
    return bool((first - second).abs().max() <= 1e-3 * first.abs().max())


def context_length(backbone: PreTrainedModel) -> int:
    """Return the longest input in tokens; RoBERTa and its kin give up the first position embeddings for padding."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(backbone.config, "max_position_embeddings", None) or 2**30


@contextmanager
def _no_report() -> Iterator[None]:
    """Hide transformers' table of weights that are missing or left over: `load_backbone` looks at them itself."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
