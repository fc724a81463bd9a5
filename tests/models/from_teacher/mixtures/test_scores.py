"""What experts do on a text, against loops over tokens and experts, and who is chosen."""

import pytest
import torch
from torch.nn import functional as F

from kdkit.errors import UserError
from kdkit.models.from_teacher.mixtures import scores
from kdkit.models.from_teacher.mixtures.scores import (
    ExpertUse,
    choose_experts,
    fit_weights,
    mean_weights,
    measure_experts,
)
from kdkit.models.moe_blocks import find_blocks
from tests.mixtures import INPUT_IDS, TEXT, fix_routing, logits_of
from tests.models.test_experts import make_model
from tests.tiny import make_llama

pytestmark = pytest.mark.usefixtures("one_thread")


def by_loops(model):
    """Return what the experts of the first layer do, token by token."""
    block, caught = find_blocks(model, "teacher.path")[0], []
    handle = block.experts.register_forward_hook(lambda _, inputs, output: caught.append((*inputs, output)))
    logits_of(model)
    handle.remove()
    (hidden, experts, weights, given), e = caught[0], len(block.gate.weight)
    sums = {name: torch.zeros(e, dtype=torch.float64) for name in ("routed", "weight", "contribution", "agreement")}
    gram = torch.zeros(e, e, dtype=torch.float64)
    for token, row in enumerate(hidden):
        if (token + 1) % INPUT_IDS.shape[1] == 0:
            continue
        outputs = []
        for expert in range(e):
            gate, up = (block.experts.gate_up_proj[expert] @ row).chunk(2)
            outputs.append(block.experts.down_proj[expert] @ (F.silu(gate) * up))
            sums["agreement"][expert] += outputs[expert] @ given[token]
        for place, expert in enumerate(experts[token].tolist()):
            sums["routed"][expert] += 1
            sums["weight"][expert] += weights[token, place]
            sums["contribution"][expert] += weights[token, place] * outputs[expert].norm()
        gram += torch.stack(outputs) @ torch.stack(outputs).T
    return sums, gram


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_moe, not normalised", "mixtral"])
def test_sums_are_those_of_loops_over_tokens_and_experts(architecture, monkeypatch):
    monkeypatch.setattr(scores, "MAX_NUMBERS", 5 * 24 * 7)  # seven tokens at once, of eleven in a row
    model = make_model(architecture)
    use = measure_experts(model, TEXT)[0]
    sums, gram = by_loops(model)
    for name, expected in sums.items():
        assert torch.allclose(getattr(use, name), expected, rtol=1e-4), name
    assert torch.allclose(use.gram, gram, rtol=1e-4, atol=1e-4 * gram.abs().max())
    assert use.num_tokens == 33


def test_measuring_leaves_the_model_as_it_is():
    model = make_model("mixtral").train()
    measure_experts(model, TEXT)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_an_expert_without_a_token_has_no_saliency():
    model = make_model()
    fix_routing(model, [1, 3])
    use = measure_experts(model, TEXT)[1]
    assert use.load.tolist() == [0, 0.5, 0, 0.5, 0]
    assert use.conditional.tolist() == pytest.approx([0, 0.5, 0, 0.5, 0])
    assert (use.saliency > 0).tolist() == (use.activation > 0).tolist() == [False, True, False, True, False]
    for score in ("load", "contribution", "saliency", "activation", "diverse", "fitted"):
        assert choose_experts(use, 2, score) == [1, 3], score


def use_of(outputs, routed, weight, given=None):
    """Put together what experts with outputs `[E, tokens, H]` do, routed `[E]` tokens each with some weights."""
    outputs, routed, weight = (torch.as_tensor(values, dtype=torch.float64) for values in (outputs, routed, weight))
    given = outputs[0] if given is None else given
    flat, e = outputs.flatten(1), len(outputs)
    nothing = torch.zeros(e, e, dtype=torch.float64)
    agreement = flat @ given.flatten()
    return ExpertUse(outputs.shape[1], routed, weight, weight, flat @ flat.T, agreement, nothing)


def test_diverse_experts_are_no_copies_of_each_other():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, 30, 8, dtype=torch.float64, generator=generator)
    outputs[1] = outputs[0]
    use = use_of(outputs, [10, 10, 5, 5], [8.0, 8.0, 3.5, 3.0])
    assert choose_experts(use, 2, "activation") == [0, 1]
    assert choose_experts(use, 2, "diverse") == [0, 2]


def test_fitted_experts_are_those_the_output_is_made_of():
    outputs = torch.randn(5, 40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    given = 0.7 * outputs[2] - 0.4 * outputs[4]
    use = use_of(outputs, [9, 9, 1, 9, 1], [4.0, 4.0, 0.1, 4.0, 0.1], given)
    assert choose_experts(use, 2, "fitted") == [2, 4]
    assert choose_experts(use, 2, "load") != [2, 4]
    assert fit_weights(use, [2, 4]).tolist() == pytest.approx([0.7, -0.4], rel=3e-3)


def test_mean_weights_sum_to_what_a_token_has():
    use = use_of(torch.ones(3, 10, 2), [10, 6, 4], [5.0, 2.0, 1.0])
    assert mean_weights(use, [0, 2]).tolist() == pytest.approx([0.8 * 5 / 6, 0.8 / 6])


def test_a_dense_model_is_refused():
    with pytest.raises(UserError, match=r"teacher.path: expected a mixture of experts, got LlamaForCausalLM"):
        measure_experts(make_llama(64), TEXT)
