"""Conversations for several teachers: one student, and every teacher its own reading of the same rows."""

import json
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.alignment.templates import CHATML, ChatTemplate
from kdkit.alignment.tokenizers import end_token_id, set_turn_end, train_tokenizer
from kdkit.data.batches import find_spans
from kdkit.data.chat.packer import NO_ROOM, ChatPacker
from kdkit.data.chat.sides import Fitted, SharedCuts, Side
from kdkit.data.many.kinds import kinds_of_documents, kinds_of_pieces
from kdkit.data.pair import pair_vocabularies
from kdkit.data.windows import PAD
from kdkit.errors import UserError
from tests.chats import INST, WORDS, chat_tokenizers, talk
from tests.committee_chats import LINES, chat_committee
from tests.tiny import make_data

TEXT = st.lists(st.sampled_from([*WORDS.split(), "\n", "  ", "<|im_end|>", "[INST]", "'s", "."]), min_size=1).map(
    " ".join
)
ANSWER = TEXT.filter(str.strip)
TURNS = st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=3)


def second_template():
    """Return the student's tokenizer with another template."""
    tokenizer = deepcopy(chat_tokenizers()[0])
    tokenizer.chat_template = "### " + LINES
    set_turn_end(tokenizer, ChatTemplate(tokenizer).end_id)
    return tokenizer


def line_teacher():
    """Return a tokenizer whose template is text alone, and whose tokens cross into it."""
    tokenizer = train_tokenizer([f"river {n}.\n\nuser: letter 's\n\nassistant: {WORDS}" for n in range(40)], 420)
    tokenizer.chat_template = LINES
    set_turn_end(tokenizer, ChatTemplate(tokenizer).end_id)
    return tokenizer


def make_packer(loss_on="answers", lengths=(4096, 4096, 4096, 4096)):
    student, teacher = chat_tokenizers()
    sides = [
        Side(tokenizer, ChatTemplate(tokenizer, "chat_template"), length)
        for tokenizer, length in zip((student, teacher, line_teacher(), second_template()), lengths, strict=True)
    ]
    overlaps = [pair_vocabularies(student, side.tokenizer) for side in sides[1:]]
    return ChatPacker(sides[0], sides[1:], overlaps, loss_on)


def pack(packer, *conversations):
    """Return the windows of each teacher, and the conversations in them."""
    parts = [part for part in packer.pack([each.to_json() for each in conversations]) if part[1]]
    assert len(parts) == 1
    return parts[0]


def contents_of(packer, number, windows, row):
    """Return the bytes of each span in the loss, of the student and of one teacher."""
    spans, is_label = find_spans(windows, [row], 0, 0), windows.labels([row])[0, 1:]
    sides = (
        (packer.student, windows.student_ids[row], spans.student_starts),
        (packer.teachers[number], windows.teacher_ids[row], spans.teacher_starts),
    )
    for span, (start, stop) in enumerate(pairwise(spans.student_starts.tolist())):
        if not is_label[start]:
            continue
        assert is_label[start:stop].all()
        read = []
        for side, ids, starts in sides:
            part = ids[1:][int(starts[span]) : int(starts[span + 1])].tolist()
            end = end_token_id(side.tokenizer)
            read.append(b"".join(b"" if i == end else side.encoder.table[i] for i in part))
        yield tuple(read)


@given(TURNS, st.sampled_from(["answers", "last", "all"]))
@settings(max_examples=40, deadline=None)
def test_all_teachers_read_what_the_student_reads_and_learns(turns, loss_on):
    packer = make_packer(loss_on)
    windows, kept = pack(packer, talk(*(text for turn in turns for text in turn)))
    first, *others = windows
    assert len(others) == 2 and len(kept) == len(first) == 1
    for own in others:
        for name in ("student_ids", "in_loss", "num_bytes"):
            assert np.array_equal(getattr(first, name), getattr(own, name)), name
        assert np.array_equal(first.pieces[..., [0, 1, 3]], own.pieces[..., [0, 1, 3]])
    assert first.num_bytes[0] > 0
    for number, own in enumerate(windows):
        pairs = list(contents_of(packer, number, own, 0))
        # a template's space may hang on the front of a content's first token
        assert all(teacher in (student, b" " + student) for student, teacher in pairs)
        assert sum(len(student) for student, _ in pairs) == own.num_bytes[0]


def test_the_ends_of_turns_are_pairs_with_every_teacher():
    packer = make_packer()
    for side, overlap in zip(packer.teachers, packer.overlaps, strict=True):
        pairs = set(zip(overlap.student_ids.tolist(), overlap.teacher_ids.tolist(), strict=True))
        assert (end_token_id(packer.student.tokenizer), end_token_id(side.tokenizer)) in pairs
    windows, _ = pack(packer, talk("question", "answer"))
    for side, own in zip(packer.teachers, windows, strict=True):
        for of_teacher, tokenizer in ((False, packer.student.tokenizer), (True, side.tokenizer)):
            labels = own.labels([0], of_teacher)[0]
            last = labels.nonzero()[0][-1]
            assert (own.teacher_ids if of_teacher else own.student_ids)[0, last] == end_token_id(tokenizer)
    assert windows[1].same_token[0].any() and windows[1].same_token[0, windows[1].labels([0])[0].nonzero()[0][-1] - 1]


@pytest.mark.parametrize("short", range(4))
def test_what_is_too_long_for_one_is_cut_for_all(short):
    lengths = [4096] * 4
    lengths[short] = 90
    packer = make_packer(lengths=lengths)
    long = talk("river " * 40, "answer", "garden " * 60 + "and last", "window letter")
    windows, kept = pack(packer, long)
    assert [fitted.is_cut for fitted in kept] == [True] and packer.describe()["conversations_cut"] == 1
    question, answer = kept[0].messages
    assert question.content.endswith("and last") and answer.content == "window letter"
    assert all(np.array_equal(windows[0].student_ids, own.student_ids) for own in windows)
    rows = [windows[0].student_ids, *(own.teacher_ids for own in windows)]
    assert (rows[short] != PAD).sum() <= 90
    for side, ids in zip((packer.student, *packer.teachers), rows, strict=True):
        assert "river river" not in side.tokenizer.decode(ids[ids != PAD])


def test_what_leaves_no_room_for_one_is_in_no_window_of_any():
    side = make_packer().teachers[1]
    laid = side.lay([Fitted(talk("a", "b").messages)])
    room = side.count(laid, SharedCuts(laid.texts))
    packer = make_packer(lengths=(4096, 4096, room, 4096))
    windows, kept = pack(packer, talk("a", "b"), talk("a", "\U00010348\U00010348"), talk("a", "c"))
    assert packer.left_out == {NO_ROOM: 1}
    assert [fitted.document for fitted in kept] == [0, 2]
    assert [len(own) for own in windows] == [2, 2, 2]
    packer = make_packer(lengths=(4096, 4096, 8, 4096))
    with pytest.raises(UserError, match=r"expected room for a conversation in 4096 tokens of the student and 8 of the"):
        list(packer.pack([talk("a", "b").to_json()]))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("members")


def assert_same_rows(data):
    for split in ("train", "evaluation"):
        whole = getattr(data, split)
        for member in data.members.values():
            own = getattr(member, split)
            assert len(own) > 5
            assert np.array_equal(own.student_ids, whole.student_ids)
            assert np.array_equal(own.labels(slice(None)), whole.labels(slice(None)))
            assert np.array_equal(own.pieces[:, :, [0, 1, 3]], whole.pieces[:, :, [0, 1, 3]])
            assert member.prompts(split) == data.prompts(split)
            assert member.student_tokenizer.chat_template == data.student_tokenizer.chat_template
            assert end_token_id(member.student_tokenizer) == end_token_id(data.student_tokenizer)


def read(tokenizer, ids):
    return tokenizer.decode(ids[ids != PAD])


def test_the_data_step_gives_every_teacher_its_tokenizer_and_template(place):
    data = make_data(chat_committee(place), place)
    assert_same_rows(data)
    farmer, sailor = data.members.values()
    for number, conversation in enumerate(data.prompts("train", 20)):
        messages = [(message.role, message.content) for message in conversation.messages]
        chatml = "\n".join(f"<|im_start|>{role}\n{text}<|im_end|>" for role, text in messages)
        assert read(data.student_tokenizer, data.train.student_ids[number]) == chatml
        assert read(farmer.teacher_tokenizer, farmer.train.teacher_ids[number]) == chatml
        lines = "\n\n".join(f"{role}: {text}" for role, text in messages)
        assert read(sailor.teacher_tokenizer, sailor.train.teacher_ids[number]).startswith(lines)
    assert data.members["sailor"].manifest["document_ends"] == ["<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_teacher_may_share_the_students_tokenizer_and_bring_another_template(place, tmp_path, order):
    first = make_data(chat_committee(place), place).members["farmer"]
    first.teacher_tokenizer.chat_template = "### " + LINES
    first.teacher_tokenizer.save_pretrained(tmp_path / "shared")
    student = first.teacher_tokenizer
    student.chat_template = CHATML
    student.save_pretrained(tmp_path / "student")
    config = chat_committee(place)
    members = config.model_dump()["teachers"]["members"]
    members[0] |= {"path": str(tmp_path / "shared"), "trained_on": []}
    config = chat_committee(
        place, {"members": [members[number] for number in order]}, student={"path": str(tmp_path / "student")}
    )
    data = make_data(config, place)
    assert_same_rows(data)
    assert data.members["farmer"].same_tokenizer and not data.members["sailor"].same_tokenizer
    farmer = data.members["farmer"]
    assert farmer.student_tokenizer.chat_template == CHATML
    assert farmer.teacher_tokenizer.chat_template == "### " + LINES
    row = farmer.train
    assert read(farmer.student_tokenizer, row.student_ids[0]).startswith("<|im_start|>user\n")
    assert read(farmer.teacher_tokenizer, row.teacher_ids[0]).startswith("### user: ")
    assert read(data.members["sailor"].teacher_tokenizer, data.members["sailor"].train.teacher_ids[0])[:6] == "user: "
    assert row.same_token[row.labels(slice(None))[:, 1:].nonzero()].mean() > 0.9


def test_a_student_without_a_template_reads_that_of_the_teacher_whose_tokenizer_it_shares(place, tmp_path):
    data = make_data(chat_committee(place), place)
    shared = data.members["farmer"].teacher_tokenizer
    shared.chat_template = None
    shared.save_pretrained(tmp_path / "student")
    shared.chat_template = CHATML
    shared.save_pretrained(tmp_path / "shared")
    members = chat_committee(place).model_dump()["teachers"]["members"]
    members[0] |= {"path": str(tmp_path / "shared"), "trained_on": []}
    changes = {"student": {"path": str(tmp_path / "student")}}
    data = make_data(chat_committee(place, {"members": members[::-1]}, **changes), place)
    assert_same_rows(data)
    assert data.student_tokenizer.chat_template == CHATML
    members[0]["chat_template"] = "{{ messages[0]['content'] }}"
    with pytest.raises(UserError, match=r"teachers\.members\.farmer\.chat_template: expected a chat template that"):
        make_data(chat_committee(place, {"members": members[::-1]}, student={}), place)


def test_three_teachers_read_the_same_rows(place):
    members = chat_committee(place).model_dump()["teachers"]["members"]
    members.append(
        members[1] | {"name": "third", "chat_template": INST, "build": members[1]["build"] | {"vocab_size": 360}}
    )
    data = make_data(chat_committee(place, {"members": members}), place)
    assert_same_rows(data)
    third = data.members["third"]
    question = data.prompts("train", 1)[0].messages[0].content
    assert read(third.teacher_tokenizer, third.train.teacher_ids[0]).startswith(f"<s>[INST] {question} [/INST]")


def test_privileged_teachers_read_the_answer_each_in_its_own_template(place):
    prompt = "{prompt} It is: {answer} Again."
    plain, data = (
        make_data(chat_committee(place, teacher={"privileged_prompt": text}), place) for text in (None, prompt)
    )
    assert_same_rows(data)
    assert np.array_equal(data.train.student_ids, plain.train.student_ids)
    for member in data.members.values():
        for number, conversation in enumerate(data.prompts("train", 20)):
            asked = prompt.format(prompt=conversation.messages[-2].content, answer=conversation.answer)
            text = read(member.teacher_tokenizer, member.train.teacher_ids[number])
            assert asked in text and text.count(conversation.answer) == 2
            labels = member.train.labels([number], of_teacher=True)[0]
            learnt = member.teacher_tokenizer.decode(
                member.train.teacher_ids[number][labels], skip_special_tokens=True
            ).removesuffix("<|im_end|>")
            assert learnt.strip() == conversation.answer


@pytest.mark.parametrize("max_length", [96, 40])
def test_every_window_knows_its_kind_where_rows_are_left_out(place, tmp_path, max_length):
    """Every fifth conversation has no room for an answer: what the template of one teacher writes fills the row."""
    config = chat_committee(
        place,
        data={"max_length": max_length, "bad_rows": "skip"},
        folder=tmp_path,
        odd_rows=True,
    )
    data = make_data(config, place)
    assert_same_rows(data)
    assert sum(data.manifest["train"]["conversations_left_out"].values()) > 3
    for split in ("train", "evaluation"):
        windows, kinds = getattr(data, split), getattr(data.kinds, split)
        assert len(kinds) == len(windows)
        of_pieces, of_documents = kinds_of_pieces(windows, kinds), kinds_of_documents(windows, kinds)
        for number, conversation in enumerate(data.prompts(split)):
            expected = int("sails" in json.dumps(conversation.to_json()))
            assert of_pieces[number, 0] == of_documents[number] == expected
            assert ("sails" in read(data.student_tokenizer, windows.student_ids[number])) == bool(expected)
