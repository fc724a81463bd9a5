"""Small GGUF files for tests: any Llama of transformers with its tokenizer, written in fp32."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""llama.cpp's types of tokens."""

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None,
    reason="llama-cpp-python is not installed (pip install 'kdkit[gguf]', which compiles it)",
)
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_llama(path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, **changes: object) -> Path:
    """Write a model as llama.cpp's own converter does; `changes` are values that stand in the file otherwise."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(changes.get("context", config.max_position_embeddings))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, changes.get("pre", "gpt-2"))
    for name, tensor in model.state_dict().items():
        array = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(_name_of(name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name_of(name: str) -> str:
    """Return llama.cpp's name of a tensor."""
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    part, kind = name.rsplit(".", 1)
    if part in outside:
        return f"{outside[part]}.{kind}"
    _, _, layer, inside = part.split(".", 3)
    return f"blk.{layer}.{NAMES[inside]}.{kind}"


def _add_tokenizer(writer, tokenizer: PreTrainedTokenizerFast, pre: str) -> None:
    """Write a byte-level BPE, or a SentencePiece one whose merges are in the order of its ids."""
    entries = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    types = [CONTROL if i in special else NORMAL for i in range(len(tokens))]
    if "ByteLevel" in tokenizer.backend_tokenizer.to_str():
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(merge) for merge in entries["merges"]])
    else:
        writer.add_tokenizer_model("llama")
        types = [BYTE if token.startswith("<0x") else kind for token, kind in zip(tokens, types, strict=True)]
        types[tokenizer.unk_token_id] = UNKNOWN
        writer.add_token_scores([float(-i) for i in range(len(tokens))])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
