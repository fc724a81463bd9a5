"""A student's embeddings and head start from the teacher's: neighbours stay neighbours, the rest stays as it was."""

import copy

import pytest
import torch

from kdkit.alignment.tokenizers import end_token_id, token_bytes
from kdkit.distill.student import make_student
from kdkit.models.from_teacher.embeddings import change_vocabulary, spell_tokens, start_from_teacher
from tests.pruned import IDS, make_model
from tests.tiny import make_config


@pytest.fixture
def start_config(tmp_path):
    return make_config(tmp_path, student={"build": {"hidden_size": 16, "num_layers": 1, "intermediate_size": 32}})


@pytest.fixture(scope="module")
def pair(crossed):
    """A teacher whose rows are drawn, and its data: two tokenizers."""
    data, _ = crossed
    generator = torch.Generator().manual_seed(0)
    size = len(data.teacher_tokenizer)
    return data, torch.randn(size, 48, generator=generator), torch.randn(size, 48, generator=generator)


def start(pair, config, seed=0):
    data, embeddings, head = pair
    before = make_student(config, data)
    after = copy.deepcopy(before)
    count = start_from_teacher(after, embeddings, head, data.student_tokenizer, data.teacher_tokenizer, seed)
    return before, after, count


def test_a_token_is_spelled_with_the_teachers_longest_pieces(pair):
    data, *_ = pair
    student, teacher = token_bytes(data.student_tokenizer), token_bytes(data.teacher_tokenizer)
    spelled = spell_tokens(data.student_tokenizer, data.teacher_tokenizer)
    assert len(spelled) == len(student)
    for piece, ids in zip(student, spelled, strict=True):
        assert b"".join(teacher[token] for token in ids) == (piece or b"") or not ids
        if piece in teacher and piece:
            assert [teacher[token] for token in ids] == [piece]
    assert sum(map(bool, spelled)) > 0.9 * len(student)


def test_similar_tokens_of_the_teacher_are_similar_in_the_student(pair, start_config):
    """Width 48 goes into 16: with rows of rank 16 nothing is lost, so cosines of centred rows stay to the digit."""
    data, embeddings, _ = pair
    low = embeddings[:, :16] @ torch.linalg.qr(torch.randn(48, 16, generator=torch.Generator().manual_seed(1)))[0].T
    _, after, _ = start((data, low, low), start_config)
    spelled = spell_tokens(data.student_tokenizer, data.teacher_tokenizer)
    known = [token for token, ids in enumerate(spelled) if ids]
    means = torch.stack([low[spelled[token]].mean(dim=0) for token in known])
    got = after.get_input_embeddings().weight.detach()[known]
    expected = torch.nn.functional.normalize(means - means.mean(dim=0), dim=1)
    got = torch.nn.functional.normalize(got, dim=1)
    assert torch.allclose(got @ got.T, expected @ expected.T, atol=1e-4)


def test_the_head_of_a_token_is_that_of_the_first_piece(pair, start_config):
    data, *_ = pair
    _, after, _ = start(pair, start_config)
    spelled = spell_tokens(data.student_tokenizer, data.teacher_tokenizer)
    table = after.get_output_embeddings().weight.detach()
    firsts: dict[int, list[int]] = {}
    for token, ids in enumerate(spelled):
        if ids:
            firsts.setdefault(ids[0], []).append(token)
    shared = [tokens for tokens in firsts.values() if len(tokens) > 1]
    assert shared
    for first, *others in shared:
        assert torch.equal(table[[first] * len(others)], table[others])


def test_spread_and_special_tokens_stay(pair, start_config):
    data, *_ = pair
    before, after, count = start(pair, start_config)
    unknown = [token for token, piece in enumerate(token_bytes(data.student_tokenizer)) if piece is None]
    assert unknown and count <= len(data.student_tokenizer) - len(unknown)
    for name in ("get_input_embeddings", "get_output_embeddings"):
        old, new = (getattr(model, name)().weight.detach() for model in (before, after))
        assert torch.equal(old[unknown], new[unknown])
        assert new.std().item() == pytest.approx(old.std().item(), rel=0.05)
        assert not torch.equal(old, new)
    body = {name: value for name, value in before.state_dict().items() if "layers" in name}
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in body.items())


def test_a_seed_gives_one_start(pair, start_config):
    first, second, other = (start(pair, start_config, seed)[1].get_input_embeddings().weight for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_a_student_wider_than_the_teacher_is_started_too(pair, start_config):
    data, embeddings, head = pair
    _, after, count = start((data, embeddings[:, :8], head[:, :8]), start_config)
    assert count and after.get_input_embeddings().weight.isfinite().all()


@pytest.mark.parametrize("tied", [False, True])
def test_a_changed_vocabulary_has_the_rows_of_what_spells_its_tokens(pair, tied):
    data, *_ = pair
    student, teacher = data.student_tokenizer, data.teacher_tokenizer
    model = make_model(vocab_size=len(teacher), tie_word_embeddings=tied)
    inputs, head = (table().weight.clone() for table in (model.get_input_embeddings, model.get_output_embeddings))
    body = {name: value.clone() for name, value in model.state_dict().items() if "layers" in name}
    count = change_vocabulary(model, student, teacher)
    spelled = spell_tokens(student, teacher)
    rows, heads = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert model.config.vocab_size == len(rows) == len(heads) == len(student)
    for token, ids in enumerate(spelled):
        if ids:
            assert torch.allclose(rows[token], inputs[ids].mean(dim=0), atol=1e-6)
            assert tied or torch.equal(heads[token], head[ids[0]])
    ours, theirs = end_token_id(student), end_token_id(teacher)
    assert torch.equal(rows[ours], inputs[theirs]) and model.config.eos_token_id == ours
    assert count == sum(map(bool, spelled)) + (not spelled[ours])
    assert (rows is heads) == tied
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in body.items())


def test_the_teachers_own_vocabulary_changes_no_logit(pair):
    data, *_ = pair
    model = make_model(vocab_size=len(data.teacher_tokenizer))
    before = model(input_ids=IDS).logits
    change_vocabulary(model, data.teacher_tokenizer, data.teacher_tokenizer)
    assert torch.allclose(model(input_ids=IDS).logits, before, atol=1e-5)
