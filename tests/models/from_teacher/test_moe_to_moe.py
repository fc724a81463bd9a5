"""A mixture with fewer experts: nothing is lost of what no token uses, and like is merged with like."""

import pytest
import torch
import transformers

from kdkit.errors import UserError
from kdkit.models.from_teacher.expert_scores import measure_experts
from kdkit.models.from_teacher.moe_to_moe import find_groups, keep_experts
from kdkit.models.moe_blocks import find_blocks
from tests.mixtures import INPUT_IDS, fix_routing, logits_of, shuffle_units
from tests.models.test_experts import ARCHITECTURES, make_model

pytestmark = pytest.mark.usefixtures("one_thread")

KEY = "student.from_teacher.num_experts"


def measured(model):
    return measure_experts(model, [INPUT_IDS], "teacher.path")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_experts_that_no_token_is_sent_to_can_go(architecture, tmp_path):
    model = make_model(architecture)
    fix_routing(model, [1, 4])
    small = keep_experts(model, measured(model), 2, "saliency", "drop", KEY)
    assert torch.allclose(logits_of(small), logits_of(model), rtol=1e-5, atol=1e-5)
    assert small.num_parameters() < model.num_parameters()
    small.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(logits_of(loaded), logits_of(small), rtol=1e-5, atol=1e-6)


def test_experts_that_are_used_are_missed():
    model = make_model()
    small = keep_experts(model, measured(model), 3, "saliency", "drop", KEY)
    assert (logits_of(small) - logits_of(model)).abs().max() > 1e-2


@pytest.mark.parametrize("others", ["drop", "merge"])
def test_a_token_is_sent_to_as_many_experts_as_there_are(others):
    model = make_model("mixtral")
    small = keep_experts(model, measured(model), 1, "load", others, KEY)
    assert (small.config.num_experts_per_tok, small.config.num_local_experts) == (1, 1)
    assert logits_of(small).isfinite().all()


def test_a_copy_is_merged_with_its_original_and_leaves_it_as_it_is():
    model = make_model()
    for block in find_blocks(model, "teacher.path"):
        block.experts.gate_up_proj[3] = block.experts.gate_up_proj[0]
        block.experts.down_proj[3] = block.experts.down_proj[0]
        block.gate.weight[3] = 0.9 * block.gate.weight[0]
        shuffle_units(block, 3, seed=1)
    uses = measured(model)
    for use in uses:
        assert find_groups(use, [0, 1, 2, 4]) == [[0, 3], [1], [2], [4]]
    for use in uses:
        use.contribution[3] = 0.0  # so that it is the one that goes
    small = keep_experts(model, uses, 4, "saliency", "merge", KEY)
    for block, kept in zip(find_blocks(model, KEY), find_blocks(small, KEY), strict=True):
        assert torch.allclose(kept.experts.gate_up_proj, block.experts.gate_up_proj[[0, 1, 2, 4]], atol=1e-6)


def test_merging_is_not_dropping():
    model = make_model()
    uses = measured(model)
    merged, pruned = (keep_experts(model, uses, 3, "saliency", others, KEY) for others in ("merge", "drop"))
    changed = 0
    for one, other in zip(find_blocks(merged, KEY), find_blocks(pruned, KEY), strict=True):
        assert torch.equal(one.gate.weight, other.gate.weight)
        changed += sum(
            not torch.equal(*pair) for pair in zip(one.experts.down_proj, other.experts.down_proj, strict=True)
        )
    groups = [find_groups(use, sorted(use.saliency.topk(3).indices.tolist())) for use in uses]
    assert changed == sum(len(group) > 1 for layer in groups for group in layer) > 0


def test_more_experts_than_there_are_are_refused():
    model = make_model()
    with pytest.raises(UserError, match=rf"^{KEY}: expected at most the teacher's 5 experts, got 9; lower it$"):
        keep_experts(model, measured(model), 9, "saliency", "drop", KEY)
