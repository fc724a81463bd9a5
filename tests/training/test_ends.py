"""Separators as a model was trained, and what they cost."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.alignment.tokenizers import end_token_id, load_tokenizer, set_document_end, token_bytes
from kdkit.data.prepare import data_from_texts
from kdkit.data.windows import PAD
from kdkit.errors import UserError
from kdkit.training.ends import measure_ends, warn_of_ends
from kdkit.training.scoring import score_windows
from tests.tiny import make_llama


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
        assert "'</s>'" in warning and "'<s>'" in warning and "teacher.document_end" in warning


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
    for choice, expected in (("auto", 1), ("bos", 1), ("eos", 2)):
        set_document_end(tokenizer, choice, "teacher.document_end")
        tokenizer.save_pretrained(tmp_path / choice)
        assert end_token_id(load_tokenizer(tmp_path / choice)) == end_token_id(tokenizer) == expected


@pytest.mark.parametrize("name", ["gpt2", "qwen1.5", "smollm2"])
def test_models_without_a_start_token_of_their_own_end_documents_by_eos(test_data, name):
    tokenizer = load_tokenizer(test_data / "tokenizers" / name)
    set_document_end(tokenizer, "auto", "teacher.document_end")
    assert end_token_id(tokenizer) == tokenizer.eos_token_id
    assert token_bytes(tokenizer)[end_token_id(tokenizer)] is None


def test_a_start_token_that_is_not_there_is_refused(test_data):
    tokenizer = load_tokenizer(test_data / "tokenizers" / "qwen1.5")
    with pytest.raises(UserError, match=r"student\.document_end: expected a tokenizer with a BOS token"):
        set_document_end(tokenizer, "bos", "student.document_end")
