"""Shapes of models without their weights."""

import json

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from kdkit.config.embeddings import embedding_config_from_values
from kdkit.config.language import config_from_values
from kdkit.errors import UserError
from kdkit.planning import shapes as module
from kdkit.planning.shapes import embedding_shapes, language_shapes
from tests.gguf_files import write_llama

P100 = {"teacher": {"path": "huihui-ai/Huihui-MoE-1B-A0.6B"}, "student": {"path": "HuggingFaceTB/SmolLM-135M"}}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(module, "hub_is_reachable", lambda: False)


def test_published_shapes_serve_where_there_is_no_network():
    student, teacher = language_shapes(config_from_values(P100))
    assert student.measure().parameters == 134_515_008  # as its model card says: 135M
    size = teacher.measure()
    assert size.parameters == 1_280_200_704
    assert size.parameters - size.active == 28 * 2 * 3 * 1024 * 3072  # one of three experts
    assert "published shapes" in student.source


def test_a_folder_with_config_json_alone_is_enough(tmp_path):
    LlamaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=6, num_attention_heads=4).save_pretrained(tmp_path)
    values = {"teacher": {"path": str(tmp_path)}, "student": {"path": str(tmp_path), "layers": [0, 2, 5]}}
    student, teacher = language_shapes(config_from_values(values))
    assert (student.layers, teacher.layers, student.width) == (3, 6, 32)
    assert student.measure().parameters < teacher.measure().parameters


@pytest.mark.parametrize("written", ["", "no json", json.dumps({"model_type": "nobody-knows"})])
def test_unknown_shapes_are_refused_in_one_line_that_says_what_to_pass(tmp_path, written):
    path = "somebody/unknown"
    if written:
        (tmp_path / "config.json").write_text(written)
        path = str(tmp_path)
    with pytest.raises(UserError) as caught:
        language_shapes(config_from_values({"teacher": {"path": path}}))
    message = str(caught.value)
    assert message.startswith("teacher.path: expected a model whose shapes are known") and "\n" not in message
    assert "-p teacher.path=FOLDER" in message


def test_a_folder_that_is_not_there_says_so():
    with pytest.raises(UserError, match="does not exist"):
        language_shapes(config_from_values({"teacher": {"path": "./nowhere"}}))


def test_built_models_have_the_sizes_of_their_sections():
    build = {"vocab_size": 512, "hidden_size": 32, "num_layers": 2, "moe_intermediate_size": 32}
    values = {"teacher": {"build": build}, "student": {"build": {"tokenizer": "teacher", "hidden_size": 16}}}
    student, teacher = language_shapes(config_from_values(values))
    assert (teacher.vocab_size, student.vocab_size, student.width) == (512, 512, 16)
    assert teacher.measure().active < teacher.measure().parameters


@pytest.mark.parametrize(("tokenizer", "vocabulary"), [("teacher", 512), ("own", 300)])
def test_a_student_from_the_teacher_has_the_sizes_that_are_left(tokenizer, vocabulary):
    build = {"vocab_size": 512, "hidden_size": 32, "num_layers": 4, "moe_intermediate_size": 32}
    start = {"kind": "prune", "hidden_size": 16, "num_heads": 2, "tokenizer": tokenizer}
    values = {"teacher": {"build": build}, "student": {"from_teacher": start, "build": {"vocab_size": 300}}}
    student, teacher = language_shapes(config_from_values(values))
    assert (student.width, student.heads, student.layers, student.vocab_size) == (16, 2, 4, vocabulary)
    values["student"] = {"from_teacher": "layers"}
    student, _ = language_shapes(config_from_values(values))
    assert (student.width, student.layers, student.text.num_experts) == (32, 2, teacher.text.num_experts)
    assert student.source == "student.from_teacher=layers"


def test_an_embedding_student_is_cut_out_of_its_teacher():
    student, teacher = embedding_shapes(
        embedding_config_from_values({"method": "cosine", "student": {"layers": [0, 5]}})
    )
    assert (student.layers, teacher.layers, student.width) == (2, 6, 384)
    static, _ = embedding_shapes(embedding_config_from_values({"method": "cosine", "student": {"path": "static"}}))
    assert static is None


def test_a_gguf_file_says_its_shapes_in_its_header(tmp_path, small_pair):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(small_pair[1]), **sizes))
    file = write_llama(tmp_path / "small.gguf", model, small_pair[1])
    _, teacher = language_shapes(config_from_values({"teacher": {"path": str(file)}}))
    assert (teacher.layers, teacher.width, teacher.vocab_size) == (2, 32, len(small_pair[1]))
    assert teacher.measure().parameters == sum(each.numel() for each in model.parameters())


def test_code_of_your_own_is_not_counted_and_said_to_be():
    _, teacher = language_shapes(config_from_values({"teacher": {"path": "python:mine.py:Mine"}}))
    assert "not counted" in teacher.source
