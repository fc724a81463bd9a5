"""Scorers: known answers compared exactly, without what does not matter, as numbers; what a bad one is told."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from kdkit.config.language import config_from_values
from kdkit.errors import UserError
from kdkit.teachers.sampling.scorers import Candidate, final_number, identify_scorer, make_scorer, normalise, score


def candidate(answer: str, reference: str, logprob: float = math.nan) -> Candidate:
    return Candidate([{"role": "user", "content": "How many?"}], answer, reference, logprob)


@pytest.mark.parametrize(
    ("name", "answer", "reference", "expected"),
    [
        ("exact_match", " Paris\n", "Paris", 1.0),
        ("exact_match", "paris", "Paris", 0.0),
        ("normalised_match", "The  Paris!", "paris", 1.0),
        ("normalised_match", "Paris, France", "paris", 0.0),
        ("normalised_match", "théâtre", "the theatre", 0.0),
        ("numeric_match", "So 6 * 7 = 42.", "2 + 40\n#### 42", 1.0),
        ("numeric_match", "It is 1,234.50 dollars", "#### 1234.5", 1.0),
        ("numeric_match", "#### 41 of 42", "#### 42", 1.0),
        ("numeric_match", "minus -3", "3", 0.0),
        ("numeric_match", "no idea", "42", 0.0),
        ("numeric_match", "42", "no number here", 0.0),
    ],
)
def test_answers_are_compared_as_the_name_says(name, answer, reference, expected):
    assert make_scorer(name)(candidate(answer, reference)) == expected


def test_rouge_l_is_that_of_the_package():
    scorer = make_scorer("rouge_l")
    # the longest common subsequence has 3 of 4 and of 5 words: F1 is 2 * 3 / 9
    assert scorer(candidate("cats sat on mats today", "cats sat there mats")) == pytest.approx(6 / 9)
    assert scorer(candidate("other words", "cats sat")) == 0.0


WORDS = ("a", "b", "c", "running", "runs", "Cats", "cat's", "na\u00efve", "\u0130x", "1999", "_a")
TEXT = st.lists(st.sampled_from(WORDS)).map(" ".join)


@given(TEXT, TEXT)
@settings(max_examples=200)
def test_rouge_l_of_any_words_is_that_of_the_package(answer, reference):
    expected = RougeScorer(["rougeL"], use_stemmer=True).score(reference, answer)["rougeL"].fmeasure
    assert make_scorer("rouge_l")(candidate(answer, reference)) == expected


def test_rouge_l_of_real_answers_is_that_of_the_package(test_data):
    lines = (test_data / "instruction" / "dolly_dev.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    answers = [json.loads(line)["output"][:600] for line in lines]
    ours, theirs = make_scorer("rouge_l"), RougeScorer(["rougeL"], use_stemmer=True)
    pairs = [(answers[i - apart], answer) for apart in (0, 1, 7) for i, answer in enumerate(answers)]
    found = [ours(candidate(answer, reference)) for reference, answer in pairs]
    assert found == [theirs.score(reference, answer)["rougeL"].fmeasure for reference, answer in pairs]
    assert len(set(found)) > 100


def test_the_teachers_own_score_is_its_mean_log_probability():
    assert make_scorer("teacher_logprob")(candidate("a", "b", -1.25)) == -1.25


@pytest.mark.parametrize(
    ("text", "number"), [("1,000,000", 1e6), ("x = .5", 0.5), ("7.", 7.0), ("#### 3 #### 4", 4.0), ("none", None)]
)
def test_the_final_number_of_a_text(text, number):
    assert final_number(text) == number


def test_normalising_leaves_words_alone():
    assert normalise("A cat, the_hat & Theo") == "cat hat theo"


@pytest.fixture
def own_scorers(tmp_path, monkeypatch):
    """A module of the user's own with scorers, and the name that begins each."""
    (tmp_path / "my_scores.py").write_text(
        "def length(messages, answer, reference):\n    return len(answer) - len(reference) + len(messages)\n"
        "def breaks(messages, answer, reference):\n    raise KeyError('no such key')\n"
        "def nothing(messages, answer, reference):\n    return float('nan')\n"
        "def words(messages, answer, reference):\n    return 'good'\n"
        "NUMBER = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    return "python:my_scores.py:"


def test_a_scorer_of_the_users_own_gets_messages_answer_and_reference(own_scorers):
    assert score(make_scorer(own_scorers + "length"), candidate("four", "two"), "mine", 0) == (4 - 3 + 1, None)


@pytest.mark.parametrize(
    ("name", "what"),
    [("breaks", "got KeyError: 'no such key'"), ("nothing", "got nan"), ("words", "got ValueError: could not convert")],
)
def test_a_scorer_that_fails_is_named_with_the_prompt(own_scorers, name, what):
    name = own_scorers + name
    with pytest.raises(UserError) as caught:
        score(make_scorer(name), candidate("four", "two"), name, 17)
    message = str(caught.value)
    assert f"from {name!r} for prompt 17, {what}" in message and "'four'" in message and "\n" not in message


@pytest.mark.parametrize(("name", "what"), [("other", "no such name"), ("NUMBER", "got int")])
def test_what_cannot_be_called_is_refused(own_scorers, name, what):
    with pytest.raises(UserError, match=what):
        make_scorer(own_scorers + name)


def test_another_text_of_a_scorer_is_another_scorer(own_scorers, tmp_path):
    before = identify_scorer(own_scorers + "length")
    (tmp_path / "my_scores.py").open("a").write("# changed\n")
    assert identify_scorer(own_scorers + "length") != before
    assert identify_scorer("rouge_l") == "rouge_l"


def test_an_unknown_scorer_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"sampling\.scorer: expected teacher_logprob, rouge_l, .*got 'rouge'"):
        config_from_values({"sampling": {"scorer": "rouge"}})
