"""Small teachers of which students are made, and a text."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.models.from_teacher.text import TextBatch

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
IDS = torch.randint(0, 60, (3, 12), generator=torch.Generator().manual_seed(0))
TARGETS = IDS.roll(-1, dims=1)
TARGETS[:, -1] = TARGETS[0, 6:] = IGNORE_INDEX
TEXT = [TextBatch(IDS, TARGETS)]


def make_model(kind: str = "llama", **changes: object) -> PreTrainedModel:
    """Make a teacher: `llama`, whose heads share keys and values, `tied`, with biases and one table, or `mixture`."""
    set_seed(0)
    if kind == "mixture":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES | experts | changes)).eval()
    more = {"tie_word_embeddings": True, "attention_bias": True} if kind == "tied" else {}
    return LlamaForCausalLM(LlamaConfig(**SIZES | more | changes)).eval()
