"""The steps of a solution, read anew: are their relations true where their names have their values?"""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, product

from kdkit.maths.problem import Problem
from kdkit.maths.problems.audit.formulas import (
    Names,
    UnreadableError,
    dollars,
    evaluate,
    holds,
    names_in,
    split_relation,
)
from kdkit.maths.problems.audit.operators import check_operator

FREE = (Fraction(7, 3), Fraction(11, 4), Fraction(5))
"""Values of names that stand for anything."""
WHOLE = (Fraction(2), Fraction(3), Fraction(6))
"""Values of n, which counts."""
MAX_CHOICES = 16
UNREAD = re.compile(r"\\(?:int|lim|sum|frac\{d\}|operatorname|det)")
"""What this reader leaves to others: integrals, limits and derivatives that are written out."""


def find_wrong_steps(problem: Problem) -> tuple[list[str], int]:
    """Return the steps that are not true, and how many had a relation that could be read."""
    wrong, num_read = [], 0
    for step in problem.steps:
        verdict = _check(step, problem.facts)
        num_read += verdict is not None
        if verdict is False:
            wrong.append(step)
    return wrong, num_read


def _check(step: str, facts: dict[str, tuple[str, ...]]) -> bool | None:
    """Return whether a step is true; None: it has no relation that can be read."""
    try:
        verdicts = [check_operator(formula) for formula in dollars(step)]
        verdicts.append(_check_relations(step, facts))
    except (UnreadableError, ValueError):
        return None
    found = [verdict for verdict in verdicts if verdict is not None]
    return all(found) if found else None


def _check_relations(step: str, facts: dict[str, tuple[str, ...]]) -> bool | None:
    """Return whether a step's relations between formulas without operators are true; None: there are none."""
    formulas = [_write_facts(formula, facts) for formula in dollars(step)]
    formulas = [formula for formula in formulas if split_relation(formula)[1] and not UNREAD.search(formula)]
    if not formulas:
        return None
    # a function named in the step is one for every x: what x solves does not matter there
    if any("(x)" in formula for formula in dollars(step)):
        facts = {name: values for name, values in facts.items() if name != "x"}
    for names in _choices(set().union(*map(names_in, formulas)), facts):
        verdicts = [holds(formula, names) for formula in formulas]
        if not (any(verdicts) if "$ or $" in step else all(verdicts)):
            return False
    return True


def _write_facts(formula: str, facts: dict[str, tuple[str, ...]]) -> str:
    """Write formulas and values in the places of their names; names of mere numbers stay."""
    written = {name: values[0] for name, values in facts.items() if names_in(values[0]) or names_in(name) != {name}}
    for name in sorted(written, key=len, reverse=True):
        if "\\" in name or "(" in name:
            formula = formula.replace(name, f"({written[name]})")
        else:
            # not within a command, and not where the name goes on
            parts = re.split(r"(\\[a-zA-Z]+)", formula)
            name_alone = re.compile(re.escape(name) + "(?!['_])")
            parts[::2] = [name_alone.sub(lambda _, name=name: f"({written[name]})", part) for part in parts[::2]]
            formula = "".join(parts)
    return formula


def _choices(names: set[str], facts: dict[str, tuple[str, ...]]) -> Iterator[Names]:
    """Yield values of the names: those of the facts, or free ones. Names with as many facts go together."""
    known = {name: [_number(value) for value in facts.get(name, ())] for name in sorted(names)}
    solved = {name: values for name, values in known.items() if values}
    free = {name: WHOLE if name in ("n", "k") else FREE for name, values in known.items() if not values}
    num_solutions = max(map(len, solved.values()), default=1)
    for i in range(num_solutions):
        solution = {name: values[i % len(values)] for name, values in solved.items()}
        for values in islice(product(*free.values()), MAX_CHOICES):
            yield {**solution, **dict(zip(free, values, strict=True))}


def _number(latex: str) -> object:
    """Return the value of a fact; the names in it are free."""
    names = names_in(latex)
    return evaluate(latex, dict.fromkeys(names, FREE[0]) if names else {})
