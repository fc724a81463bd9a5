"""Sizes of a student in a file of their own, and the other names of settings."""

import json

import pytest

from kdkit.config.language import config_from_values, load_config
from kdkit.distill.student import make_student
from kdkit.errors import UserError
from tests.tiny import make_config, make_data, make_plan, make_run

SIZES = {
    "vocab_size": 300,
    "hidden_size": 24,
    "num_layers": 3,
    "num_heads": 6,
    "intermediate_size": 48,
    "max_seq_len": 96,
    "dropout": 0.1,
}


@pytest.fixture
def write(tmp_path):
    def write(values: object, name: str = "model_config.json") -> str:
        (tmp_path / name).write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
        return str(tmp_path / name)

    return write


def refusal(values):
    with pytest.raises(UserError) as caught:
        config_from_values(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_sizes_builds_that_student(tmp_path, write):
    config = make_config(tmp_path, student={"build": write(SIZES)})
    student = make_student(config, make_data(config, tmp_path))
    found = student.config
    assert (found.vocab_size, found.hidden_size, found.num_hidden_layers) == (300, 24, 3)
    assert (found.num_attention_heads, found.intermediate_size) == (6, 48)
    assert (found.max_position_embeddings, found.attention_dropout) == (96, 0.1)


def test_the_file_may_be_called_the_configuration_of_the_student(write):
    first, second = (config_from_values({"student": {name: write(SIZES)}}) for name in ("build", "config"))
    assert first == second


def test_the_dropout_of_the_file_is_used_in_training_only(tmp_path, write):
    import torch

    config = make_config(tmp_path, student={"build": write(SIZES | {"dropout": 0.5})})
    student = make_student(config, make_data(config, tmp_path))
    ids = torch.arange(3, 23)[None]
    first, second = (student.train()(ids).logits for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (student.eval()(ids).logits for _ in range(2))
    assert torch.equal(first, second)


def test_other_toolkits_names_are_understood(write):
    names = {"num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 128, "attention_dropout": 0.2}
    build = config_from_values({"student": {"build": write(names)}}).student.build
    assert (build.num_layers, build.num_heads, build.max_length, build.dropout) == (2, 8, 128, 0.2)


def test_the_saved_configuration_holds_the_sizes_themselves(tmp_path, write):
    (tmp_path / "run.yaml").write_text(f"student: {{build: {write(SIZES)}}}", encoding="utf-8")
    config = load_config(tmp_path / "run.yaml", ["train.max_steps=3"])
    again = config_from_values(config.model_dump())
    assert again.student.build.hidden_size == 24


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "student.build: expected JSON"),
        ("[1]", "student.build: expected an object of sizes"),
        ({"num_layers": 2, "num_hidden_layers": 3}, "expected num_layers once"),
        ({"num_experts": 2}, "student.build.num_experts: expected a known key"),
        ({"dropout": 1.0}, "student.build.dropout: expected"),
        ({"hidden_size": 100, "num_heads": 6}, "student.build.num_heads: expected hidden_size / num_heads"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(write, content, words):
    assert words in refusal({"student": {"build": write(content)}})


def test_a_missing_file_is_named():
    message = refusal({"student": {"build": "nothing.json"}})
    assert message.startswith("student.build: expected sizes, or a .json file with them, got 'nothing.json'")


def test_a_context_shorter_than_the_sequences_is_refused(tmp_path, write):
    config = make_config(tmp_path, student={"build": write(SIZES | {"max_seq_len": 16})})
    with pytest.raises(UserError, match=r"data\.max_length: expected at most 16 tokens, the context of student\.build"):
        make_plan(config, make_run(tmp_path), make_data(config, tmp_path))


def test_weights_of_the_parts_have_their_other_names():
    values = {"kl_weight": 0.6, "hidden_weight": 0.3, "contrastive_weight": 0.1, "weights": {"attention": 0.2}}
    weights = config_from_values({"distill": values}).distill.weights
    assert (weights.logits, weights.feature, weights.contrastive, weights.attention) == (0.6, 0.3, 0.1, 0.2)


def test_a_deep_key_beside_its_other_name_is_refused():
    message = refusal({"distill": {"kl_weight": 1.0, "weights": {"logits": 1.0}}})
    assert message == "distill.kl_weight: expected one of logits and its alias, got both; keep one"
    assert refusal({"distill": {"kl_weight": 1.0, "weights": 2}}).startswith("distill.kl_weight: expected weights")
