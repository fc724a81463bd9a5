"""Windows for several teachers, and text of several kinds."""

from dataclasses import replace

import numpy as np
import pytest

from kdkit.config.language import config_from_values
from kdkit.data.many.documents import MixedDocuments, join_corpora, load_corpora, split_kinds
from kdkit.data.many.kinds import kinds_of_documents, kinds_of_pieces
from kdkit.data.many.splits import hold_out
from kdkit.data.many.windows import Reader, pack_together
from kdkit.data.packing import pack_windows
from kdkit.data.prepare import build_data, identify_text_of_teacher, text_of_teacher
from kdkit.data.windows import PAD
from kdkit.errors import UserError
from kdkit.training.scoring import score_windows
from tests.committees import SEA, committee_config, write_kinds
from tests.tiny import make_data, make_llama


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def data(place):
    return make_data(committee_config(place), place)


def text_of(tokenizer, row):
    return tokenizer.decode(row[row != PAD][1:])


def test_all_teachers_and_the_student_read_the_same_text(data):
    assert list(data.members) == ["farmer", "sailor"] and len(data.train) > 50
    for windows in ("train", "evaluation"):
        whole = getattr(data, windows)
        for member in data.members.values():
            own = getattr(member, windows)
            assert np.array_equal(own.student_ids, whole.student_ids)
            assert np.array_equal(own.pieces[:, :, [0, 1, 3]], whole.pieces[:, :, [0, 1, 3]])
            for student, teacher in zip(own.student_ids, own.teacher_ids, strict=True):
                assert text_of(member.student_tokenizer, student) == text_of(member.teacher_tokenizer, teacher)


def test_no_teacher_begins_inside_a_token(data):
    """A window's teacher tokens are those that the whole document has there: cuts change no token."""
    for member in data.members.values():
        words = " ".join(SEA)
        assert member.teacher_tokenizer.decode(member.teacher_tokenizer(words).input_ids) == words
        for row, pieces in zip(member.train.teacher_ids, member.train.pieces, strict=True):
            text, pieces = text_of(member.teacher_tokenizer, row), pieces[pieces[:, 0] != PAD]
            if len(pieces) == 1 and not text.startswith(" ") and member.teacher_tokenizer.eos_token not in text:
                ids = member.teacher_tokenizer(text, add_special_tokens=False).input_ids
                assert row[row != PAD][1:].tolist()[: len(ids) - 2] == ids[:-2]


def test_with_one_teacher_the_windows_are_those_of_a_pair(data):
    member = data.members["sailor"]
    texts = [f"{' '.join(SEA[: 3 + number % 9])} {number}" for number in range(40)]
    pair = member.student_tokenizer, member.teacher_tokenizer, member.overlap
    expected, lost = pack_windows(texts, *pair, 24, 30)
    parts = list(pack_together(texts, [Reader("one", *pair, 30)], 24))
    assert sum(left_out for _, left_out in parts) == lost
    for name in ("student_ids", "teacher_ids", "teacher_positions", "same_token", "num_bytes"):
        joined = [getattr(windows, name) for (windows,), _ in parts]
        assert np.array_equal(np.concatenate(joined), getattr(expected, name)), name


def test_a_document_of_which_a_tokenizer_leaves_nothing_is_refused(data, monkeypatch):
    member = data.members["farmer"]
    reader = Reader("farmer", member.student_tokenizer, member.teacher_tokenizer, member.overlap, 48)
    with pytest.raises(UserError, match=r"teachers\.members\.farmer: expected tokens for every document"):
        list(pack_together(["a text", "", "another"], [reader], 24))


def test_pieces_know_their_kind(data):
    kinds = kinds_of_pieces(data.train, data.kinds.train)
    seen = set()
    for row, of_row, pieces in zip(data.train.student_ids, kinds, data.train.pieces, strict=True):
        known = pieces[:, 0] != PAD
        assert (of_row[~known] == PAD).all()
        if known.sum() == 1:
            words = text_of(data.student_tokenizer, row).split()
            of_sea = sum(word in SEA for word in words)
            if len(words) > 4:
                assert (of_sea > len(words) / 2) == (of_row[0] == 1), words
                seen.add(int(of_row[0]))
    assert seen == {0, 1}


def test_documents_of_a_score_know_their_kind(data):
    windows = data.evaluation
    score = score_windows(make_llama(len(data.student_tokenizer)), windows, "student", 8)
    kinds = kinds_of_documents(windows, data.kinds.evaluation)
    assert len(kinds) == len(score.document_nats)
    sea = score.document_bytes[kinds == 1].sum()
    assert abs(sea - data.manifest["kinds"]["sea"]["evaluation_characters"]) < 5


def test_what_is_held_out_of_a_kind_does_not_depend_on_the_others(place, tmp_path):
    sources = write_kinds(tmp_path)
    config = config_from_values({"data": {"sources": sources}}).data
    corpora = load_corpora(config, place / "cache")
    parts = [corpus.documents for corpus in corpora.values()]
    both = split_kinds(MixedDocuments.shuffled(parts, 0), 0.2, seed=3)
    alone = split_kinds(MixedDocuments.shuffled(parts[1:], 0), 0.2, seed=3)
    for whole, part in zip(both, alone, strict=True):
        assert list(whole.select(whole.kinds == 1)) == list(part)
    assert set(both[0]).isdisjoint(both[1])


def test_a_built_teacher_never_reads_what_is_held_out(place, data):
    for member, kind in (("farmer", "land"), ("sailor", "sea")):
        own = text_of_teacher(committee_config(place).view(member))
        assert list(own.data.sources) == [kind] and not own.teachers.members
        folder = build_data(own, place / "cache")
        assert folder.name == identify_text_of_teacher(committee_config(place).view(member), data.members[member])
        read = hold_out(own.data, join_corpora(load_corpora(own.data, place / "cache")), None, own.seed).train
        assert len(read) == data.manifest["kinds"][kind]["train_documents"]
        assert set(read).isdisjoint(data.manifest["openings"])


def test_mixed_documents_are_a_sequence(place, tmp_path):
    sources = write_kinds(tmp_path)
    corpora = load_corpora(config_from_values({"data": {"sources": sources}}).data, place / "cache")
    parts = [corpus.documents for corpus in corpora.values()]
    mixed = MixedDocuments.shuffled(parts, 1)
    texts = list(mixed)
    assert sorted(texts) == sorted([*parts[0], *parts[1]])
    assert [mixed[number] for number in range(len(mixed))] == texts == mixed[:]
    assert mixed.num_characters.tolist() == [len(text) for text in texts]
    assert list(mixed.select(np.array([3, 1]))) == [texts[3], texts[1]]
    assert mixed == texts and len(set(mixed.kinds[:20].tolist())) == 2


def test_two_kinds_of_the_same_text_are_refused(place, tmp_path):
    path = write_kinds(tmp_path)["land"]
    config = config_from_values({"data": {"sources": {"one": path, "two": path}}}).data
    with pytest.raises(UserError, match="other text for every kind, got the same for 'one' and 'two'"):
        load_corpora(config, place / "cache")


def test_the_student_may_share_a_tokenizer_with_one_of_its_teachers(place):
    build = {"tokenizer": "teacher"}
    data = make_data(committee_config(place, student={"build": build}), place)
    farmer, sailor = data.members.values()
    assert farmer.same_tokenizer and not sailor.same_tokenizer
    assert len(sailor.student_tokenizer) == len(farmer.teacher_tokenizer)
    assert replace(data, members={}).same_tokenizer
