"""Whole models in 8 and 4 bits: saved, loaded, as good as their rounding, and refused where they cannot be."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    set_seed,
)

from kdkit.errors import UserError
from kdkit.evaluate.compression import count_parameters
from kdkit.models.generation import Sampling, generate_ids
from kdkit.models.heads import find_head
from kdkit.models.loading import load_causal_lm
from kdkit.models.quantised.layers import QuantisedLinear
from kdkit.models.quantised.model import (
    check_full_precision,
    release_weights,
    round_weights,
    save_quantised,
    weight_bits,
)
from kdkit.models.quantised.rounding import encode

IDS = torch.arange(12)[None]


def llama(**options):
    set_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2} | options
    config = LlamaConfig(vocab_size=301, num_hidden_layers=1, initializer_range=0.2, **sizes)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.5, 2.0)
    return model


def mixture():
    set_seed(0)
    sizes = {"hidden_size": 64, "moe_intermediate_size": 96, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3MoeConfig(vocab_size=300, num_hidden_layers=1, initializer_range=0.2, **sizes, **heads)
    return Qwen3MoeForCausalLM(config).eval()


def without_attention():
    """Return a model with convolutions, whose weight has three dimensions as experts have."""
    set_seed(0)
    sizes = {"hidden_size": 64, "state_size": 8, "time_step_rank": 32, "expand": 1}
    return MambaForCausalLM(MambaConfig(vocab_size=300, num_hidden_layers=1, initializer_range=0.2, **sizes)).eval()


MODELS = {
    "two tables": llama,
    "one table": lambda: llama(tie_word_embeddings=True),
    "biases": lambda: llama(attention_bias=True),
    "experts": mixture,
    "convolutions": without_attention,
}


def saved(model, folder, bits):
    folder.mkdir()
    save_quantised(model, folder, bits)
    return load_causal_lm(str(folder), "MODEL")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_a_loaded_model_says_what_its_rounded_weights_say(tmp_path, kind, bits):
    model = MODELS[kind]()
    full = model(IDS).logits
    loaded = saved(model, tmp_path / "model", bits)(IDS).logits
    round_weights(model, bits)
    rounded = model(IDS).logits
    release_weights(model)
    assert torch.equal(model(IDS).logits, full)
    # torch's kernels compute in bf16; what rounding changed is far more
    assert (loaded - rounded).norm() < 0.5 * (loaded - full).norm()


@pytest.mark.parametrize(("bits", "most"), [(8, 0.30), (4, 0.22)])
def test_a_table_that_is_the_head_is_stored_once(tmp_path, bits, most):
    model = llama(tie_word_embeddings=True)
    loaded = saved(model, tmp_path / "model", bits)
    names = load_file(tmp_path / "model" / "model.safetensors")
    assert not [name for name in names if name.startswith("lm_head")]
    assert loaded.get_output_embeddings().values is loaded.get_input_embeddings().values
    full = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < most * full


def test_the_head_keeps_eight_bits():
    bits = weight_bits(llama(), 4)
    assert (bits["lm_head.weight"], bits["model.embed_tokens.weight"]) == (8, 4)
    assert weight_bits(llama(tie_word_embeddings=True), 4)["model.embed_tokens.weight"] == 8


@torch.no_grad()
def test_weights_that_torchs_kernels_do_not_take_are_multiplied_all_the_same():
    hidden, weight = torch.randn(3, 40), torch.randn(9, 40)
    odd = QuantisedLinear(encode(weight, 8), None, torch.float32)
    assert torch.allclose(odd(hidden), hidden @ odd.weight.T)
    room = torch.empty(9 * 64 + 8, dtype=torch.int8)[8:].view(9, 64)  # an address like those in a file
    codes = encode(torch.randn(9, 64), 8)
    room.copy_(codes.values)
    shifted, hidden = QuantisedLinear(type(codes)(room, codes.scales), None, torch.float32), torch.randn(12, 64)
    assert torch.allclose(shifted(hidden), hidden @ shifted.weight.T, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_few_rows_and_many_give_the_same_products(bits):
    layer = QuantisedLinear(encode(torch.randn(48, 64), bits), torch.randn(48), torch.float32)
    hidden = torch.randn(3, 40, 64)
    expected = hidden @ layer.weight.T + layer.bias
    assert torch.allclose(layer(hidden), expected, rtol=0.03, atol=0.3)
    assert torch.allclose(layer(hidden[:, :2]), expected[:, :2], rtol=0.03, atol=0.3)
    turned = hidden[0, :8].T.contiguous().T  # the kernels take rows that lie in one piece, and nothing else
    assert torch.allclose(layer(turned), expected[0, :8], rtol=0.03, atol=0.3)


def test_a_loaded_model_writes_and_shows_its_head(tmp_path):
    loaded = saved(llama(), tmp_path / "model", 4)
    assert find_head(loaded, 301).weight.shape == (301, 64)
    sampling = Sampling(temperature=0.0, max_new_tokens=5)
    ((text,),) = generate_ids(loaded, [[1, 2, 3]], sampling, [], vocab_size=301)
    assert len(text.ids) == 5


@torch.no_grad()
@pytest.mark.parametrize("kind", ["one table", "experts"])
def test_a_loaded_model_counts_its_weights_and_computes_in_the_dtype_that_is_asked_for(tmp_path, kind):
    model = MODELS[kind]()
    full = saved(model, tmp_path / "model", 4)
    assert count_parameters(full) == count_parameters(model)
    half = load_causal_lm(str(tmp_path / "model"), "MODEL", dtype=torch.bfloat16)(IDS).logits
    assert half.dtype == torch.bfloat16
    assert (half - full(IDS).logits).norm() < 0.1 * half.norm()


def test_a_rounded_model_is_neither_trained_nor_rounded_again(tmp_path):
    loaded_config = saved(llama(), tmp_path / "model", 4)  # its own configuration says nothing of it
    from kdkit.models.loading import read_model_config

    config = read_model_config(str(tmp_path / "model"), "MODEL")
    assert loaded_config.config.hidden_size == config.hidden_size
    with pytest.raises(UserError, match=r"student\.path: expected a model in full precision, got .* 4 bits"):
        check_full_precision(config, "student.path")


def test_matrices_that_nobody_knows_are_not_left_in_full_precision_silently():
    model = llama()
    model.extra = nn.Module()
    model.extra.core = nn.Parameter(torch.zeros(300, 300))
    with pytest.raises(UserError, match=r"got LlamaForCausalLM with extra\.core"):
        weight_bits(model, 8)
