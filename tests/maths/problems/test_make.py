"""Sets of problems: the same for a seed, distinct, and disjoint in numbers and in kinds."""

from functools import cache

import pytest

from kdkit.config.language import load_config
from kdkit.config.maths.settings import ProblemsConfig
from kdkit.errors import UserError
from kdkit.maths.problems.all import TEMPLATES, find_templates
from kdkit.maths.problems.make import make_problems
from kdkit.maths.problems.template import is_held_out

EVERYTHING = ProblemsConfig(
    domains=sorted({template.domain for template in TEMPLATES}),
    levels=[1, 2, 3, 4, 5],
    num_problems=900,
    num_held_out=200,
    num_held_out_templates=60,
)


@cache
def sets_of(seed):
    return make_problems(EVERYTHING, seed)


@pytest.fixture(scope="module")
def sets():
    return sets_of(5)


def test_names_of_templates_are_unique():
    names = [template.name for template in TEMPLATES]
    assert len(names) == len(set(names))


def test_a_seed_decides_the_problems(sets):
    assert make_problems(EVERYTHING, seed=5) == sets
    other = sets_of(6)
    assert len({problem.id for problem in other.train} & {problem.id for problem in sets.train}) < len(sets.train) / 2


def test_no_statement_and_no_id_comes_twice(sets):
    problems = [*sets.train, *sets.held_out, *sets.held_out_templates]
    assert len(problems) == 1160
    assert len({problem.id for problem in problems}) == len({problem.problem for problem in problems}) == len(problems)


def test_numbers_are_held_out_whatever_the_seed(sets):
    train = {problem.id for seed in (5, 6, 7) for problem in sets_of(seed).train}
    assert train.isdisjoint(problem.id for problem in sets.held_out)


def test_kinds_that_ask_the_same_hold_out_the_same_numbers():
    """The equation alone decides, not how it is to be solved."""
    kinds = ["quadratic_with_rational_roots", "quadratic_by_formula", "quadratic_by_completing_the_square"]
    settings = ProblemsConfig(templates=kinds, held_out_templates=kinds[2:], levels=[1, 2, 3], num_problems=1500)
    sets = make_problems(settings, 0)
    equations = {problem.id.split(":")[1] for problem in sets.train}
    assert len(sets.held_out) > 100 and len(sets.held_out_templates) > 30
    assert equations.isdisjoint(problem.id.split(":")[1] for problem in [*sets.held_out, *sets.held_out_templates])


def test_kinds_are_held_out(sets):
    trained = {problem.template for problem in sets.train}
    judged = {problem.template for problem in sets.held_out_templates}
    assert trained.isdisjoint(judged)
    assert {problem.template for problem in sets.held_out} <= trained
    assert len(judged) == len(EVERYTHING.domains)


def test_about_a_tenth_of_the_numbers_is_held_out():
    numbers = [(a, b, 0, 0, "x") for a in range(1, 60) for b in range(60)]
    share = sum(is_held_out("linear_equation", each) for each in numbers) / len(numbers)
    assert 0.08 < share < 0.12


def test_kinds_and_levels_have_equal_shares(sets):
    counts = {}
    for problem in sets.train:
        counts[problem.template, problem.level] = counts.get((problem.template, problem.level), 0) + 1
    assert max(counts.values()) - min(counts.values()) <= 1


def test_levels_that_a_kind_lacks_are_left_out():
    settings = ProblemsConfig(domains=["algebra"], templates=["linear_system_3", "linear_equation"], levels=[1, 3])
    trained, _ = find_templates(settings.model_copy(update={"held_out_templates": []}))
    assert [template.name for template in trained] == ["linear_system_3", "linear_equation"]
    problems = make_problems(settings.model_copy(update={"held_out_templates": [], "num_problems": 30}), 0).train
    assert {(problem.template, problem.level) for problem in problems} == {
        ("linear_system_3", 3),
        ("linear_equation", 1),
        ("linear_equation", 3),
    }


def test_a_small_kind_makes_fewer_problems_and_says_so():
    settings = ProblemsConfig(
        templates=["lagrange_product"], held_out_templates=[], levels=[1], num_problems=500, num_held_out=100
    )
    sets = make_problems(settings, 0)
    assert 40 <= len(sets.train) < 60
    assert 1 <= len(sets.held_out) < 15
    assert sets.held_out_templates == []
    assert [note.split(":")[0] for note in sets.notes] == ["held_out", "train"]
    assert f"{len(sets.train)} problems of 500" in sets.notes[1]


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("templates", ["linear_equatoin"], "did you mean linear_equation?"),
        ("held_out_templates", ["determinant3"], "did you mean determinant_3?"),
    ],
)
def test_an_unknown_kind_is_refused_with_the_nearest(setting, value, said):
    with pytest.raises(UserError, match="expected a name") as error:
        make_problems(ProblemsConfig(**{setting: value}), 0)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert f"maths.problems.{setting}" in str(error.value)


def test_an_unknown_domain_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="algebra") as error:
        load_config("configs/demo.yaml", ["maths.problems.domains=[algbra]"])
    assert "\n" not in str(error.value) and "maths.problems.domains" in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        ProblemsConfig(templates=["linear_equation"], held_out_templates=["linear_equation"]),
        ProblemsConfig(templates=["inverse_3"], levels=[1]),
    ],
)
def test_nothing_to_train_on_is_refused(settings):
    with pytest.raises(UserError, match="to train on"):
        make_problems(settings, 0)


def test_a_lone_kind_is_trained_on():
    trained, judged = find_templates(ProblemsConfig(templates=["linear_equation"]))
    assert [template.name for template in trained] == ["linear_equation"] and judged == []
