"""Attention transfer: known values, a slow reference on crossing tokens, and the file that keeps it."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from kdkit.alignment.spans import Spans
from kdkit.config.language import config_from_values
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import PreparedData
from kdkit.distill.checkpoints import BASELINE, STUDENT
from kdkit.distill.layer_terms import describe_layer_map, plan_layers
from kdkit.errors import UserError
from kdkit.evaluate import evaluation as stage
from kdkit.evaluate.attention import ATTENTION_WINDOWS, measure_attention, similarity
from kdkit.evaluate.language import Units
from kdkit.losses.layers import lay_out
from kdkit.teachers.prepare import Teacher
from tests.crossed import cross_data
from tests.references import plain_kl
from tests.tiny import make_config, make_data, make_run, make_session, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def crossed(tmp_path_factory) -> PreparedData:
    """Held-out text of two tokenizers whose tokens cross."""
    folder = tmp_path_factory.mktemp("attention")
    return cross_data(make_config(folder), folder)


def make_student(data: PreparedData, seed: int = 0, num_layers: int = 3) -> LlamaForCausalLM:
    """Make an untrained Llama that looks at its text unevenly."""
    set_seed(seed)
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.6}
    config = LlamaConfig(vocab_size=len(data.student_tokenizer), num_hidden_layers=num_layers, **shape)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def test_what_two_spans_look_at_is_compared_in_bits():
    lengths = torch.arange(3)
    spans = Spans(torch.arange(2), torch.arange(2), lengths, lengths, torch.ones(2).bool(), torch.tensor([0, 2]))
    layout, _ = lay_out(spans, 3, 3)
    # two heads; the first span: nothing in common, then all; the second: half of it, then all
    first = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]]])
    second = torch.tensor([[[[0.0, 0.0, 1.0], [0.5, 0.0, 0.5]], [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]]])
    assert similarity(first, second, layout).tolist() == pytest.approx([0.5, 0.75])
    assert torch.allclose(similarity(first, second, layout), similarity(second, first, layout))


def test_a_model_looks_where_it_looks_itself(tmp_path):
    student = {"build": {"tokenizer": "teacher", "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}}
    config = make_config(tmp_path, student=student)
    data = make_data(config, tmp_path)
    teacher, other = make_teacher(data).model, make_teacher(data, seed=2).model
    values = measure_attention(teacher, {"itself": teacher, "other": other}, [(0, 0), (1, 1)], data.evaluation)
    assert values["itself"]["attention_similarity"] == pytest.approx(1.0, abs=1e-5)
    assert values["other"]["attention_similarity"] < 0.99
    low, high = values["other"]["attention_similarity_interval_95"]
    assert low < values["other"]["attention_similarity"] < high


def plain_similarity(model, teacher, pairs, data, rows) -> float:
    """Compute the measure from transformers' own eager maps, span by span."""
    total, count = 0.0, 0
    for row in rows:
        batch = WindowCollator(data.evaluation, with_teacher=True)([row])
        spans, maps = batch["spans"], []
        for which, ids in ((model, batch["input_ids"]), (teacher, batch["teacher_input_ids"])):
            eager = copy.deepcopy(which)
            eager.set_attn_implementation("eager")
            maps.append([a[0].mean(dim=0) for a in eager(input_ids=ids, output_attentions=True).attentions])
        bounds = [list(pairwise(s.tolist())) for s in (spans.student_starts, spans.teacher_starts)]
        for pair in pairs:
            for place in range(len(bounds[0])):
                shares = []
                for side in (0, 1):
                    queries = maps[side][pair[side]][slice(*bounds[side][place])].mean(dim=0)
                    keys = [queries[a + 1 : b + 1].sum().item() for a, b in bounds[side]]
                    shares.append([*keys, queries[0].item()])
                both = [(a, b, (a + b) / 2) for a, b in zip(*shares, strict=True)]
                nats = sum(plain_kl(*zip(*[(x[i], x[2]) for x in both if x[i] > 0], strict=True)) for i in (0, 1)) / 2
                total, count = total + 1 - nats / math.log(2), count + 1
    return total / count


def test_the_similarity_of_crossing_tokens_equals_a_slow_reference(crossed):
    student, teacher, pairs = make_student(crossed), make_teacher(crossed).model, [(0, 1), (2, 0)]
    got = measure_attention(teacher, {"it": student}, pairs, crossed.evaluation.first(3))["it"]["attention_similarity"]
    assert got == pytest.approx(plain_similarity(student, teacher, pairs, crossed, [0, 1, 2]), abs=1e-5)
    assert got < 0.9, "attention that is alike everywhere would prove nothing"


def test_a_model_that_shows_no_attention_is_refused(crossed):
    teacher, student = make_teacher(crossed).model, make_student(crossed)
    teacher.model.layers[0].self_attn.register_forward_hook(lambda _, __, output: (output[0], None))
    with pytest.raises(UserError, match="expected attention maps from layer 0 of Qwen3MoeForCausalLM, got none"):
        measure_attention(teacher, {"it": student}, [(0, 0)], crossed.evaluation.first(1))


def retention(config, data, teacher):
    """Return what evaluation.json keeps of a student and a baseline."""
    students = {STUDENT: make_student(data), BASELINE: make_student(data, seed=1)}
    units = Units(len(data.evaluation), 1, 0)
    return stage._retention(make_session(config), data, teacher, students, data.evaluation, units)[0]


def test_every_student_is_compared_along_the_layer_map_on_a_few_windows(tmp_path, crossed):
    config, teacher = make_config(tmp_path, distill={"layer_map": {"0": 2, "1": 0}}), make_teacher(crossed)
    kept = retention(config, crossed, teacher)
    few = crossed.evaluation.first(ATTENTION_WINDOWS)
    expected = measure_attention(teacher.model, {STUDENT: make_student(crossed)}, [(0, 1), (2, 0)], few)
    expected = expected[STUDENT]["attention_similarity"]
    assert kept[STUDENT]["attention_similarity"] == pytest.approx(expected)
    assert kept[BASELINE]["attention_similarity"] != pytest.approx(expected)
    assert kept[STUDENT]["attention_windows"] == len(few) and kept[STUDENT]["attention_layers"] == 2


def test_without_attention_to_compare_all_else_is_measured(tmp_path, crossed, monkeypatch, capsys):
    def refuse(*arguments):
        raise UserError("expected attention maps, got none")

    monkeypatch.setattr(stage, "measure_attention", refuse)
    kept = retention(make_config(tmp_path), crossed, make_teacher(crossed))[STUDENT]
    assert kept["attention_similarity"] is None and kept["kl_to_teacher"] > 0
    assert "attention is not compared: expected attention maps" in capsys.readouterr().out


def test_the_layer_map_is_known_before_training(tmp_path):
    config = make_config(tmp_path, student={"build": {"num_layers": 3, "hidden_size": 16, "vocab_size": 290}})
    data, run = make_data(config, tmp_path), make_run(tmp_path)
    teacher = make_teacher(data)
    facts = describe_layer_map(make_session(config, run), data, teacher)
    assert facts == {"student_layers": 3, "teacher_layers": 2, "pairs": [(0, 0), (1, 0), (2, 1)], "used_by": []}
    assert run.read_json("teacher/layer_map.json")["pairs"] == [[0, 0], [1, 0], [2, 1]]
    values = config.model_dump()
    values["distill"] |= {"weights": {"attention": 1.0}, "layer_map": {"elsewhere/tiny": {"1": 2}, "tiny": {"0": 1}}}
    config = config_from_values(values)
    assert plan_layers(config, make_student(data), Teacher(teacher.model, "models/tiny", True)) == [(1, 0)]
    assert describe_layer_map(make_session(config, run), data, teacher)["used_by"] == ["attention"]
    values["distill"]["layer_map"] = {"build": {"0": 1}}  # what the settings call a teacher that is built
    assert plan_layers(config_from_values(values), make_student(data), Teacher(teacher.model, "cache/1", True)) == [
        (1, 0)
    ]
