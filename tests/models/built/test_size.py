"""How large a model will be: counted exactly, and its training's memory roughly."""

import pytest
import torch

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
def test_the_activations_are_about_those_that_the_backward_pass_keeps(small_pair, options):
    architecture = describe(small_pair[0], **options)
    kept = kept_by_autograd(build_model(architecture), torch.arange(64).reshape(2, 32) % len(small_pair[0]))
    assert measure_model(architecture, 2, 32).activations == pytest.approx(kept, rel=0.25)


def test_it_is_said_in_one_line(small_pair):
    line = measure_model(describe(small_pair[0]), 2, 16).describe("student")
    size = measure_model(describe(small_pair[0]), 2, 16)
    assert "\n" not in line
    assert line.startswith(f"student: {size.parameters:,} parameters ({size.embeddings:,} in embeddings and head, ")
    assert "AdamW" in line and "activations" in line


def test_half_precision_halves_the_activations_alone(small_pair):
    architecture = describe(small_pair[0])
    whole, half = measure_model(architecture, 2, 16), measure_model(architecture, 2, 16, half=True)
    assert (half.activations, half.weights) == (whole.activations // 2, whole.weights)
