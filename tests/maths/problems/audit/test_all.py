"""The audit passes what is right, and catches wrong answers, wrong steps and mistakes put into the generators."""

import dataclasses
import random
import re
from functools import cache

import pytest

from kdkit.maths.problems.algebra import induction, inequalities, linear_equations
from kdkit.maths.problems.all import TEMPLATES
from kdkit.maths.problems.audit.all import CHECKS, audit
from kdkit.maths.problems.linear_algebra import determinants
from kdkit.maths.problems.optimisation import one_variable

each_template = pytest.mark.parametrize("template", [each() for each in TEMPLATES], ids=lambda each: each.name)


def problems_of(template, count=4):
    for level in template.levels:
        for seed in range(count):
            draws = random.Random(f"audit/{level}/{seed}")
            yield template.build(template.draw(draws, level), level, seed)


@cache
def audits_of(name):
    """Return the problems of a kind, each with its audit."""
    template = next(each() for each in TEMPLATES if each.name == name)
    return [(problem, audit(problem)) for problem in problems_of(template)]


def spoil(answer, draws):
    """Return an answer with one number or word changed."""
    words = {"yes": "no", "no": "yes", "minimum": "maximum", "maximum": "saddle point", "saddle point": "minimum"}
    said = re.fullmatch(r"\\text\{(.*)\}", answer)
    if said:
        return rf"\text{{{words[said[1]]}}}"
    places = list(re.finditer(r"(?<![{^\d])\d+(?!\d)|(?<=\{)\d+(?=\})", answer))
    if not places:
        return f"{answer} + 1"
    place = draws.choice(places)
    return answer[: place.start()] + str(int(place[0]) + draws.randint(1, 3)) + answer[place.end() :]


def test_each_kind_of_problem_has_its_check():
    assert {template.name for template in TEMPLATES} <= set(CHECKS)


@each_template
def test_problems_of_all_levels_pass(template):
    faults = [fault for _, found in audits_of(template.name) for fault in found.faults]
    assert faults == []


@each_template
def test_wrong_answers_are_caught(template):
    draws, passed = random.Random(0), []
    for problem, _ in audits_of(template.name):
        wrong = dataclasses.replace(problem, answer=spoil(problem.answer, draws), steps=())
        if not audit(wrong).faults:
            passed.append((problem.problem, wrong.answer))
    assert passed == []


@each_template
def test_most_steps_are_read(template):
    """Words alone cannot be."""
    audits = audits_of(template.name)
    assert sum(found.num_steps_read for _, found in audits) >= 0.45 * sum(len(problem.steps) for problem, _ in audits)


def test_a_wrong_step_is_caught():
    problem = linear_equations.LinearEquation().build((3, 5, 0, 11, "x"), 2)
    assert problem.steps[0] == "Subtract $5$ from both sides: $3x = 6$."
    wrong = dataclasses.replace(problem, steps=("Subtract $5$ from both sides: $3x = 7$.", *problem.steps[1:]))
    assert audit(wrong).faults == (f"{problem.id}: a step is not true: {wrong.steps[0]}",)


def test_a_solution_that_is_left_out_is_caught():
    template = next(each() for each in TEMPLATES if each.name == "quadratic_with_rational_roots")
    problem = template.build((1, -5, 6, 0, 0, 0, "x"), 1)
    assert audit(problem).faults == ()
    assert audit(dataclasses.replace(problem, answer="2", steps=())).faults


@pytest.mark.parametrize(
    ("module", "name", "wrong", "template"),
    [
        (
            inequalities,
            "FLIPPED",
            {"<": "<", r"\leq": r"\leq", ">": ">", r"\geq": r"\geq"},
            inequalities.LinearInequality,
        ),
        (induction, "POWER_SUMS", ([1, 0], [1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0, 0]), induction.InductionSum),
        (
            determinants,
            "determinant",
            lambda rows: rows[0][0] * rows[1][1] + rows[0][1] * rows[1][0],
            determinants.Determinant2,
        ),
        (one_variable, "value_at", lambda coefficients, x: sum(coefficients), one_variable.QuadraticExtremum),
    ],
    ids=["signs", "sums of powers", "determinant", "value"],
)
def test_a_mistake_put_into_a_generator_is_caught(monkeypatch, module, name, wrong, template):
    """With the generators' own proofs switched off, so that the mistake comes through."""
    monkeypatch.setattr(module, "proven", lambda step, *claims: step)
    monkeypatch.setattr(module, name, wrong)
    problems = list(problems_of(template(), count=6))
    caught = [problem for problem in problems if any("does not answer" in fault for fault in audit(problem).faults)]
    assert len(caught) > len(problems) / 4
