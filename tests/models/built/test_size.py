"""How large a model will be: its parameters and what its backward pass keeps are those of the model itself."""

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from kdkit.config.built.student import BuildStudentConfig
from kdkit.models.built.dense import build_model, describe_model
from kdkit.models.built.size import measure_model

SIZES = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48, "tokenizer": "own"}


def describe(tokenizer, **options):
    build = BuildStudentConfig(**SIZES | options)
    width = build.intermediate_size
    return describe_model(build, tokenizer, context=64, intermediate_size=width, dropout=build.dropout)


@pytest.mark.parametrize(
    "options", [{}, {"tie_embeddings": True}, {"num_key_value_heads": 1, "qk_norm": True, "sliding_window": 4}]
)
def test_the_parameters_are_those_of_the_model_that_is_then_built(small_pair, options):
    architecture = describe(small_pair[0], **options)
    size, model = measure_model(architecture, 2, 16), build_model(architecture)
    table = len(small_pair[0]) * 32
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert size.embeddings == table * (1 if options.get("tie_embeddings") else 2)
    assert (size.weights, size.gradients, size.optimizer) == tuple(n * size.parameters for n in (4, 4, 8))


def test_measuring_draws_no_random_numbers(small_pair):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    measure_model(describe(small_pair[0]), 2, 16)
    assert torch.equal(torch.rand(1), expected)


def kept_by_autograd(model, input_ids) -> int:
    """Return the bytes of the tensors that the layers keep for the backward pass, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train().base_model(input_ids=input_ids, use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_size": 64, "intermediate_size": 256},
        {"num_key_value_heads": 1},
        {"qk_norm": True},
        {"dropout": 0.1},
    ],
)
def test_the_activations_are_those_that_the_backward_pass_keeps(small_pair, options):
    architecture = describe(small_pair[0], **options)
    kept = kept_by_autograd(build_model(architecture), torch.arange(64).reshape(2, 32) % len(small_pair[0]))
    assert measure_model(architecture, 2, 32).activations == pytest.approx(
        kept, rel=0.25 if options.get("dropout") else 0.01
    )


def test_it_is_said_in_one_line(small_pair):
    line = measure_model(describe(small_pair[0]), 2, 16).describe("student")
    size = measure_model(describe(small_pair[0]), 2, 16)
    assert "\n" not in line
    assert line.startswith(f"student: {size.parameters:,} parameters ({size.embeddings:,} in embeddings and head, ")
    assert "AdamW" in line and "activations" in line


def test_half_precision_keeps_the_weights_and_copies_those_of_the_layers(small_pair):
    architecture = describe(small_pair[0])
    whole, half = (measure_model(architecture, 8, 64, half=half) for half in (False, True))
    assert half.weights == whole.weights
    assert whole.casts == 0 and half.casts == 2 * (half.parameters - half.embeddings)
    assert 0.5 * whole.activations < half.activations - half.casts < 0.9 * whole.activations


@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
def test_a_token_meets_the_experts_that_it_is_sent_to(implementation):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "hidden_size": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    architecture = Qwen3MoeConfig(vocab_size=300, intermediate_size=64, **sizes, **heads)
    size = measure_model(architecture, 2, 64)
    assert size.parameters - size.active == 2 * 2 * 3 * 32 * 32
    architecture._experts_implementation = implementation
    kept = kept_by_autograd(Qwen3MoeForCausalLM(architecture), torch.arange(128).reshape(2, 64))
    assert size.activations == pytest.approx(kept, rel=0.25)


def test_attention_maps_are_counted_where_they_are_made(small_pair):
    architecture = describe(small_pair[0])
    plain, eager = (measure_model(architecture, 2, 32, maps=maps) for maps in (False, True))
    maps = 2 * 4 * 32 * 32 * 4
    assert all(
        maps <= b - a + 2 * 4 * 32 * 4 + 2 * 32 * 32 * 4 <= 2 * maps
        for a, b in zip(plain.layers, eager.layers, strict=True)
    )
