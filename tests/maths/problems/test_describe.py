"""The page with one problem of every kind is what the generators write."""

from pathlib import Path

from kdkit.maths.problems.describe import describe_problems

PAGE = Path(__file__).parents[3] / "docs" / "maths_problems.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == describe_problems(), "make it anew: the page says how"
