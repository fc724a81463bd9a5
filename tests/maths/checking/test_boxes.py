"""Where the answer of a solution stands."""

import pytest

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.boxes import find_answer

TWO = r"First \boxed{1}, then $\boxed{2}$."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So $\boxed{5}$.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed 5", "5"),
        (r"\boxed5", "5"),
        (r"\fbox{ x = 2 }", "x = 2"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        ("She has 72.\n#### 72", "72"),
        ("#### 1,000 \nrest", "1,000"),
        (r"\boxed{7} #### 8", "7"),
        (TWO, "2"),
        ("no box", None),
        ("", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{\frac{1}{2}", None),
        ("####", None),
    ],
)
def test_the_answer_is_in_the_last_box_or_behind_the_hashes(text, answer):
    assert find_answer(text, PolicyConfig()) == answer


@pytest.mark.parametrize(
    ("policy", "text", "answer"),
    [
        ("last", TWO, "2"),
        ("first", TWO, "1"),
        ("agree", TWO, None),
        ("agree", r"\boxed{x = 2} and \boxed{x=2}", "x=2"),
        ("agree", r"\boxed{2}", "2"),
        ("refuse", TWO, None),
        ("refuse", r"\boxed{2}", "2"),
    ],
)
def test_two_boxes_are_a_policy(policy, text, answer):
    assert find_answer(text, PolicyConfig(several_boxes=policy)) == answer
