"""A teacher of one's own, written outside the package and named by a configuration."""

import json

import pytest
import torch

from kdkit.distill.layer_terms import describe_layer_map
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.train import distill, train_baseline
from kdkit.errors import UserError
from kdkit.evaluate.evaluation import evaluate_run
from kdkit.machine.user_code import code_file, make_user_object
from kdkit.models.generation import Sampling
from kdkit.models.loading import load_causal_lm
from kdkit.report.figures import draw_layer_map, draw_quality_against_size
from kdkit.report.tables import comparison_table, compression_table
from kdkit.teachers.expert_probe import probe_experts
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.pair import describe_pair
from kdkit.teachers.prepare import Teacher, identify_teacher, make_own_teacher, prepare_teacher
from kdkit.teachers.probe import probe_teacher
from kdkit.workflow.inputs import check_inputs, stamp_inputs
from tests.tiny import make_config, make_data, make_plan, make_run, make_session, make_teacher, save_teacher

CODE = """
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdkit.models.generation import Generated
from kdkit.teachers.interface import TextTeacher


class MyTeacher(TextTeacher):
    def __init__(self):
        self._tokenizer = AutoTokenizer.from_pretrained(FOLDER)
        self._model = None

    @property
    def tokenizer(self):
        return self._tokenizer

    def get_logits(self, input_ids):
        if self._model is None:
            self._model = AutoModelForCausalLM.from_pretrained(FOLDER).eval().requires_grad_(False)
        return self._model(input_ids=input_ids, use_cache=False).logits

    def generate(self, prompts, sampling, stop_ids):
        return [Generated([9, 10, 11], stop_ids[0] if stop_ids else None) for _ in prompts]


class Silent(MyTeacher):
    generate = TextTeacher.generate


class TooNarrow(MyTeacher):
    def get_logits(self, input_ids):
        return super().get_logits(input_ids)[..., :7]


class NotANumber(MyTeacher):
    def get_logits(self, input_ids):
        return super().get_logits(input_ids).log()


class NeedsArguments(MyTeacher):
    def __init__(self, folder):
        pass


class Something:
    pass
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder outside the package with a teacher's code, and the folder of the model that it reads."""
    folder = tmp_path_factory.mktemp("own")
    data = make_data(make_config(folder), folder)
    model = save_teacher(data, folder / "model")
    (folder / "my_teacher.py").write_text(CODE.replace("FOLDER", repr(str(model))), encoding="utf-8")
    return folder


def config_of(place, path="", **changes):
    path = path or f"python:{place}/my_teacher.py:MyTeacher"
    return make_config(place, teacher={"path": path}, **changes)


def trained(place, tmp_path, name, path="", **changes):
    """Train a student; return what `evaluate_run` needs."""
    config = config_of(place, path, **changes)
    data, run = make_data(config, place), make_run(tmp_path, name)
    plan = make_plan(config, run, data)
    distill(plan, open_teacher(plan))
    return plan


def weights_of(plan):
    model = load_causal_lm(str(plan.session.run.path / "student"), "student.path")
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("cache", [{}, {"enabled": True, "top_k": 64}])
def test_a_student_learns_from_it_what_it_learns_from_the_model_behind_it(place, tmp_path, cache):
    ours = trained(place, tmp_path, "ours", cache=cache)
    theirs = trained(place, tmp_path, "theirs", str(place / "model"), cache=cache)
    assert torch.allclose(weights_of(ours), weights_of(theirs), atol=1e-6)


def test_every_stage_works_and_says_what_cannot_be_seen(place, tmp_path, capsys):
    plan = trained(place, tmp_path, "whole", distill={"equal_time_baseline": False})
    train_baseline(plan)
    session, data = plan.session, plan.data
    teacher = prepare_teacher(session, data)
    probe = probe_teacher(session, data, teacher)
    assert probe["expert_load"] is probe["by_routing"] is probe["parameters"] is None
    assert 0.0 < probe["top_k_mass"] < 1.0 < probe["perplexity"]
    assert probe_experts(session, data, teacher) is None
    assert "cannot be seen" in session.run.read_json("teacher/experts.json")["missing"]
    assert "predictions only" in describe_layer_map(session, data, teacher)["missing"]
    assert draw_layer_map(session.run) is None
    model = Teacher(make_teacher(data).model, "model", False, data.teacher_tokenizer)
    assert describe_pair(session, data, teacher) == pytest.approx(describe_pair(session, data, model), rel=1e-4)
    evaluation = evaluate_run(session, data, teacher)
    entry = evaluation["models"]["teacher"]
    assert entry["parameters"] is None and entry["bytes_per_second"] > 0 and "MyTeacher" in entry["architecture"]
    assert evaluation["retention"]["student"]["attention_similarity"] is None
    assert evaluation["retention"]["student"]["kl_to_teacher"] > 0.0
    assert all(row["teacher"] for row in evaluation["continuations"])
    for table in (comparison_table(evaluation), compression_table(evaluation)):
        assert table[1]
    assert draw_quality_against_size(session.run).is_file()
    json.dumps(evaluation)


def test_its_answers_are_those_of_its_code(place, tmp_path):
    config = config_of(place)
    session = make_session(config)
    before = identify_teacher(session, make_data(config, place))
    copy = tmp_path / "other.py"
    copy.write_text((place / "my_teacher.py").read_text() + "# changed\n")
    other = config_of(place, f"python:{copy}:MyTeacher")
    assert identify_teacher(make_session(other), make_data(other, place)) != before


def test_token_logprobs_come_from_its_logits(place):
    teacher = make_own_teacher(f"python:{place}/my_teacher.py:MyTeacher", "teacher.path")
    ids = torch.tensor([[5, 6, 7, 8], [9, 3, 2, 1]])
    expected = teacher.get_logits(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    assert torch.allclose(teacher.token_logprobs(ids), expected, atol=1e-6)


def test_a_model_of_transformers_has_all_of_the_interface(place):
    data = make_data(config_of(place), place)
    teacher = Teacher(make_teacher(data).model, "model", False, data.teacher_tokenizer)
    own = make_own_teacher(f"python:{place}/my_teacher.py:MyTeacher", "teacher.path")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(teacher.get_logits(ids), own.get_logits(ids), atol=1e-6)
    assert torch.allclose(teacher.token_logprobs(ids), own.token_logprobs(ids), atol=1e-5)
    states = teacher.get_hidden_states(ids)
    assert len(states) == 3 and states[-1].shape == (1, 4, 16)
    head = teacher.model.lm_head
    assert torch.allclose(head(states[-1]), own.get_logits(ids), atol=1e-5)
    (text,) = teacher.generate([[5, 6]], Sampling(max_new_tokens=4, temperature=0.0), [])
    assert len(text.ids) == 4
    (pair,) = own.write([[5, 6]], Sampling(), [1], num_samples=2)
    assert len(pair) == 2 and pair[0].stopped
    with pytest.raises(UserError, match=r"hidden states.*MyTeacher"):
        own.get_hidden_states(ids)
    with pytest.raises(UserError, match="MyTeacher"):
        _ = own.model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"weights": {"feature": 0.5}}}, r"distill\.weights\.feature.*hidden states.*MyTeacher"),
        ({"distill": {"weights": {"attention": 0.5}}}, r"distill\.weights\.attention.*attention.*MyTeacher"),
        ({"distill": {"start_from_teacher": True}}, r"distill\.start_from_teacher.*embeddings.*MyTeacher"),
        ({"student": {"from_teacher": "layers", "build": {}}}, r"student\.from_teacher.*weights.*MyTeacher"),
        ({"router": {"kind": "all_experts"}}, r"router\.kind.*experts.*MyTeacher"),
    ],
)
def test_what_needs_more_than_predictions_is_refused_before_anything_is_trained(place, tmp_path, changes, message):
    config, data = config_of(place, **changes), make_data(config_of(place), place)
    with pytest.raises(UserError, match=message):
        make_plan(config, make_run(tmp_path), data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TooNarrow", r"expected logits of shape \[1, \d+, \d+\].*got \[1, \d+, 7\]"),
        ("NotANumber", "expected finite logits, got NaN or inf from NotANumber"),
    ],
)
def test_its_first_answer_is_checked(place, name, message):
    config = config_of(place, f"python:{place}/my_teacher.py:{name}")
    with pytest.raises(UserError, match=message):
        prepare_teacher(make_session(config), make_data(config, place))


def test_a_teacher_that_writes_no_text_can_still_teach(place, tmp_path, capsys):
    config = config_of(place, f"python:{place}/my_teacher.py:Silent")
    session, data = make_session(config, make_run(tmp_path)), make_data(config, place)
    teacher = prepare_teacher(session, data)
    probe = probe_teacher(session, data, teacher)
    assert [row["teacher"] for row in probe["continuations"]] == ["", ""]
    assert "no method generate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("python:my_teacher", "python:MODULE:CLASS"),
        ("python:no_such_module_of_anybody:Teacher", "ModuleNotFoundError"),
        ("python:no_such_file.py:Teacher", "does not exist"),
        ("python:{place}/my_teacher.py:Nothing", "no such name"),
        ("python:{place}/my_teacher.py:Something", "something else"),
        ("python:{place}/my_teacher.py:NeedsArguments", "TypeError"),
        ("python:{place}/broken.py:Teacher", "SyntaxError"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(place, path, message):
    (place / "broken.py").write_text("def:")
    with pytest.raises(UserError, match=message) as caught:
        make_user_object(path.format(place=place), "teacher.path")
    assert "\n" not in str(caught.value)


def test_a_module_is_found_by_its_name(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    assert isinstance(make_user_object("python:my_teacher:MyTeacher", "teacher.path"), TextTeacher)


def test_a_run_checks_it_before_it_begins_and_notices_that_its_code_has_changed(place, tmp_path):
    copy = tmp_path / "copy.py"
    copy.write_text((place / "my_teacher.py").read_text(), encoding="utf-8")
    config, run = config_of(place, f"python:{copy}:MyTeacher"), make_run(tmp_path)
    before = check_inputs(config, run), stamp_inputs(config)
    assert code_file(config.teacher.path) == copy and code_file("python:json:X").name == "__init__.py"
    assert code_file("gpt2") is code_file("python:no_such.module:X") is None
    copy.write_text(copy.read_text() + "# changed\n", encoding="utf-8")
    assert check_inputs(config, run).source != before[0].source and stamp_inputs(config) != before[1]
    with pytest.raises(UserError, match="no such name"):
        check_inputs(config_of(place, f"python:{copy}:Nobody"), run)
