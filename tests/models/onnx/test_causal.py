"""ONNX graphs of causal LMs: torch's logits at once and step by step, the same text, and what is refused.

Skipped where the packages of the extra `onnx` are missing.
"""

import pytest
import torch
from torch import nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    set_seed,
)

from kdkit.errors import UserError
from kdkit.models.generation import Sampling, generate_ids
from kdkit.models.onnx.causal import check_cache, write_causal_graph
from kdkit.models.onnx.experts import use_all_experts
from kdkit.models.onnx.graph import PACKAGES, export_graph, quantise_graph
from kdkit.models.onnx.running import OnnxCausalLM
from kdkit.models.reading import ModelReader
from kdkit.workflow.deploy.formats import check_graph

for name in PACKAGES:
    pytest.importorskip(name, reason="the extra onnx is not installed")
onnx = pytest.importorskip("onnx")

PROMPTS = [[1, 2, 3], [5, 6, 7, 8, 9, 10], [1, 2, 3]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return a model with one table and grouped heads, and its graph."""
    set_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "initializer_range": 0.3}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, tie_word_embeddings=True, **sizes, **heads)).eval()
    model.model.layers[0].post_attention_layernorm.weight.data.uniform_(0.5, 2.0)  # equal ones become one in a graph
    file = write_causal_graph(model, tmp_path_factory.mktemp("graph") / "model.onnx", "MODEL")
    return model, file


def test_a_graph_writes_what_its_model_writes(pair):
    model, graph = pair[0], OnnxCausalLM(pair[1], pair[0].config)
    for temperature, samples in ((0.0, 1), (1.0, 2)):
        options = {"vocab_size": 300, "num_samples": samples}
        sampling = Sampling(temperature=temperature, max_new_tokens=12)
        texts = [generate_ids(each, PROMPTS, sampling, [0], **options) for each in (model, graph)]
        assert texts[0] == texts[1]


def test_a_graph_reads_what_its_model_reads(pair):
    model, graph = pair[0], OnnxCausalLM(pair[1], pair[0].config)
    ids, rows = torch.arange(20).reshape(2, 10), torch.tensor([0, 7, 13])
    expected = ModelReader(model, 290).read(ids)(rows)
    assert torch.allclose(graph.reader(290).read(ids)(rows), expected, atol=1e-4)


def test_the_check_finds_a_graph_of_other_weights(pair):
    model, graph = pair[0], OnnxCausalLM(pair[1], pair[0].config)
    assert check_graph(model, graph, 300) < 1e-4
    weight = model.model.layers[0].self_attn.k_proj.weight
    kept = weight.data.clone()
    weight.data[0] *= 1.5
    with pytest.raises(RuntimeError, match=r"expected torch's logits within 0\.001, got a difference of"):
        check_graph(model, graph, 300)
    weight.data = kept


def test_a_file_holds_little_beside_its_weights_and_int8_is_a_quarter_of_them(pair):
    model, file = pair
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert file.stat().st_size < weights + 40_000
    small = quantise_graph(file, file.with_name("small.onnx"))
    assert small.stat().st_size < 0.3 * weights + 60_000
    ids = torch.arange(20).reshape(2, 10)
    full, rounded = model(ids).logits, OnnxCausalLM(small, model.config)(ids).logits
    assert 0 < (rounded - full).norm() < 0.1 * full.norm()


def test_int8_in_blocks_bears_a_feature_that_is_far_larger_than_all_others(pair, tmp_path):
    model, file = pair
    graph = onnx.load(file)
    norm = next(each for each in graph.graph.initializer if each.name.endswith("post_attention_layernorm.weight"))
    values = onnx.numpy_helper.to_array(norm).copy()
    values[0] = 100.0
    norm.CopyFrom(onnx.numpy_helper.from_array(values, norm.name))
    onnx.save(graph, tmp_path / "model.onnx")
    ids = torch.arange(20).reshape(2, 10)
    errors = []
    for block in (None, 32):
        small = quantise_graph(tmp_path / "model.onnx", tmp_path / f"{block}.onnx", block)
        full, rounded = (OnnxCausalLM(each, model.config)(ids).logits for each in (tmp_path / "model.onnx", small))
        errors.append(float((rounded - full).norm() / full.norm()))
    assert errors[1] < 0.5 * errors[0], errors


def test_an_operator_that_onnx_does_not_have_is_named(tmp_path):
    class Odd(nn.Module):
        def forward(self, values):
            return torch.linalg.eigvalsh(values)

    with pytest.raises(
        UserError, match=r"expected operators that ONNX has, got aten\._linalg_eigh in the model; export"
    ):
        export_graph(Odd(), (torch.eye(3),), tmp_path / "odd.onnx", names=(["values"], ["roots"]), sizes=None)
    assert not (tmp_path / "odd.onnx").exists()


def test_what_cannot_be_traced_is_told_with_its_reason(tmp_path):
    class Odd(nn.Module):
        def forward(self, values):
            return values + 1 if values.sum() > 0 else values

    with pytest.raises(UserError, match=r"got what torch\.export cannot trace \(.*data-dependent.*\) in the model; "):
        export_graph(Odd(), (torch.eye(3),), tmp_path / "odd.onnx", names=(["values"], ["out"]), sizes=None)


def test_a_sliding_window_is_refused():
    config = LlamaConfig(num_key_value_heads=2)
    config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(UserError, match=r"MODEL: expected a model whose layers keep .* llama with sliding_attention"):
        check_cache(config, "MODEL")


def test_what_keeps_no_keys_and_values_is_refused():
    check_cache(GPT2Config(), "MODEL")  # has as many heads of keys as of queries, and does not say so
    with pytest.raises(UserError, match=r"MODEL: expected a model whose layers keep .* got mamba with "):
        check_cache(MambaConfig(), "MODEL")


SIZES = {"vocab_size": 300, "hidden_size": 32, "num_attention_heads": 2, "initializer_range": 0.2}
FEW = {"num_experts": 4, "num_experts_per_tok": 2}


def mixture(**options):
    set_seed(0)
    sizes = SIZES | {"moe_intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 16} | FEW | options
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(num_hidden_layers=2, **sizes)).eval()


def with_biases():
    """Return a mixture whose experts have biases, and weights that lie the other way round."""
    set_seed(0)
    sizes = SIZES | {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4}
    model = GptOssForCausalLM(GptOssConfig(num_hidden_layers=1, num_experts_per_tok=2, **sizes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("_bias"):
            parameter.data.normal_()
    return model


@pytest.mark.parametrize("make", [mixture, with_biases])
@torch.no_grad()
def test_all_experts_at_once_give_what_the_chosen_ones_give(make):
    model, ids = make(), torch.arange(20).reshape(2, 10)
    model.set_experts_implementation("eager")
    expected = model(ids).logits
    use_all_experts(model)
    assert torch.allclose(model(ids).logits, expected, atol=1e-5)


@pytest.mark.slow
def test_a_mixture_becomes_a_graph_whose_experts_become_int8_too(tmp_path):
    model = mixture(moe_intermediate_size=256)
    file = write_causal_graph(model, tmp_path / "model.onnx", "MODEL")
    assert check_graph(model, OnnxCausalLM(file, model.config), 300) < 1e-4
    small = quantise_graph(file, tmp_path / "small.onnx")
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert small.stat().st_size < 0.3 * weights + 60_000


def other_widths():
    """Return a model whose keys are wider than its values, and than its configuration says."""
    ranks = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    sizes = SIZES | {"intermediate_size": 32, "num_key_value_heads": 2, "first_k_dense_replace": 1}
    return DeepseekV3ForCausalLM(DeepseekV3Config(num_hidden_layers=1, **sizes, **ranks)).eval()


def unsaid_heads():
    """Return a model whose configuration does not name heads of keys and values."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("make", [other_widths, unsaid_heads])
def test_keys_and_values_have_the_shapes_that_the_model_gives_them(tmp_path, make):
    set_seed(0)
    model = make()
    file = write_causal_graph(model, tmp_path / "model.onnx", "MODEL")
    assert check_graph(model, OnnxCausalLM(file, model.config), 300) < 1e-4
