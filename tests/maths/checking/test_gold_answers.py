"""Every gold answer of real files can be read, is right for itself, and wrong with another constant."""

import json
import random
import re

import pytest

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.answers import check_answer
from tests.maths.checking.made_answers import spoil_formula, spoil_number

FILES = {"gsm8k_train": 7473, "minerva_math": 272}


@pytest.fixture(scope="module", params=FILES)
def golds(request, test_data):
    text = (test_data / "maths" / f"{request.param}.jsonl").read_text(encoding="utf-8")
    found = [
        json.loads(line)["answer"] for line in text.rstrip("\n").split("\n")
    ]  # of lines, not of other breaks in the text
    assert len(found) == FILES[request.param]
    return found


def spoil(gold, draws):
    """Change a constant: of a number a digit, of an equation its right side, of a list its last entry."""
    if number := re.fullmatch(r"([-+]?\d+(?:\.\d+)?)(e[-+]?\d+)?", gold):
        return spoil_number(number[1], draws) + (number[2] or "")
    head, mark, tail = gold.rpartition("=") if "=" in gold else gold.rpartition(",")
    return f"{head}{mark}{spoil_formula(tail.strip(), draws)}"


def test_each_is_right_for_itself(golds):
    policies = PolicyConfig()
    assert [gold for gold in golds if check_answer(gold, gold, policies) != "right"] == []


def test_each_is_wrong_with_another_constant(golds):
    policies, draws = PolicyConfig(), random.Random(0)
    pairs = [(gold, spoil(gold, draws)) for gold in golds]
    assert [(gold, answer) for gold, answer in pairs if check_answer(gold, answer, policies) != "wrong"] == []
