"""Separators as a model was trained, and what they cost."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.alignment.tokenizers import end_token_id, load_tokenizer, set_document_end, token_bytes, train_tokenizer
from kdkit.data.prepare import data_from_texts
from kdkit.data.windows import PAD
from kdkit.errors import UserError
from kdkit.training.ends import measure_ends, warn_of_ends
from kdkit.training.scoring import score_windows
from tests.tiny import make_config, make_data, make_llama


@pytest.fixture(scope="module")
def stories(test_data):
    """Return a real model that was trained with a start token between documents, and stories that it has not seen."""
    text = (test_data / "lm" / "tinystories_a.txt").read_text(encoding="utf-8")
    folder = str(test_data / "models" / "stories260K")
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model, folder, [story.strip() for story in text.split("<|endoftext|>")[-40:] if story.strip()]


def data_with(stories, choice):
    """Prepare the stories with a separator: what `auto` takes, or EOS."""
    tokenizer = load_tokenizer(stories[1])
    data = data_from_texts(stories[2], tokenizer, tokenizer, max_length=256)
    if choice == "eos":
        end = tokenizer.eos_token_id
        for ids in (data.train.student_ids, data.train.teacher_ids):
            ids[:, 1:][ids[:, 1:] == tokenizer.bos_token_id] = end
        set_document_end(tokenizer, "eos", "teacher.document_end")
    return data


def test_a_teacher_that_was_trained_with_a_start_token_reads_it_between_documents(stories):
    data = data_with(stories, "auto")
    tokenizer = data.teacher_tokenizer
    ids = data.train.teacher_ids[:, 1:]
    assert data.manifest["document_ends"] == ["<s>", "<s>"]
    assert (ids == tokenizer.bos_token_id).sum() == len(stories[2]) and not (ids == tokenizer.eos_token_id).any()
    right = score_windows(stories[0], data.train, "teacher", 8).bits_per_byte
    wrong = score_windows(stories[0], data_with(stories, "eos").train, "teacher", 8).bits_per_byte
    assert right < wrong - 0.05


@pytest.mark.parametrize(("choice", "warns"), [("auto", False), ("eos", True)])
def test_the_cost_at_ends_is_measured_and_a_wrong_separator_named(stories, choice, warns):
    data = data_with(stories, choice)
    facts = measure_ends(stories[0], data.train, "teacher", data.teacher_tokenizer, 8)
    assert (facts["nats"] > 20) is (facts["nats_after"] > 8) is warns
    warning = warn_of_ends(facts, "teacher.document_end")
    assert (warning is not None) is warns
    if warns:
        assert "'</s>'" in warning and warning.endswith("set teacher.document_end='<s>'")


def test_the_cost_at_ends_equals_a_slow_reference(small_pair, documents):
    student = small_pair[0]
    data = data_from_texts([text[:90] for text in documents[:12]], student, student, max_length=48)
    model = make_llama(len(student)).eval()
    facts = measure_ends(model, data.train, "student", student, batch_size=5)
    end, at_end, after = end_token_id(student), [], []
    for row in data.train.student_ids:
        tokens = torch.from_numpy(row[row != PAD])[None].long()
        with torch.no_grad():
            nats = -model(input_ids=tokens).logits[0].log_softmax(-1)
        ids = tokens[0].tolist()
        if end not in ids[1:]:
            continue
        at_end += [nats[i - 1, end].item() for i in range(1, len(ids)) if ids[i] == end]
        after += [nats[i, ids[i + 1]].item() for i in range(1, len(ids) - 1) if ids[i] == end]
    assert len(at_end) == 12 and len(after) > 3
    assert facts["nats"] == pytest.approx(sum(at_end) / len(at_end), rel=1e-4)
    assert facts["nats_after"] == pytest.approx(sum(after) / len(after), rel=1e-4)
    assert facts["other_token"] is None and warn_of_ends(facts, "teacher.document_end") is None


def test_the_choice_of_a_separator_is_kept_in_the_files(stories, tmp_path):
    tokenizer = load_tokenizer(stories[1])
    for choice, expected in (("auto", 1), ("bos", 1), ("<unk>", 0), ("eos", 2), ("</s>", 2)):
        set_document_end(tokenizer, choice, "teacher.document_end")
        tokenizer.save_pretrained(tmp_path / str(expected))
        assert end_token_id(load_tokenizer(tmp_path / str(expected))) == end_token_id(tokenizer) == expected


@pytest.mark.parametrize("name", ["gpt2", "qwen1.5", "smollm2"])
def test_models_without_a_start_token_of_their_own_end_documents_by_eos(test_data, name):
    tokenizer = load_tokenizer(test_data / "tokenizers" / name)
    set_document_end(tokenizer, "auto", "teacher.document_end")
    assert end_token_id(tokenizer) == tokenizer.eos_token_id
    assert token_bytes(tokenizer)[end_token_id(tokenizer)] is None


@pytest.mark.parametrize(
    ("name", "text", "entry", "warns"),
    [
        ("smollm2", "<|endoftext|>", "<|endoftext|>", False),
        ("smollm2", "<file_sep>", "<file_sep>", False),
        ("qwen1.5", "<|im_end|>", "<|im_end|>", False),
        ("gpt2", "\n", "\u010a", True),  # as byte-level vocabularies spell a line end
        ("qwen1.5", "eso", "eso", True),
        ("smollm2", "EOS", "<|im_end|>", False),
    ],
)
def test_any_token_may_end_documents_and_one_of_ordinary_text_is_pointed_out(
    test_data, capsys, name, text, entry, warns
):
    tokenizer = load_tokenizer(test_data / "tokenizers" / name)
    set_document_end(tokenizer, text, "teacher.document_end")
    assert end_token_id(tokenizer) == tokenizer.get_vocab()[entry]
    assert ("a token of ordinary text" in capsys.readouterr().out) is warns


@pytest.mark.parametrize(
    ("name", "text", "end"),
    [
        ("smollm2", "<|end|>", "did you mean '<|im_end|>'?"),
        ("gpt2", "eso", "did you mean 'eos'?"),
        ("bert-base-uncased", "\u010a", "set teacher.document_end=eos"),  # a normaliser would make it `c`
    ],
)
def test_a_token_that_is_not_there_is_refused_in_one_line_with_the_special_ones(test_data, name, text, end):
    tokenizer = load_tokenizer(test_data / "tokenizers" / name)
    with pytest.raises(UserError) as refusal:
        set_document_end(tokenizer, text, "teacher.document_end")
    said = str(refusal.value)
    assert said.startswith("teacher.document_end: expected auto, eos, bos, or a token of the tokenizer (its special")
    assert tokenizer.convert_ids_to_tokens(end_token_id(tokenizer)) in said
    assert f"got {text!r}" in said and said.endswith(end) and "\n" not in said


def read_by(path, teacher, **sections):
    """Prepare a small corpus for a student of its own tokenizer and one teacher, or the members of several."""
    config = make_config(path, teacher=teacher, **sections)
    return make_data(config, path)


def test_the_teacher_reads_the_token_that_was_named_and_the_data_are_others(test_data, tmp_path):
    smollm2 = {"path": str(test_data / "tokenizers" / "smollm2")}
    named = read_by(tmp_path, smollm2 | {"document_end": "<|endoftext|>"})
    usual = read_by(tmp_path, smollm2)
    assert named.manifest["document_ends"] == ["<|endoftext|>", "<|endoftext|>"] and named.key != usual.key
    assert usual.manifest["document_ends"] == ["<|endoftext|>", "<|im_end|>"]
    ids = [np.asarray(data.train.teacher_ids)[:, 1:] for data in (named, usual)]
    vocabulary = named.teacher_tokenizer.get_vocab()
    assert (ids[0] == vocabulary["<|endoftext|>"]).sum() == (ids[1] == vocabulary["<|im_end|>"]).sum() > 40
    assert not (ids[0] == vocabulary["<|im_end|>"]).any()
    # what the student calls the end is what the teacher calls it
    ends = end_token_id(named.student_tokenizer), end_token_id(named.teacher_tokenizer)
    assert ends in zip(named.overlap.student_ids.tolist(), named.overlap.teacher_ids.tolist(), strict=True)


def test_members_have_separators_of_their_own_and_the_student_keeps_its_one(documents, tmp_path):
    for name, vocab_size in (("one", 300), ("two", 400)):
        train_tokenizer(documents, vocab_size, ("<|im_start|>", "<|im_end|>")).save_pretrained(tmp_path / name)

    def members(end):
        found = [{"name": name, "path": str(tmp_path / name)} for name in ("one", "two")]
        return {"members": [found[0], found[1] | {"document_end": end}]}

    student = {"build": {"tokenizer": "teacher"}, "document_end": "<|im_start|>"}
    data = read_by(tmp_path, {}, teachers=members("<|im_end|>"), student=student)
    assert data.members["one"].manifest["document_ends"] == ["<|im_start|>", "<|im_start|>"]
    assert data.members["two"].manifest["document_ends"] == ["<|im_start|>", "<|im_end|>"]
    assert read_by(tmp_path, {}, teachers=members("auto"), student=student).key != data.key
    with pytest.raises(UserError, match=r"^teachers\.members\.two\.document_end: expected .*got '<end>'"):
        read_by(tmp_path, {}, teachers=members("<end>"), student=student)


def test_a_start_token_that_is_not_there_is_refused(test_data):
    tokenizer = load_tokenizer(test_data / "tokenizers" / "qwen1.5")
    with pytest.raises(UserError, match=r"student\.document_end: expected a tokenizer with a BOS token"):
        set_document_end(tokenizer, "bos", "student.document_end")
