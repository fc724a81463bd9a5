"""A dense Llama or Qwen3 with its tokenizer, written as a GGUF file in fp32, Q8_0 or Q4_0, which llama.cpp runs.

Only what llama.cpp computes exactly as transformers does is written; the rest is refused with the reason.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from kdkit.errors import UserError
from kdkit.models.gguf.tokenizer import add_tokenizer

ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3"}
"""llama.cpp's name of an architecture, by transformers' `model_type`."""
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INSIDE = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""llama.cpp's names of weights, outside and inside of a layer."""
TABLE, HEAD_ALONE = "token_embd.weight", "output.weight"
INSTALL = "pip install gguf"
BLOCK = 32
"""Weights that share a scale, in Q8_0 and Q4_0."""
Quantisation = Literal["none", "q8_0", "q4_0"]


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    file: Path,
    name: str,
    key: str,
    quantise: Quantisation = "none",
) -> int:
    """Write a model; the file appears whole or not at all.

    Args:
        model: causal LM in fp32.
        file: a new .gguf file.
        name: of the model, which llama.cpp shows.
        key: the setting that named it, for messages.
        quantise: how matrices are stored; with `q4_0` the head, which suffers most, has Q8_0.

    Returns:
        Bytes of the file.

    Raises:
        UserError: see `check_convertible`, `check_blocks` and `name_cut`; no package `gguf`.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quants
    except ModuleNotFoundError:
        raise UserError(f"export: expected the Python package 'gguf', got none; {INSTALL}") from None
    config = model.config
    architecture = check_convertible(config, key)
    check_blocks(model, quantise)
    kinds = {"none": LlamaFileType.ALL_F32, "q8_0": LlamaFileType.MOSTLY_Q8_0, "q4_0": LlamaFileType.MOSTLY_Q4_0}
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    writer = GGUFWriter(partial, architecture)
    try:
        writer.add_name(name)
        writer.add_file_type(kinds[quantise])
        _add_sizes(writer, config)
        add_tokenizer(writer, tokenizer, model.get_output_embeddings().weight.shape[0], key)
        head = HEAD_ALONE if not config.tie_word_embeddings else TABLE
        for weight, values in _named_weights(model, rotates_pairs=architecture == "llama"):
            if quantise == "none" or values.ndim == 1:
                writer.add_tensor(weight, values)
                continue
            kind = GGMLQuantizationType["Q8_0" if weight == head else quantise.upper()]
            writer.add_tensor(weight, quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file.stat().st_size


def check_blocks(model: PreTrainedModel, quantise: Quantisation) -> None:
    """Refuse to cut rows into blocks that do not fill them.

    Raises:
        UserError: a matrix whose width is not a multiple of the block.
    """
    for name, values in model.state_dict().items():
        if quantise != "none" and values.dim() > 1 and values.shape[-1] % BLOCK:
            raise UserError(
                f"--quantise {quantise}: expected weights whose width is a multiple of {BLOCK}, the block that shares "
                f"a scale, got {values.shape[-1]} in {name}; leave --quantise out, or use --format int8"
            )


def check_convertible(config: PreTrainedConfig, key: str) -> str:
    """Return llama.cpp's name of a model's architecture.

    Args:
        key: the setting that named the model, for messages.

    Raises:
        UserError: an architecture, or an option of it, that llama.cpp computes otherwise or not at all.
    """
    values = config.to_dict()
    kind, rotary = config.model_type, values.get("rope_parameters") or {}
    window = values.get("sliding_window") if "sliding_attention" in (values.get("layer_types") or []) else None
    reasons = {
        f"a sliding window of {window} in {kind}, for which llama.cpp has none": window is not None,
        f"the architecture {kind}": kind not in ARCHITECTURES,
        f"hidden_act={values.get('hidden_act')}, where llama.cpp's {kind} has silu": values.get("hidden_act") != "silu",
        f"stretched rotary positions ({rotary.get('rope_type')})": rotary.get("rope_type", "default") != "default",
        "biases in attention": bool(values.get("attention_bias")),
        "biases in the feed-forward layers": bool(values.get("mlp_bias")),
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise UserError(
                f"{key}: expected a dense Llama or Qwen3 with SwiGLU whose layers see all tokens before them, got "
                f"{reason}; it cannot become a GGUF file, so use the folder of safetensors"
            )
    return ARCHITECTURES[kind]


def _add_sizes(writer: Any, config: PreTrainedConfig) -> None:
    """Write what the layers look like."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _named_weights(model: PreTrainedModel, rotates_pairs: bool) -> list[tuple[str, np.ndarray]]:
    """Return the weights under llama.cpp's names, fp32; a table that is the head too stands once.

    Args:
        rotates_pairs: whether llama.cpp turns neighbouring numbers of queries and keys, as Meta's code did, where
            transformers turns the two halves: then their rows change places.
    """
    config, named = model.config, []
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = values.to(torch.float32).cpu().numpy()
        if rotates_pairs and (heads := _rotated_heads(config, name)):
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        named.append((name_weight(name), np.ascontiguousarray(array)))
    return named


def read_weights(file: Path, config: PreTrainedConfig, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Read the weights of a file of `write_gguf` back, as transformers names and orders them, in fp32.

    Args:
        config: of the model that was written.
        names: of its weights in transformers.
    """
    from gguf import GGUFReader, quants

    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    weights = {}
    for name in names:
        wanted = name_weight(name)
        tensor = stored[TABLE if wanted == HEAD_ALONE and config.tie_word_embeddings else wanted]
        array = quants.dequantize(tensor.data, tensor.tensor_type)
        if ARCHITECTURES[config.model_type] == "llama" and (heads := _rotated_heads(config, name)):
            array = array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        weights[name] = torch.from_numpy(np.array(array, dtype=np.float32))
    return weights


def count_weight_bytes(file: Path) -> int:
    """Return the bytes of a file's weights, without its vocabulary, which is a large part of a small model's file."""
    from gguf import GGUFReader

    return sum(int(tensor.n_bytes) for tensor in GGUFReader(file).tensors)


def _rotated_heads(config: PreTrainedConfig, name: str) -> int:
    """Return how many heads a weight of queries or keys has; 0 for any other."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return next((count for part, count in heads.items() if f"{part}.weight" in name), 0)


def name_weight(name: str) -> str:
    """Return llama.cpp's name of a weight."""
    part, kind = name.rsplit(".", 1)
    if part in OUTSIDE:
        return f"{OUTSIDE[part]}.{kind}"
    _, _, layer, inside = part.split(".", 3)
    return f"blk.{layer}.{INSIDE[inside]}.{kind}"
