"""Tokenizers of one family are one tokenizer, whatever they add; others are two."""

from copy import deepcopy

import pytest

from kdkit.alignment.same_ids import share_tokenizer
from kdkit.alignment.tokenizers import encode_with_ends, end_token_id, start_token_id, token_bytes, train_tokenizer
from kdkit.config.losses import ForwardKL
from kdkit.data.prepare import data_from_texts
from kdkit.data.windows import PAD
from kdkit.distill.choose_loss import choose_loss
from tests.tiny import make_config


@pytest.fixture(scope="module")
def base(documents):
    return train_tokenizer(documents, 300)


def instruct(base, how):
    """Make the tokenizer that an instruct model of the family would have."""
    tokenizer = deepcopy(base)
    if "added" in how:
        tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    if "special" in how:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    if "eos" in how:
        tokenizer.eos_token = "<|im_end|>"
    if "bos" in how:
        tokenizer.bos_token = "<|im_start|>"
    return tokenizer


VARIANTS = [["added"], ["special"], ["special", "eos"], ["special", "bos"], ["added", "special", "eos", "bos"]]


@pytest.mark.parametrize("how", VARIANTS, ids=" ".join)
@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_a_family_reads_with_ids_that_both_models_have(base, documents, how, larger):
    other = instruct(base, how)
    pair = (other, base) if larger == "student" else (base, other)
    shared = share_tokenizer(*pair, [*documents, "a <tool_call> is made"])
    assert shared is not None and shared.notes
    assert len(shared.student) == len(shared.teacher) == 300
    data = data_from_texts([*documents, "a <tool_call> is made"], *pair, max_length=64)
    assert data.same_tokenizer and data.overlap.student_size == data.overlap.teacher_size == 300
    for ids in (data.train.student_ids, data.train.teacher_ids):
        assert ids[:, 1:].max() < 300
    assert (data.train.student_ids[:, 1:] == data.train.teacher_ids[:, 1:64]).all()
    tokens = (data.train.student_ids[:, 1:] != PAD).sum()
    assert (data.train.teacher_positions != PAD).sum() == data.train.same_token.sum() == tokens


@pytest.mark.parametrize("how", VARIANTS, ids=" ".join)
def test_what_differs_is_said_and_auto_compares_ids(base, documents, how, tmp_path, capsys):
    data = data_from_texts(documents, base, instruct(base, how), max_length=64)
    said = capsys.readouterr().out
    loss, reason = choose_loss(make_config(tmp_path), data)
    assert loss == ForwardKL()
    notes = data.manifest["tokenizer_notes"]
    assert all(note in reason and note in said for note in notes)
    assert any("adds" in note for note in notes)
    assert any("the end is" in note for note in notes) is ("eos" in how)


def test_only_names_that_differ_leave_a_pair_as_it_is(base):
    renamed = deepcopy(base)
    renamed.add_special_tokens({"additional_special_tokens": ["<|a|>"]})
    other = deepcopy(base)
    other.add_special_tokens({"additional_special_tokens": ["<|b|>"]})
    shared = share_tokenizer(renamed, other)
    assert shared.student is renamed
    assert any("another name" in note for note in shared.notes)


def test_the_teachers_own_start_token_is_kept(base):
    both = instruct(base, ["special"])
    teacher = deepcopy(both)
    teacher.bos_token = "<|im_start|>"
    shared = share_tokenizer(both, teacher)
    assert start_token_id(shared.student) == start_token_id(both) != start_token_id(shared.teacher)
    assert start_token_id(shared.teacher) == start_token_id(teacher)
    assert end_token_id(shared.student) == end_token_id(shared.teacher)
    table = token_bytes(shared.teacher)
    assert encode_with_ends(shared.teacher, table, "a b")[0] == encode_with_ends(both, token_bytes(both), "a b")[0]


def test_other_tokenizers_are_two(base, documents):
    cut = deepcopy(base)
    cut.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    for other in (train_tokenizer(documents, 301), train_tokenizer(["other words here"] * 3, 300), cut):
        assert share_tokenizer(base, other) is None and share_tokenizer(other, base) is None


@pytest.mark.parametrize("other", ["gpt2", "smollm2", "bert-base-uncased"])
def test_real_tokenizers_of_different_families_are_two(real_tokenizer, other):
    assert share_tokenizer(real_tokenizer("qwen1.5"), real_tokenizer(other)) is None


def test_qwens_base_and_instruct_are_one(real_tokenizer):
    base = real_tokenizer("qwen1.5")
    chat = deepcopy(base)
    chat.eos_token = "<|im_end|>"
    shared = share_tokenizer(base, chat, ["na\u00efve 1999 \u4e2d\u6587"])
    assert end_token_id(shared.teacher) == end_token_id(base) != end_token_id(chat)
    assert any("'<|im_end|>' for the teacher" in note for note in shared.notes)
