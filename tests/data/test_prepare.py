import ast
import json
import random
import re
from dataclasses import astuple

import numpy as np
import pytest

from kdkit.alignment.tokenizers import token_bytes
from kdkit.data import prepare
from kdkit.data.examples import alignment_examples
from kdkit.data.prepare import build_data, open_data, prepare_data
from kdkit.data.windows import PAD
from kdkit.errors import UserError
from tests.tiny import WORDS, make_config, make_run, make_session, write_corpus


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Configuration, run and data of the small corpus; not to be changed."""
    folder = tmp_path_factory.mktemp("prepared")
    config, run = make_config(folder), make_run(folder)
    return config, run, prepare_data(make_session(config, run))


def text_of(windows, tokenizer) -> str:
    """Read the student's rows back as text; special tokens have no bytes."""
    table = token_bytes(tokenizer)
    return b"".join(table[token_id] or b"" for token_id in windows.student_ids.ravel() if token_id != PAD).decode()


def test_training_and_evaluation_text_together_are_the_corpus(prepared, tmp_path):
    _, _, data = prepared
    documents = write_corpus(tmp_path / "corpus.txt").read_text().split("<|endoftext|>")
    train, evaluation = (text_of(windows, data.student_tokenizer) for windows in (data.train, data.evaluation))
    assert len(train) + len(evaluation) == sum(map(len, documents))
    assert all((document in train) != (document in evaluation) for document in documents if len(document) > 60)


def test_about_the_wanted_share_of_bytes_is_held_out(prepared):
    config, _, data = prepared
    held_out = data.evaluation.num_bytes.sum()
    share = held_out / (held_out + data.train.num_bytes.sum())
    assert share == pytest.approx(config.data.evaluation_fraction, abs=0.03)


def test_the_manifest_tells_what_was_made(prepared):
    config, run, data = prepared
    manifest = data.manifest
    assert manifest["train"]["num_windows"] == len(data.train)
    assert manifest["train"]["bytes_left_out"] == 0
    assert manifest["evaluation"]["num_bytes"] == data.evaluation.num_bytes.sum()
    assert manifest["corpus"]["source"] == config.data.path
    assert manifest["corpus"]["num_documents"] == 60
    assert manifest["corpus"]["train_documents"] + manifest["corpus"]["evaluation_documents"] == 60
    assert manifest["vocabulary"] == {"student": 290, "teacher": 320, "common": len(data.overlap.student_ids)}
    assert data.same_tokenizer is False
    assert (run.path / "data" / data.key).is_file()


def test_openings_are_evaluation_text(prepared):
    _, _, data = prepared
    evaluation = text_of(data.evaluation, data.student_tokenizer)
    assert data.manifest["openings"]
    assert all(opening in evaluation for opening in data.manifest["openings"])


def test_built_tokenizers_have_the_wanted_sizes(prepared):
    _, _, data = prepared
    assert (len(data.student_tokenizer), len(data.teacher_tokenizer)) == (290, 320)


def test_opened_data_are_the_prepared_data(prepared):
    _, run, data = prepared
    opened = open_data(run.path / "data")
    assert opened.manifest == data.manifest
    for name in ("train", "evaluation"):
        for first, second in zip(astuple(getattr(opened, name)), astuple(getattr(data, name)), strict=True):
            np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(opened.overlap.teacher_ids, data.overlap.teacher_ids)
    for name in ("student_tokenizer", "teacher_tokenizer"):
        assert getattr(opened, name).get_vocab() == getattr(data, name).get_vocab()


def test_a_second_run_of_the_same_configuration_builds_nothing(tmp_path, monkeypatch):
    config = make_config(tmp_path)
    first = prepare_data(make_session(config, make_run(tmp_path, "first")))
    monkeypatch.setattr(prepare, "fill_folder", lambda *arguments: pytest.fail("built again"))
    second = prepare_data(make_session(config, make_run(tmp_path, "second")))
    assert second.manifest == first.manifest
    np.testing.assert_array_equal(second.train.student_ids, first.train.student_ids)


def test_data_built_twice_are_equal(prepared, tmp_path):
    config, _, data = prepared
    again = open_data(build_data(config, tmp_path / "other cache"))
    assert again.manifest == data.manifest
    for first, second in zip(astuple(again.train), astuple(data.train), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"data": {"max_length": 32}},
        {"data": {"evaluation_fraction": 0.3}},
        {"data": {"subset_size": 50}},
        {"teacher": {"max_length": 40}},
        {"teacher": {"build": {"vocab_size": 310}}},
        {"student": {"build": {"vocab_size": 280}}},
        {"student": {"build": {"tokenizer": "teacher"}}},
    ],
    ids=str,
)
def test_settings_that_change_the_data_change_the_key(prepared, tmp_path, changes):
    _, _, data = prepared
    changed = build_data(make_config(tmp_path, **changes), tmp_path / "cache")
    assert changed.name != data.key


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"max_steps": 9}},
        {"distill": {"temperature": 2.0, "loss": "overlap_kl"}},
        {"cache": {"enabled": True}},
    ],
    ids=str,
)
def test_settings_that_do_not_change_the_data_keep_the_key(prepared, tmp_path, changes):
    _, _, data = prepared
    assert build_data(make_config(tmp_path, **changes), tmp_path / "cache").name == data.key


def test_another_text_in_the_file_changes_the_key_and_the_runs_data(tmp_path):
    config, run = make_config(tmp_path), make_run(tmp_path)
    first = prepare_data(make_session(config, run)).key
    write_corpus(tmp_path / "corpus.txt", documents=61)
    second = prepare_data(make_session(config, run))
    assert second.key != first
    assert second.manifest["corpus"]["num_documents"] == 61
    assert not (run.path / "data" / first).exists()


def test_the_teachers_tokenizer_can_be_the_students(tmp_path):
    config = make_config(tmp_path, student={"build": {"tokenizer": "teacher"}}, distill={"loss": "forward_kl"})
    data = open_data(build_data(config, tmp_path / "cache"))
    assert data.same_tokenizer is True
    assert data.manifest["train"]["same_token_share"] == 1.0


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_the_tokenizer_of_a_model_folder_is_taken(test_data, tmp_path, side):
    config = make_config(tmp_path, **{side: {"path": str(test_data / "models" / "stories260K")}})
    data = open_data(build_data(config, tmp_path / "cache"))
    expected = {"student": 290, "teacher": 320} | {side: 512}
    assert {name: data.manifest["vocabulary"][name] for name in expected} == expected


@pytest.mark.parametrize("tokenizer", ["own", "teacher"])
def test_a_document_does_not_end_itself(tmp_path, tokenizer):
    rows = [{"text": f"{number} words <|endoftext|> more words {number * 7}"} for number in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make_config(
        tmp_path, data={"path": str(tmp_path / "a.jsonl")}, student={"build": {"tokenizer": tokenizer}}
    )
    data = open_data(build_data(config, tmp_path / "cache"))
    sides = (data.train.student_ids, data.student_tokenizer), (data.train.teacher_ids, data.teacher_tokenizer)
    for ids, side in sides:
        assert (ids[:, 1:] == side.eos_token_id).sum() == data.manifest["corpus"]["train_documents"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"max_length": 4_096}}, "expected at least one sequence of 4096 tokens of training text"),
        ({"data": {"evaluation_fraction": 0.001, "max_length": 128}}, "128 tokens of evaluation text"),
        ({"teacher": {"path": "./missing"}}, "teacher.path: expected a model folder"),
        ({"student": {"path": "nobody/nothing"}}, "student.path: expected the hub or its local cache"),
        ({"data": {"subset_size": 1}}, "expected at least 2 documents"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_data_that_cannot_be_made_are_refused_and_leave_nothing(tmp_path, changes, message):
    config = make_config(tmp_path, **changes)
    run = make_run(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        prepare_data(make_session(config, run))
    assert "\n" not in str(caught.value)
    assert list((run.cache_path / "data").iterdir()) == []
    assert list(run.path.iterdir()) == []


def test_examples_show_evaluation_tokens_beside_each_other(prepared):
    _, _, data = prepared
    examples = alignment_examples(data, 40)
    assert len(examples) == 40
    assert all(example.keys() == {"student", "teacher"} for example in examples)
    assert all(example["teacher"] in ("-", example["student"]) for example in examples)
    assert any(example["teacher"] != "-" for example in examples)
    shown = "".join(ast.literal_eval(example["student"]) for example in examples).replace("<|endoftext|>", "")
    assert text_of(data.evaluation, data.student_tokenizer).startswith(shown)


def test_more_examples_than_there_are_tokens_are_all_tokens(prepared):
    _, _, data = prepared
    assert len(alignment_examples(data, 10**6)) == data.manifest["evaluation"]["student_tokens"]


@pytest.fixture
def with_older_copy(tmp_path):
    """A folder with stories and an older copy of them, in which every tenth word was another one."""
    generator = random.Random(0)
    stories = [[f"{generator.choice(WORDS)}{generator.randrange(40)}" for _ in range(120)] for _ in range(40)]
    older = [[word if number % 10 else "older" for number, word in enumerate(story)] for story in stories]
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, texts in (("corpus.txt", stories), ("draft.txt", older)):
        (folder / name).write_text("<|endoftext|>".join(map(" ".join, texts)))
    return folder


@pytest.mark.parametrize("what", ["remove", "keep"])
def test_near_copies_of_held_out_text_are_counted_and_left_out(tmp_path, with_older_copy, what, capsys):
    data = {"path": str(with_older_copy), "evaluation_fraction": 0.2, "near_duplicates": what}
    opened = open_data(build_data(make_config(tmp_path, data=data), tmp_path / "cache"))
    facts = opened.manifest["corpus"]
    train, evaluation = (text_of(windows, opened.student_tokenizer) for windows in (opened.train, opened.evaluation))
    held_out = re.findall(r"\w+ \w+ \w+ \w+ \w+", evaluation)
    shared = sum(words in train for words in held_out) / len(held_out)
    assert facts["near_duplicates"] > 5
    assert facts["train_documents"] + facts["evaluation_documents"] == 80 - facts["near_duplicates"] * (
        what == "remove"
    )
    assert shared < 0.01 if what == "remove" else shared > 0.2
    assert f"{facts['near_duplicates']} training document(s) nearly repeat a held-out one" in capsys.readouterr().out


def test_a_corpus_of_nothing_but_near_copies_is_refused(tmp_path):
    text = " ".join(f"{word}{turn}" for turn in range(4) for word in WORDS)
    (tmp_path / "forms.txt").write_text(f"{text}<|endoftext|>{text} more<|endoftext|>{text} less")
    config = make_config(tmp_path, data={"path": str(tmp_path / "forms.txt"), "evaluation_fraction": 0.4})
    with pytest.raises(UserError, match=r"got 2 documents which all nearly do; .* data.near_duplicates=keep"):
        build_data(config, tmp_path / "cache")
