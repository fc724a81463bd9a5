"""A dense student of a mixture: equal where a mixture does what a dense model can, and an ordinary model."""

import pytest
import torch
import transformers

from kdkit.config.built.from_teacher import MoeToDense
from kdkit.config.language import config_from_values
from kdkit.errors import UserError
from kdkit.models.from_teacher.mixtures.to_dense import dense_architecture, join_experts
from kdkit.models.moe_blocks import find_blocks
from tests.mixtures import TEXT, fix_routing, logits_of, shuffle_units
from tests.models.test_experts import ARCHITECTURES, SHAPE, make_model
from tests.tiny import make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

KEY = "student.from_teacher"
DENSE = {
    "qwen3_moe": "Qwen3ForCausalLM",
    "qwen3_moe, not normalised": "Qwen3ForCausalLM",
    "mixtral": "MistralForCausalLM",
    "flex_olmo": "Olmo2ForCausalLM",
}


@pytest.fixture(autouse=True)
def flex_olmo(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "flex_olmo", ("FlexOlmo", SHAPE | {"num_experts": 5}))


def make_dense(model, **settings):
    """Return the dense model of a mixture alone."""
    return join_experts(MoeToDense(**settings), model, TEXT)[0]


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
@pytest.mark.parametrize("scale", ["routing", "uniform"])
def test_experts_that_every_token_is_sent_to_are_joined_exactly(architecture, scale):
    model = make_model(architecture)
    fix_routing(model, [0, 3])
    dense = make_dense(model, num_experts=2, score="load", scale=scale)
    assert torch.allclose(logits_of(dense), logits_of(model), rtol=1e-5, atol=1e-5)
    other = make_dense(model, num_experts=1, score="load", scale=scale)
    assert (logits_of(other) - logits_of(model)).abs().max() > 1e-2


def test_fitted_scales_join_them_up_to_the_ridge():
    model = make_model()
    fix_routing(model, [0, 3])
    dense = make_dense(model, num_experts=2, score="fitted", scale="fitted")
    assert torch.allclose(logits_of(dense), logits_of(model), atol=2e-2)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_moe, not normalised"])
def test_the_mean_of_copies_is_the_mixture(architecture):
    model = make_model(architecture, num_experts_per_tok=5)
    for block in find_blocks(model, "teacher.path"):
        for expert in range(1, 5):
            block.experts.gate_up_proj[expert] = block.experts.gate_up_proj[0]
            block.experts.down_proj[expert] = block.experts.down_proj[0]
            shuffle_units(block, expert, seed=expert)
    dense = make_dense(model, join="average")
    assert dense.config.intermediate_size == 12
    assert torch.allclose(logits_of(dense), logits_of(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", DENSE)
def test_all_but_the_experts_is_the_teachers(architecture, tmp_path):
    model = make_model(architecture)
    dense, outputs = make_dense(model, num_experts=2, score="diverse", scale="routing"), []
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
    dense = make_dense(model, num_experts=2, score="load", scale="routing")
    assert torch.allclose(logits_of(dense), logits_of(model), rtol=1e-5, atol=1e-5)
    without = make_model()
    fix_routing(without, [1, 2])
    assert not torch.allclose(logits_of(without), logits_of(model), atol=1e-2)


def test_dense_layers_below_are_kept_if_they_are_as_wide():
    model = make_model("qwen3_moe, dense below")
    fix_routing(model, [0, 4])
    dense = make_dense(model, num_experts=2, score="load", scale="routing")
    assert torch.allclose(logits_of(dense), logits_of(model), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        UserError, match=rf"^{KEY}.num_experts: expected experts that are together 24 wide, .*, got 36;"
    ):
        make_dense(model, num_experts=3, score="load", scale="routing")


def test_a_mixture_without_a_dense_counterpart_is_named():
    model = make_model("olmoe")
    with pytest.raises(UserError, match=r"moe_to_dense needs .* a dense counterpart .*mixtral.*, got olmoe; set"):
        make_dense(model, join="average")


def test_more_experts_than_there_are_are_refused():
    model = make_model()
    with pytest.raises(UserError, match=rf"^{KEY}.num_experts: expected at most .* 5 experts, got 6; lower it$"):
        make_dense(model, num_experts=6, score="load", scale="routing")


def test_a_dense_teacher_is_refused():
    with pytest.raises(UserError, match=rf"^{KEY}.kind: .* needs a mixture of experts, got the dense 'llama';"):
        dense_architecture(MoeToDense(), make_llama(64).config)


def test_the_architecture_is_known_beforehand_and_says_what_was_kept():
    model = make_model()
    dense, facts = join_experts(MoeToDense(), model, TEXT)
    architecture = dense_architecture(MoeToDense(), model.config).to_dict()
    assert dense.config.to_dict() == architecture | {"dtype": "float32"}
    assert dense.config.intermediate_size == 24, "two experts, as many as a token is sent to"
    assert [len(layer) for layer in facts["experts"]] == [len(layer) for layer in facts["scales"]] == [2, 2]


def test_the_mean_of_all_experts_has_no_number_of_them():
    with pytest.raises(UserError, match=rf"^{KEY}.num_experts: expected none with join=average"):
        config_from_values({"student": {"from_teacher": {"kind": "moe_to_dense", "join": "average", "num_experts": 2}}})
