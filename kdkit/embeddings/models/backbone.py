"""The parts of an embedding model on disk: its transformer and its linear head; and what the transformer can do."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from kdkit.embeddings.models.pooling import find_file, read_json
from kdkit.errors import UserError
from kdkit.machine.hub import explain_load_error, hub_is_reachable, is_local_path
from kdkit.models.loading import no_bar


def load_backbone(
    name: str, key: str, revision: str | None, trust_remote_code: bool, attentions: bool, dtype: torch.dtype
) -> PreTrainedModel:
    """Load a transformer without its head for words, in evaluation mode, on the CPU.

    Args:
        name: hub name, or folder.
        key: the setting that named it, for messages.
        attentions: with the kernel that can return attention maps.

    Raises:
        UserError: no network, no safetensors weights, weights of another architecture, or an encoder-decoder.
    """
    shared = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": is_local_path(name) or not hub_is_reachable(),
    }
    kernel = {"attn_implementation": "eager"} if attentions else {}
    try:
        config = AutoConfig.from_pretrained(name, **shared)
        config.use_cache = False
        with no_bar() if is_local_path(name) else nullcontext(), _no_report():
            backbone, report = AutoModel.from_pretrained(
                name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **kernel, **shared
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise explain_load_error(error, name, key, "embedding model with safetensors weights") from None
    if config.is_encoder_decoder:
        raise UserError(f"{key}: expected an encoder or a causal LM, got the encoder-decoder {name!r}; choose another")
    if any(weight.startswith("pooler.") for weight in report["missing_keys"]):
        backbone.pooler = None  # BERT's own, which nothing here reads, would be random
    missing = sorted(weight for weight in report["missing_keys"] if not weight.startswith("pooler."))
    if missing:
        raise UserError(
            f"{key}: expected weights for every parameter, got none for {len(missing)} of them in {name!r} "
            f"({', '.join(missing[:3])}, ...); the weights belong to another architecture than config.json"
        )
    return backbone.eval()


def load_head(name: str, folder: str, key: str, revision: str | None) -> nn.Linear:
    """Load a linear head out of a Dense module's folder.

    Raises:
        UserError: it is not linear, or has no safetensors weights.
    """
    config = read_json(name, f"{folder}/config.json", revision) or {}
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    weights = find_file(name, f"{folder}/model.safetensors", revision)
    plain = config.get("module_input_name", "sentence_embedding") == "sentence_embedding"
    if activation != "Identity" or config.get("use_residual") or not plain or weights is None:
        got = f"activation {activation}" if activation != "Identity" else "another form, or no model.safetensors"
        raise UserError(f"{key}: expected a linear head in {folder} of {name!r}, got {got}; choose another model")
    state = {label.removeprefix("linear."): values for label, values in load_file(weights).items()}
    head = nn.Linear(config["in_features"], config["out_features"], bias="bias" in state)
    head.load_state_dict(state)
    return head


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
