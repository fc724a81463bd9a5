"""Models of transformers that can stand in a GGUF file, for tests of writing one."""

from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from kdkit.config.built.student import BuildStudentConfig
from kdkit.models.built.dense import build_model, describe_model

KINDS = {
    "llama": {},
    "grouped heads": {"num_key_value_heads": 2},
    "one table": {"tie_embeddings": True, "rope_theta": 5e4},
    "qwen3": {"qk_norm": True},
    "qwen3 grouped": {"qk_norm": True, "num_key_value_heads": 1, "tie_embeddings": True},
}
"""Options of `student.build` that llama.cpp computes as transformers does."""


def build_kind(tokenizer: PreTrainedTokenizerFast, **options: object) -> PreTrainedModel:
    """Build a small model whose logits are far from zero and whose norms are not all ones."""
    settings = BuildStudentConfig(
        tokenizer="own", hidden_size=64, num_layers=3, num_heads=4, intermediate_size=96, **options
    )
    set_seed(5)
    model = build_model(describe_model(settings, tokenizer, context=256, intermediate_size=96)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 2.0)
        elif "lm_head" in name or (options.get("tie_embeddings") and "embed" in name):
            parameter.data.mul_(10.0)
    return model
