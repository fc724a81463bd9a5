"""What all kinds of problems of calculus, complex analysis and differential equations have in common."""

import random

import pytest

from kdkit.maths.problems import calculus
from tests.maths.problems.relations import false_relations

TEMPLATES = [*calculus.TEMPLATES]
each_level = pytest.mark.parametrize(
    ("template", "level"),
    [pytest.param(each(), level, id=f"{each.name}-{level}") for each in TEMPLATES for level in each.levels],
)


def test_names_are_unique():
    names = [each.name for each in TEMPLATES]
    assert len(names) == len(set(names))


@each_level
def test_each_wording_is_read_back(template, level):
    draws = random.Random(level)
    for wording in range(len(template.wordings)):
        for _ in range(25):
            parameters = template.draw(draws, level)
            statement = template.build(parameters, level, wording).problem
            assert "<<" not in statement
            assert template.read(statement) == parameters, statement


@each_level
def test_relations_hold_for_an_independent_reader(template, level):
    draws = random.Random(level)
    for _ in range(2):
        problem = template.build(template.draw(draws, level), level)
        assert false_relations(problem) == [], problem.solution


@each_level
def test_steps_are_formulas_and_short(template, level):
    draws = random.Random(level)
    for _ in range(50):
        problem = template.build(template.draw(draws, level), level)
        assert all(step.count("$") % 2 == 0 for step in problem.steps)
        assert 1 <= len(problem.steps) <= 10
        assert len(problem.solution) < 900
