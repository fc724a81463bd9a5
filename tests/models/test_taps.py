"""Taps: what they catch, that they change nothing, that eager layers do not see the future, and what is refused."""

import copy

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    set_seed,
)

from kdkit.errors import UserError
from kdkit.models import taps as module
from kdkit.models.taps import Taps, decoder_layers, find_attention

IDS = torch.arange(24).reshape(2, 12) * 5 % 40
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "initializer_range": 0.3,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    # as many experts as layers
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=3, sliding_window=None)),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SHAPE, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8)
    ),
    "short window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)),
    "long window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=40)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=3, n_head=4, n_positions=32)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def make_model(name: str, attention: str = "sdpa"):
    set_seed(0)
    model = MODELS[name]().eval()
    model.set_attn_implementation(attention)
    return model


def num_hooks(model: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


@every_model
def test_the_output_is_unchanged_with_taps_on(name):
    model = make_model(name)
    with torch.no_grad():
        expected = model(IDS, use_cache=False).logits
        with Taps(model, states=range(3), maps=range(3)):
            got = model(IDS, use_cache=False).logits
    assert (got - expected).abs().max() < 1e-5


@every_model
def test_states_and_maps_are_those_that_the_model_itself_returns(name):
    model, eager = make_model(name), make_model(name, "eager")
    with torch.no_grad():
        expected = eager(IDS, use_cache=False, output_hidden_states=True, output_attentions=True)
        with Taps(model, states=[0, 1], maps=[0, 2]) as taps:
            model(IDS, use_cache=False)
    states, maps = taps.take()
    assert states.keys() == {0, 1} and maps.keys() == {0, 2}
    for layer, caught in states.items():
        # transformers counts the embeddings as its first hidden state
        assert torch.allclose(caught, expected.hidden_states[layer + 1], atol=1e-5)
    for layer, caught in maps.items():
        assert torch.allclose(caught, expected.attentions[layer], atol=1e-5)


def test_maps_can_be_caught_averaged_over_heads():
    model, caught = make_model("llama"), []
    for mean_heads in (False, True):
        with torch.no_grad(), Taps(model, maps=[1], mean_heads=mean_heads) as taps:
            model(IDS)
        caught.append(taps.take()[1][1])
    assert caught[0].shape[1] == 4 and caught[1].shape[1] == 1
    assert torch.equal(caught[0].mean(dim=1, keepdim=True), caught[1])


@every_model
def test_eager_layers_do_not_see_the_future(name):
    with torch.no_grad(), Taps(model := make_model(name), maps=range(3)) as taps:
        model(IDS, use_cache=False)
    for maps in taps.take()[1].values():
        assert maps.triu(diagonal=1).abs().max() == 0
        assert torch.allclose(maps.sum(dim=-1), torch.ones(()), atol=1e-5)


def test_without_the_supplied_mask_they_would_see_it(monkeypatch):
    monkeypatch.setattr(module, "_supply_mask", lambda _, args, kwargs: (args, kwargs))
    with torch.no_grad(), Taps(model := make_model("llama"), maps=[1]) as taps:
        model(IDS, use_cache=False)
    assert taps.take()[1][1].triu(diagonal=1).abs().max() > 0.01


def test_a_given_mask_is_kept():
    model = make_model("llama")
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    with torch.no_grad():
        expected = model(IDS, attention_mask=mask, use_cache=False).logits
        with Taps(model, maps=range(3)) as taps:
            got = model(IDS, attention_mask=mask, use_cache=False).logits
    assert torch.allclose(got[0, 3:], expected[0, 3:], atol=1e-5)
    assert taps.take()[1][0][0, :, 3:, :3].max() == 0


def test_layers_do_not_see_beyond_a_sliding_window():
    with torch.no_grad(), Taps(model := make_model("short window"), maps=[1]) as taps:
        model(IDS, use_cache=False)
    assert taps.take()[1][1].tril(diagonal=-4).max() == 0


def test_a_causal_mask_has_a_window_where_the_attention_has_one():
    seen = module._causal_mask(torch.zeros(1, 5, 2), window=2)[0, 0]
    assert seen.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_only_the_chosen_layers_run_eagerly_and_all_is_restored():
    model = make_model("llama")
    before = [find_attention(layer).config for layer in decoder_layers(model)]
    with Taps(model, states=[2], maps=[1]):
        implementations = [find_attention(layer).config._attn_implementation for layer in decoder_layers(model)]
        assert implementations == ["sdpa", "eager", "sdpa"]
        assert model.config._attn_implementation == "sdpa"
        assert num_hooks(model) == 3
    assert all(find_attention(layer).config is old for layer, old in zip(decoder_layers(model), before, strict=True))
    assert num_hooks(model) == 0


def test_all_is_restored_after_an_error():
    model = make_model("llama")
    with pytest.raises(KeyboardInterrupt), Taps(model, states=[0], maps=[1]):
        raise KeyboardInterrupt
    assert num_hooks(model) == 0
    assert find_attention(decoder_layers(model)[1]).config is model.config


def test_what_was_taken_is_forgotten():
    with Taps(model := make_model("llama"), states=[0]) as taps:
        model(IDS)
        assert taps.take()[0].keys() == {0}
        model(IDS)
        assert taps.take() == ({}, {})


@pytest.mark.parametrize("empty", [None, torch.zeros(0), ()])
def test_empty_attention_maps_are_an_error(empty):
    model = make_model("llama")
    attention = find_attention(decoder_layers(model)[1])
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: (forward(*args, **kwargs)[0], empty)
    with (
        Taps(model, maps=[1]),
        pytest.raises(UserError, match=r"expected attention maps from layer 1 of LlamaForCausalLM"),
    ):
        model(IDS)


def test_an_attention_that_returns_nothing_but_its_output_is_an_error():
    model = make_model("llama")
    attention = find_attention(decoder_layers(model)[1])
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **kwargs)[0]
    with Taps(model, maps=[1]), pytest.raises(UserError, match=r"expected attention maps from layer 1"):
        model(IDS)


def test_a_layer_without_attention_is_refused():
    model = make_model("llama")
    decoder_layers(model)[2].self_attn = torch.nn.Identity()
    Taps(model, states=[2], maps=[1])
    with pytest.raises(UserError, match=r"expected one attention module in a layer, got 0"):
        Taps(model, maps=[2])


def test_a_model_without_a_list_of_layers_is_refused():
    model = make_model("llama")
    model.model.layers = torch.nn.ModuleList(list(model.model.layers)[:2])
    with pytest.raises(UserError, match=r"expected a list of 3 decoder layers"):
        Taps(model, states=[0])


def test_gradients_through_taps_are_the_same_with_gradient_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = make_model("llama").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with Taps(model, states=[1], maps=[0, 2]) as taps:
            model(IDS, use_cache=False)
            states, maps = taps.take()
            (states[1].square().sum() + sum(value.square().sum() for value in maps.values())).backward()
        assert taps.take() == ({}, {})
        gradients.append({name: copy.copy(p.grad) for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(value, gradients[1][name], atol=1e-5) for name, value in gradients[0].items())
