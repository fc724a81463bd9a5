"""Every kind of problem: drawn at all its levels, proven, written in full, and read back from its own statement."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.problem import DOMAINS
from kdkit.maths.problems.all import TEMPLATES
from kdkit.maths.problems.audit.formulas import UnreadableError, dollars, read, split_relation
from kdkit.maths.problems.make import recognise
from kdkit.maths.problems.template import UnprovenStepError

each_template = pytest.mark.parametrize("template", [each() for each in TEMPLATES], ids=lambda each: each.name)
MAX_LENGTH = 900
"""Characters of a solution: small models learn them."""


def draw(template, level, seed):
    draws = random.Random(seed)
    return template.draw(draws, level), draws.randrange(len(template.wordings))


@each_template
@settings(max_examples=15)
@given(data=st.data())
def test_problems_of_all_levels_are_whole(template, data):
    level = data.draw(st.sampled_from(list(template.levels)))
    parameters, wording = draw(template, level, data.draw(st.integers(0, 10**6)))
    problem = template.build(parameters, level, wording)
    assert tuple(json.loads(json.dumps(parameters))) == parameters
    assert template.domain in DOMAINS and problem.template == template.name
    text = problem.problem + problem.solution
    assert "<<" not in text and ">>" not in text and "Fraction" not in text and "None" not in text
    assert text.count("$") % 2 == 0 and "--" not in text and "+ -" not in text
    assert problem.steps and problem.solution.endswith(rf"$\boxed{{{problem.answer}}}$")
    assert len(problem.solution) <= MAX_LENGTH


@each_template
def test_every_wording_is_recognised(template):
    for level in template.levels:
        for wording in range(len(template.wordings)):
            parameters, _ = draw(template, level, f"{level}/{wording}")
            problem = template.build(parameters, level, wording)
            found = recognise(problem.problem)
            assert found is not None, problem.problem
            assert (found.template, found.answer) == (problem.template, problem.answer)


@each_template
def test_formulas_can_be_read(template):
    """By the audit's reader, those apart that have an integral, a limit or a derivative written out."""
    for level in template.levels:
        problem = template.build(*draw(template, level, level)[:1], level)
        for formula in dollars(problem.solution):
            if not re.search(r"\\(boxed|int|oint|lim|sum|frac\{d|operatorname|det|text|infty|arg)|,|\\pm", formula):
                for side in split_relation(formula)[0]:
                    try:
                        read(side)
                    except UnreadableError as error:
                        pytest.fail(f"{formula}: {error}")


def test_a_false_step_stops_the_generator(monkeypatch):
    """A lookup mistake: less than becomes less than where the sign has to turn."""
    from kdkit.maths.problems.algebra import inequalities

    monkeypatch.setitem(inequalities.FLIPPED, "<", "<")
    with pytest.raises(UnprovenStepError, match="not true"):
        inequalities.LinearInequality().solve((-2, 0, "<", 0, 6, "x"))
