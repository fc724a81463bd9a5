"""A teacher's predictions after each token of any text, and the text in both tokenizers."""

import json
import math

import pytest
import torch

from kdkit.alignment.tokenizers import start_token_id
from kdkit.errors import UserError
from kdkit.teachers.token_probe import MAX_TOKENS, TokenExplorer, probe_tokens
from tests.tiny import make_config, make_data, make_run, make_session, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "the quick brown fox jumps over a lazy dog"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A configuration, its data, a teacher, and a folder."""
    folder = tmp_path_factory.mktemp("tokens")
    config = make_config(folder)
    data = make_data(config, folder)
    return config, data, make_teacher(data), folder


@pytest.fixture(scope="module")
def explorer(prepared):
    return TokenExplorer(prepared[2], prepared[1])


@pytest.fixture(scope="module")
def expected(prepared):
    """Ids of the text and the probabilities after each token, by transformers alone."""
    _, data, teacher, _ = prepared
    ids = data.teacher_tokenizer(TEXT, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = teacher.model(input_ids=torch.tensor([[start_token_id(data.teacher_tokenizer), *ids]])).logits
    return ids, logits[0, 1:].double().softmax(dim=-1)


def text_of(tokens):
    """Return the text of tokens in hexadecimal."""
    return b"".join(map(bytes.fromhex, tokens)).decode()


def test_the_prediction_is_the_models_own(prepared, explorer, expected):
    (ids, shares), data = expected, prepared[1]
    shown = explorer.explore(TEXT, 2)
    best = shares[2].topk(10)
    assert text_of(shown["tokens"]) == TEXT and len(shown["tokens"]) == len(ids) and shown["position"] == 2
    assert [entry["probability"] for entry in shown["predictions"]] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert shown["entropy"] == pytest.approx([-sum(p * math.log2(p) for p in row) for row in shares.tolist()], abs=1e-4)
    following = shown["following"]
    assert text_of([following["token"]]) == data.teacher_tokenizer.decode([ids[3]])
    assert following["probability"] == pytest.approx(shares[2, ids[3]].item(), rel=1e-4)
    assert following["rank"] == (shares[2] > shares[2, ids[3]]).sum().item() + 1


def test_common_tokens_are_those_that_the_student_has_too(prepared, explorer, expected):
    data, shares = prepared[1], expected[1]
    student = {data.student_tokenizer.decode([i]) for i in range(len(data.student_tokenizer))}
    own = [i for i in range(len(data.teacher_tokenizer)) if i in data.overlap.teacher_ids]
    shown = explorer.explore(TEXT, 0)
    assert shown["on_common"] == pytest.approx(shares[:, own].sum(dim=-1).tolist(), rel=1e-4)
    whole = [e for e in shown["predictions"] if bytes.fromhex(e["token"]).isascii()]
    assert whole and all(e["is_common"] == (text_of([e["token"]]) in student) for e in whole)


@pytest.mark.parametrize("text", [TEXT, "na\u00efve \u65e5\u672c <|endoftext|> x", "\ud800 lone", "the"])
def test_the_spans_are_the_text_in_both_tokenizers(prepared, explorer, text):
    spans = explorer.explore(text)["spans"]
    whole = text.replace("\ud800", "\ufffd\ufffd\ufffd")
    for side in ("student", "teacher"):
        assert text_of([token for span in spans for token in span[side]]) == whole
    for span in spans:
        assert "".join(span["student"]) == "".join(span["teacher"])


def test_a_long_text_is_cut_and_its_end_has_nothing_after_it(explorer):
    shown = explorer.explore(f"{TEXT} " * 40, 10_000)
    assert len(shown["tokens"]) == MAX_TOKENS and shown["position"] == MAX_TOKENS - 1
    assert shown["following"] is None
    assert text_of([token for span in shown["spans"] for token in span["student"]]) == text_of(shown["tokens"])


def test_a_teachers_context_is_not_exceeded(prepared):
    data = prepared[1]
    teacher = make_teacher(data)
    teacher.context = 6
    assert len(TokenExplorer(teacher, data).explore(TEXT)["tokens"]) == 5


def test_no_text_is_refused(explorer):
    with pytest.raises(UserError, match="expected at least one token"):
        explorer.explore("")


def test_a_held_out_text_is_written_down(prepared):
    config, data, teacher, folder = prepared
    run = make_run(folder)
    explorer = probe_tokens(make_session(config, run), data, teacher)
    facts = json.loads((run.path / "teacher" / "tokens.json").read_text())
    assert set(facts["texts"]) <= set(data.manifest["openings"])
    assert facts["shown"] == explorer.explore(facts["texts"][0])
