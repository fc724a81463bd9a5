"""A dense student of a mixture: equal where a mixture does what a dense model can, and an ordinary model."""

import pytest
import torch
import transformers

from kdkit.errors import UserError
from kdkit.models.from_teacher.expert_scores import measure_experts
from kdkit.models.from_teacher.moe_to_dense import average_experts, join_experts
from kdkit.models.moe_blocks import find_blocks
from tests.mixtures import INPUT_IDS, fix_routing, logits_of, shuffle_units
from tests.models.test_experts import ARCHITECTURES, SHAPE, make_model

pytestmark = pytest.mark.usefixtures("one_thread")

KEY = "student.from_teacher.num_experts"
DENSE = {
    "qwen3_moe": "Qwen3ForCausalLM",
    "qwen3_moe, not normalised": "Qwen3ForCausalLM",
    "mixtral": "MistralForCausalLM",
    "flex_olmo": "Olmo2ForCausalLM",
}


@pytest.fixture(autouse=True)
def flex_olmo(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "flex_olmo", ("FlexOlmo", SHAPE | {"num_experts": 5}))


def measured(model):
    return measure_experts(model, [INPUT_IDS], "teacher.path")


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
@pytest.mark.parametrize("scale", ["routing", "uniform"])
def test_experts_that_every_token_is_sent_to_are_joined_exactly(architecture, scale):
    model = make_model(architecture)
    fix_routing(model, [0, 3])
    dense = join_experts(model, measured(model), 2, "load", scale, KEY)
    assert torch.allclose(logits_of(dense), logits_of(model), rtol=1e-5, atol=1e-5)
    other = join_experts(model, measured(model), 1, "load", scale, KEY)
    assert (logits_of(other) - logits_of(model)).abs().max() > 1e-2


def test_fitted_scales_join_them_up_to_the_ridge():
    model = make_model()
    fix_routing(model, [0, 3])
    dense = join_experts(model, measured(model), 2, "fitted", "fitted", KEY)
    assert torch.allclose(logits_of(dense), logits_of(model), atol=2e-2)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_moe, not normalised"])
def test_the_mean_of_copies_is_the_mixture(architecture):
    model = make_model(architecture, num_experts_per_tok=5)
    for block in find_blocks(model, "teacher.path"):
        for expert in range(1, 5):
            block.experts.gate_up_proj[expert] = block.experts.gate_up_proj[0]
            block.experts.down_proj[expert] = block.experts.down_proj[0]
            shuffle_units(block, expert, seed=expert)
    dense = average_experts(model, measured(model), KEY)
    assert dense.config.intermediate_size == 12
    assert torch.allclose(logits_of(dense), logits_of(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", DENSE)
def test_all_but_the_experts_is_the_teachers(architecture, tmp_path):
    model = make_model(architecture)
    dense, outputs = join_experts(model, measured(model), 2, "diverse", "routing", KEY), []
    assert type(dense).__name__ == DENSE[architecture]
    for block in find_blocks(model, "teacher.path"):
        block.experts.register_forward_hook(lambda _, __, output: outputs.append(output))
    expected = logits_of(model)
    rest = iter(outputs)
    handles = [
        layer.mlp.register_forward_hook(lambda _, __, output: next(rest).view_as(output))
        for layer in dense.model.layers
    ]
    assert torch.equal(logits_of(dense), expected)
    for handle in handles:
        handle.remove()
    dense.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(loaded), logits_of(dense))


def test_a_window_is_the_teachers():
    model = make_model(use_sliding_window=True, sliding_window=3)
    fix_routing(model, [1, 2])
    dense = join_experts(model, measured(model), 2, "load", "routing", KEY)
    assert torch.allclose(logits_of(dense), logits_of(model), rtol=1e-5, atol=1e-5)
    without = make_model()
    fix_routing(without, [1, 2])
    assert not torch.allclose(logits_of(without), logits_of(model), atol=1e-2)


def test_dense_layers_below_are_kept_if_they_are_as_wide():
    model = make_model("qwen3_moe, dense below")
    fix_routing(model, [0, 4])
    dense = join_experts(model, measured(model), 2, "load", "routing", KEY)
    assert torch.allclose(logits_of(dense), logits_of(model), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=rf"^{KEY}: expected feed-forward layers of width 24, as 1 of .*, got 36;"):
        join_experts(model, measured(model), 3, "load", "routing", KEY)


def test_a_mixture_without_a_dense_counterpart_is_named():
    model = make_model("olmoe")
    with pytest.raises(UserError, match=r"expected a mixture with a dense counterpart .*mixtral.*, got olmoe; keep it"):
        average_experts(model, measured(model), KEY)


def test_more_experts_than_there_are_are_refused():
    model = make_model()
    with pytest.raises(UserError, match=rf"^{KEY}: expected at most the teacher's 5 experts, got 6; lower it$"):
        join_experts(model, measured(model), 6, "load", "routing", KEY)
