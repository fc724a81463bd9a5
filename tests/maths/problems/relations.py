"""An independent look at written steps: LaTeX read by latex2sympy, facts put in as text, numbers by sympy."""

import re
from itertools import pairwise

import sympy
from latex2sympy2_extended import latex2sympy

FORMULA = re.compile(r"\$(.+?)\$")
SIDES = re.compile(r"\s*=\s*(?![^_]*\})")
AT = {"x": 0.83, "y": 1.21, "t": 0.57, "u": 1.37, "n": 3, "r": 2.2, "c": 0.31, "c_1": 0.71, "c_2": -1.3}


def put_facts(latex, facts, index):
    """Replace names by what they stand for, the longest first, each in brackets."""
    names = sorted(facts, key=len, reverse=True)
    for k, name in enumerate(names):
        left, right = (
            (re.escape(name), "(?![A-Za-z'_({^])") if re.fullmatch(r"[A-Za-z]", name) else (re.escape(name), "")
        )
        start = r"(?<![\\A-Za-z])" if name[0].isalpha() else ""
        latex = re.sub(start + left + right, lambda _, k=k: f"@{k}@", latex)
    for k, name in enumerate(names):
        values = facts[name]
        latex = latex.replace(f"@{k}@", f"({values[index % len(values)]})")
    return latex


def read(latex):
    """Return sympy's formula, worked out."""
    found = latex2sympy(latex)
    return found.doit() if hasattr(found, "doit") else found


def number(formula):
    """Evaluate at one point."""
    values = {symbol: AT[symbol.name] for symbol in formula.free_symbols if symbol.name != "i"}
    values |= {symbol: sympy.I for symbol in formula.free_symbols if symbol.name == "i"}
    return complex(sympy.N(formula.subs(values)))


def is_true(left, right, facts):
    """Whether one of the facts makes both sides equal."""
    values = max((len(each) for each in facts.values()), default=1)
    for index in range(values):
        a, b = number(read(put_facts(left, facts, index))), number(read(put_facts(right, facts, index)))
        if abs(a - b) <= 1e-7 * (1 + abs(a)):
            return True
    return False


def false_relations(problem):
    """Return the equations in the steps, as text, that are not true."""
    wrong = []
    for step in problem.steps:
        for formula in FORMULA.findall(step):
            sides = SIDES.split(formula)
            wrong += [f"{a} = {b}" for a, b in pairwise(sides) if not is_true(a, b, problem.facts)]
    return wrong
