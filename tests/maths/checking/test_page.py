"""The page on the checker is what the cases say."""

import json
from pathlib import Path

from docs.make_maths_checker import make_page
from tests.maths.checking.case_table import OTHER_VERDICTS, read_cases

PAGE = Path(__file__).parents[3] / "docs" / "maths_checker.md"


def test_the_page_is_made_of_the_cases():
    assert PAGE.read_text(encoding="utf-8") == make_page(), "python -m docs.make_maths_checker"


def test_math_verify_was_asked_about_every_case():
    rows = json.loads(OTHER_VERDICTS.read_text(encoding="utf-8"))
    assert [(row["gold"], row["answer"]) for row in rows] == [(case.gold, case.answer) for case in read_cases()]
