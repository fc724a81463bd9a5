"""The page with one problem of every kind is what the generators write; the verb lists their names."""

from pathlib import Path

import pytest

from kdkit import cli
from kdkit.maths.problems.all import TEMPLATES
from kdkit.maths.problems.describe import describe_problems

PAGE = Path(__file__).parents[3] / "docs" / "maths_problems.md"


def said_by(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code, *capsys.readouterr()


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == describe_problems(), "make it anew: the page says how"


def test_the_verb_lists_every_kind(capsys):
    code, said, _ = said_by(["problems"], capsys)
    assert code == 0
    assert all(f"  {template.name} " in said for template in TEMPLATES)


def test_the_verb_lists_one_domain(capsys):
    code, said, _ = said_by(["problems", "--domain", "linear_algebra"], capsys)
    listed = {line.split()[0] for line in said.splitlines() if line.startswith("  ")}
    assert code == 0 and listed == {each.name for each in TEMPLATES if each.domain == "linear_algebra"}


def test_an_unknown_domain_is_one_line(capsys):
    code, said, error = said_by(["problems", "--domain", "algbra"], capsys)
    assert (code, said) == (2, "")
    assert error.count("\n") == 1 and "did you mean algebra?" in error
