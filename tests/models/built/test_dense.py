"""Built models: which class, what each option changes, and that the default is what it always was."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, set_seed

from kdkit.config.built.student import BuildStudentConfig
from kdkit.distill.student import make_student
from kdkit.models.built.dense import build_model, describe_model
from kdkit.models.built.scratch import EMBEDDING_SPREAD
from kdkit.models.taps import Taps
from tests.tiny import make_config, make_data

SIZES = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48}


@pytest.fixture(scope="module")
def tokenizer(small_pair):
    return small_pair[0]


def build(tokenizer, **options):
    """Build a small model with some options, always from the same random numbers."""
    settings = BuildStudentConfig(**SIZES, tokenizer="own", **options)
    set_seed(3)
    return build_model(describe_model(settings, tokenizer, context=64, intermediate_size=settings.intermediate_size))


def logits(model, input_ids):
    with torch.no_grad():
        return model.eval()(input_ids=input_ids, use_cache=False).logits


@pytest.fixture(scope="module")
def input_ids(tokenizer):
    return torch.randint(5, len(tokenizer), (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "LlamaForCausalLM"),
        (
            {"num_key_value_heads": 2, "hidden_act": "relu2", "tie_embeddings": True, "rope_theta": 5e4},
            "LlamaForCausalLM",
        ),
        ({"qk_norm": True}, "Qwen3ForCausalLM"),
        ({"sliding_window": 4}, "MinistralForCausalLM"),
        ({"sliding_window": 4, "qk_norm": True, "sliding_layers": "alternate"}, "Qwen3ForCausalLM"),
    ],
)
def test_every_option_is_a_class_of_transformers_that_saves_and_loads(tokenizer, input_ids, tmp_path, options, name):
    model = build(tokenizer, **options)
    assert type(model).__name__ == name
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded, input_ids), logits(model, input_ids))


def test_the_default_student_starts_from_the_weights_that_it_always_had(tmp_path):
    config = make_config(tmp_path)
    data = make_data(config, tmp_path)
    sizes = config.student.build
    set_seed(config.seed)
    expected = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(data.student_tokenizer),
            hidden_size=sizes.hidden_size,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.intermediate_size,
            initializer_range=0.5 / sizes.hidden_size**0.5,
        )
    )
    with torch.no_grad():
        expected.get_input_embeddings().weight.normal_(std=EMBEDDING_SPREAD)
    student = make_student(config, data)
    assert type(student) is LlamaForCausalLM
    weights = student.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.state_dict().items())
    ids = torch.arange(12)[None] % len(data.student_tokenizer)
    assert torch.equal(logits(student, ids), logits(expected, ids))


def test_grouped_heads_share_keys_and_values(tokenizer):
    layer = build(tokenizer, num_key_value_heads=2).model.layers[0].self_attn
    assert layer.k_proj.weight.shape == layer.v_proj.weight.shape == (2 * 8, 32)
    assert layer.q_proj.weight.shape == (4 * 8, 32)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_window_hides_what_lies_before_it_in_the_layers_that_slide(tokenizer, input_ids, qk_norm):
    model = build(tokenizer, sliding_window=4, sliding_layers="alternate", qk_norm=qk_norm).eval()
    with torch.no_grad(), Taps(model, maps=range(3)) as taps:
        model(input_ids=input_ids, use_cache=False)
        _, maps = taps.take()
    distance = torch.arange(20)[:, None] - torch.arange(20)
    for layer, slides in ((0, False), (1, True), (2, False)):
        seen = (distance >= 0) & (distance < 4) if slides else distance >= 0
        assert torch.equal(maps[layer][0, 0] > 0, seen), layer


def test_a_window_in_all_layers_reaches_as_far_as_the_layers_carry_it(tokenizer, input_ids):
    model = build(tokenizer, sliding_window=3)
    other = input_ids.clone()
    other[:, 0] += 1
    changed = (logits(model, input_ids) != logits(model, other)).any(-1)[0]
    # three layers of a window of three: two tokens back in each
    assert changed[:7].all() and not changed[7:].any()


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}])
def test_a_window_generates_with_a_cache_what_it_generates_without(tokenizer, input_ids, options):
    model = build(tokenizer, sliding_window=3, **options).eval()
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(input_ids, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(input_ids, use_cache=False, **settings))


def test_squared_relu_stands_in_the_gate(tokenizer):
    block = build(tokenizer, hidden_act="relu2").model.layers[0].mlp
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    expected = block.down_proj(torch.clamp(block.gate_proj(x), min=0) ** 2 * block.up_proj(x))
    assert torch.allclose(block(x), expected, atol=1e-6)


def test_queries_and_keys_are_normalised_per_head(tokenizer):
    attention = build(tokenizer, qk_norm=True).model.layers[0].self_attn
    assert attention.q_norm.weight.shape == attention.k_norm.weight.shape == (8,)
    rows = attention.q_norm(100 * torch.randn(2, 8))
    assert torch.allclose(rows.pow(2).mean(-1), torch.ones(2), atol=1e-4)


def test_tied_embeddings_are_one_table_with_the_spread_of_the_other_weights(tokenizer):
    model = build(tokenizer, tie_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.std().item() == pytest.approx(0.5 / 32**0.5, rel=0.1)
    separate = build(tokenizer)
    assert separate.model.embed_tokens.weight.std().item() == pytest.approx(EMBEDDING_SPREAD, rel=0.1)


def test_the_base_of_the_positions_changes_how_fast_they_turn(tokenizer):
    slow, usual = build(tokenizer, rope_theta=1e6).model.rotary_emb, build(tokenizer).model.rotary_emb
    assert torch.allclose(usual.inv_freq, 10_000.0 ** -(torch.arange(0, 8, 2) / 8))
    assert torch.allclose(slow.inv_freq, 1e6 ** -(torch.arange(0, 8, 2) / 8))
