"""Layers dropped by their influence: one that does nothing goes first, and the rest is as it was."""

from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from kdkit.config.built.from_teacher import DropLayers
from kdkit.errors import UserError
from kdkit.models.from_teacher.importance import layer_influences
from kdkit.models.from_teacher.layers import copy_layers
from kdkit.models.from_teacher.start import make_start, start_architecture
from tests.pruned import IDS, TEXT, make_model


def silence(model, number):
    """Let a layer add nothing to the residual stream."""
    layer = model.model.layers[number]
    layer.self_attn.o_proj.weight.data.zero_()
    (layer.mlp.experts.down_proj if hasattr(layer.mlp, "experts") else layer.mlp.down_proj.weight).data.zero_()


@pytest.mark.parametrize("kind", ["llama", "mixture"])
@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_layer_that_does_nothing_is_dropped_and_no_logit_changes(kind, silent):
    teacher = make_model(kind)
    silence(teacher, silent)
    start = make_start(DropLayers(num_layers=2), teacher, TEXT)
    assert start.facts["layers"] == [number for number in range(3) if number != silent]
    assert start.facts["influences"][silent] == pytest.approx(0.0, abs=1e-5)
    assert torch.equal(start.model(input_ids=IDS).logits, teacher(input_ids=IDS).logits)


def test_influence_is_the_mean_of_one_minus_the_cosine_over_what_is_read():
    teacher = make_model("llama")
    states = teacher.model(input_ids=IDS, output_hidden_states=True).hidden_states
    is_read = TEXT[0].is_read
    assert 0 < is_read.sum() < is_read.numel()
    expected = [
        (1 - torch.nn.functional.cosine_similarity(before[is_read], after[is_read], dim=-1)).mean().item()
        for before, after in pairwise(states[:3])  # the last one is normalised
    ]
    assert layer_influences(teacher, TEXT)[:2] == pytest.approx(expected, abs=1e-6)


def test_the_copy_is_an_ordinary_model_and_the_teacher_stays(tmp_path):
    teacher = make_model("mixture")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = copy_layers(teacher, [0, 2])
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.num_hidden_layers == 2 and loaded.config.num_experts == 4
    assert torch.equal(loaded(input_ids=IDS).logits, student(input_ids=IDS).logits)
    student.model.layers[0].self_attn.q_proj.weight.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_half_precision_teacher_makes_a_student_in_fp32():
    start = make_start(DropLayers(num_layers=1), make_model("llama").half(), TEXT)
    assert {parameter.dtype for parameter in start.model.parameters()} == {torch.float32}


def test_half_of_the_layers_stay_and_windows_stay_with_their_layers():
    teacher = Qwen3Config(num_hidden_layers=5, layer_types=["full_attention", *["sliding_attention"] * 4])
    assert start_architecture(DropLayers(), teacher).num_hidden_layers == 3
    assert teacher.num_hidden_layers == 5
    with pytest.raises(UserError, match="num_layers: expected at most the teacher's 5 layers, got 6"):
        start_architecture(DropLayers(num_layers=6), teacher)
