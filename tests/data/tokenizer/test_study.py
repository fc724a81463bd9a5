"""What notebook 08 measures of a run's tokenizer agrees with measuring it by hand."""

import json

import pytest

from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.data.tokenizer.study import (
    HELD_OUT,
    bytes_per_token,
    cut_held_out,
    study_compression,
    study_merges,
    study_use,
    texts_of_windows,
)
from kdkit.errors import UserError
from tests.lossy import train_unigram
from tests.tiny import make_config, make_data, make_run, make_session

TEXT = "seven wizards"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A session with its data."""
    folder = tmp_path_factory.mktemp("study")
    config = make_config(folder)
    return make_session(config, make_run(folder)), make_data(config, folder), folder


def test_the_texts_of_windows_are_the_documents(scene):
    _, data, folder = scene
    read = "".join(texts_of_windows(data.evaluation, data.student_tokenizer))
    assert len(read.encode()) == data.evaluation.num_bytes.sum()
    documents = (folder / "corpus.txt").read_text().split("<|endoftext|>")
    assert sum(document in read for document in documents) >= 5


def test_merges_are_written_step_by_step(scene):
    session, data, _ = scene
    tokens = study_merges(session.run, data.student_tokenizer, TEXT)
    facts = session.run.read_json("merges.json")
    assert b"".join(tokens).decode() == TEXT
    assert facts["steps"][-1]["tokens"] == [token.hex() for token in tokens]
    assert facts["steps"][0]["merges"] == 0 and facts["steps"][-1]["merges"] == len(data.student_tokenizer) - 257
    first, last = facts["merges"][0], facts["merges"][-1]
    assert first["left"] + first["right"] == first["piece"]
    assert (first["number"], last["number"]) == (1, len(data.student_tokenizer) - 257)


def test_a_tokenizer_without_merges_has_no_steps(scene, documents):
    session, _, _ = scene
    tokens = study_merges(session.run, train_unigram(documents), "the river")
    assert b"".join(tokens) == b"the river" and session.run.read_json("merges.json")["steps"] == []


def test_compression_is_that_of_a_training_with_each_size(scene, tmp_path):
    session, data, _ = scene
    other = tmp_path / "other"
    train_tokenizer(["seven wizards boxed"], 262).save_pretrained(other)
    (tmp_path / "text.txt").write_text("old trees and seven foxes " * 20)
    session = make_session(session.config, make_run(tmp_path))
    found = study_compression(session, data, str(tmp_path / "text.txt"), str(other))
    assert found == json.loads((session.run.path / "compression.json").read_text())
    assert list(found) == [HELD_OUT, "text.txt"]
    held_out = list(texts_of_windows(data.evaluation, data.student_tokenizer))
    training = list(texts_of_windows(data.train, data.student_tokenizer))
    for size, level in found[HELD_OUT]["own"]:
        assert level == pytest.approx(bytes_per_token(train_tokenizer(training, size), held_out))
    levels = [level for _, level in found["text.txt"]["own"]]
    assert levels == sorted(levels) and list(found[HELD_OUT]["others"]) == ["student", "teacher", "other"]
    text = "old trees and seven foxes " * 20 + "\n\n"  # as paragraphs are read
    expected = bytes_per_token(train_tokenizer(["seven wizards boxed"], 262), [text])
    assert found["text.txt"]["others"]["other"] == [262, expected]


def test_bytes_per_token_counts_marks_as_text(documents):
    tokenizer = train_tokenizer(documents, 260)
    tokenizer("a")  # every call resets how special tokens are read
    assert bytes_per_token(tokenizer, ["<|endoftext|>"]) == pytest.approx(1.0, abs=0.4)


def test_of_the_hub_what_cannot_be_reached_is_left_out_and_a_folder_is_not(scene, tmp_path, monkeypatch, capsys):
    session, data, _ = scene
    for place in ("kdkit.machine.hub", "kdkit.alignment.tokenizers"):
        monkeypatch.setattr(f"{place}.hub_is_reachable", lambda: False)
    found = study_compression(session, data, "", "nobody/nothing-here")
    assert list(found[HELD_OUT]["others"]) == ["student", "teacher"]
    assert "note: nobody/nothing-here is left out: no network and nothing cached" in capsys.readouterr().out
    with pytest.raises(UserError, match="TOKENIZERS: expected a model folder"):
        study_compression(session, data, "", f"{tmp_path}/nowhere")


def test_the_use_is_that_of_the_held_out_text(scene):
    _, data, _ = scene
    use = study_use(data)
    assert use.num_bytes == data.evaluation.num_bytes.sum() and use.unknown_bytes == use.changed_bytes == 0


def test_the_beginning_of_the_held_out_text_is_cut_by_both(scene):
    _, data, _ = scene
    cuts = cut_held_out(data, 20)
    first = next(texts_of_windows(data.evaluation, data.student_tokenizer))[:20]
    assert [b"".join(tokens).decode() for tokens in cuts.values()] == [first] * 2
    assert [name.partition(",")[0] for name in cuts] == ["student", "teacher"]
