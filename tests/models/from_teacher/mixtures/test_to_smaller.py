"""A mixture with fewer experts: nothing is lost of what no token uses, and like is merged with like."""

import pytest
import torch
import transformers

from kdkit.config.built.from_teacher import MoeToMoe
from kdkit.errors import UserError
from kdkit.models.from_teacher.mixtures.scores import measure_experts
from kdkit.models.from_teacher.mixtures.to_smaller import find_groups, keep_experts, smaller_architecture
from kdkit.models.moe_blocks import find_blocks
from tests.mixtures import TEXT, fix_routing, logits_of, shuffle_units
from tests.models.test_experts import ARCHITECTURES, make_model
from tests.tiny import make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

KEY = "student.from_teacher.num_experts"


def make_small(model, num_experts, score, others):
    """Return the smaller mixture alone."""
    return keep_experts(MoeToMoe(num_experts=num_experts, score=score, others=others), model, TEXT)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_experts_that_no_token_is_sent_to_can_go(architecture, tmp_path):
    model = make_model(architecture)
    fix_routing(model, [1, 4])
    small = make_small(model, 2, "saliency", "drop")
    assert torch.allclose(logits_of(small), logits_of(model), rtol=1e-5, atol=1e-5)
    assert small.num_parameters() < model.num_parameters()
    small.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(logits_of(loaded), logits_of(small), rtol=1e-5, atol=1e-6)


def test_experts_that_are_used_are_missed():
    model = make_model()
    small = make_small(model, 3, "saliency", "drop")
    assert (logits_of(small) - logits_of(model)).abs().max() > 1e-2


@pytest.mark.parametrize("others", ["drop", "merge"])
def test_a_token_is_sent_to_as_many_experts_as_there_are(others):
    model = make_model("mixtral")
    small = make_small(model, 1, "load", others)
    assert (small.config.num_experts_per_tok, small.config.num_local_experts) == (1, 1)
    assert logits_of(small).isfinite().all()


def test_a_copy_is_merged_with_its_original_and_leaves_it_as_it_is():
    model = make_model()
    for block in find_blocks(model, "teacher.path"):
        block.experts.gate_up_proj[3] = block.experts.gate_up_proj[0]
        block.experts.down_proj[3] = block.experts.down_proj[0]
        block.gate.weight[3] = 0.9 * block.gate.weight[0]
        shuffle_units(block, 3, seed=1)
    for use in measure_experts(model, TEXT):
        assert find_groups(use, [0, 1, 2, 4]) == [[0, 3], [1], [2], [4]]
    small, facts = keep_experts(MoeToMoe(num_experts=4, score="diverse", others="merge"), model, TEXT)
    for layer, (block, kept) in enumerate(zip(find_blocks(model, KEY), find_blocks(small, KEY), strict=True)):
        assert facts["groups"][layer] in ([[0, 3], [1], [2], [4]], [[1], [2], [3, 0], [4]])
        first = block.experts.gate_up_proj[facts["experts"][layer]]
        assert torch.allclose(kept.experts.gate_up_proj, first, atol=1e-6)


def test_merging_is_not_dropping():
    model = make_model()
    merged, pruned = (make_small(model, 3, "saliency", others) for others in ("merge", "drop"))
    changed = 0
    for one, other in zip(find_blocks(merged, KEY), find_blocks(pruned, KEY), strict=True):
        assert torch.equal(one.gate.weight, other.gate.weight)
        changed += sum(
            not torch.equal(*pair) for pair in zip(one.experts.down_proj, other.experts.down_proj, strict=True)
        )
    groups = [find_groups(use, sorted(use.saliency.topk(3).indices.tolist())) for use in measure_experts(model, TEXT)]
    assert changed == sum(len(group) > 1 for layer in groups for group in layer) > 0


def test_more_experts_than_there_are_are_refused():
    model = make_model()
    with pytest.raises(UserError, match=rf"^{KEY}: expected at most the teacher's 5 experts, got 9; lower it$"):
        make_small(model, 9, "saliency", "drop")


def test_half_of_the_experts_are_kept_if_nothing_is_said():
    model = make_model()
    small, _ = keep_experts(MoeToMoe(), model, TEXT)
    assert small.config.num_experts == 3
    architecture = smaller_architecture(MoeToMoe(), model.config).to_dict()
    assert small.config.to_dict() == architecture | {"dtype": "float32"}


def test_a_dense_teacher_is_refused():
    with pytest.raises(UserError, match=r"^student.from_teacher.kind: moe_to_moe needs a mixture of experts, got the"):
        smaller_architecture(MoeToMoe(), make_llama(64).config)
