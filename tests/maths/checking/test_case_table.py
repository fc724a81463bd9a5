"""What we say of every case; what math-verify says stands beside it in docs/maths_checker.md."""

import pytest

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.answers import check_answer
from tests.maths.checking.case_table import read_cases

CASES = read_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.source}: {case.gold} | {case.answer}"[:80])
def test_the_verdict_is_a_careful_markers(case):
    assert check_answer(case.gold, case.answer, case.policies, case.kind, case.against) == case.verdict


def test_there_are_at_least_400_cases_and_no_two_alike():
    keys = [(case.gold, case.answer, case.kind, case.against, str(case.settings)) for case in CASES]
    assert len(keys) >= 400
    assert len(set(keys)) == len(keys)


def test_every_policy_has_a_case_that_its_default_would_decide_otherwise():
    turned = set()
    for case in CASES:
        if (
            case.settings
            and check_answer(case.gold, case.answer, PolicyConfig(), case.kind, case.against) != case.verdict
        ):
            turned |= set(case.settings)
    by_boxes = {"several_boxes"}  # tested in test_boxes.py
    assert turned | by_boxes == set(PolicyConfig.model_fields)


@pytest.mark.parametrize("case", [each for each in CASES if each.verdict == "right"], ids=lambda case: case.gold[:60])
def test_gold_answers_are_right_for_themselves(case):
    if case.source != "policies":
        assert check_answer(case.gold, case.gold, case.policies, case.kind, case.against) == "right"
