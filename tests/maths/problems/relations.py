"""An independent look at written steps: LaTeX read by latex2sympy, facts put in as text, numbers by sympy."""

import re
from functools import cache
from itertools import pairwise

import sympy
from latex2sympy2_extended import latex2sympy

FORMULA = re.compile(r"\$(.+?)\$")
AT = {
    "x": 0.83,
    "z": 0.44 + 0.3j,
    "y": 1.21,
    "t": 0.57,
    "u": 1.37,
    "n": 3,
    "r": 2.2,
    "c": 0.31,
    "c_1": 0.71,
    "c_2": -1.3,
}


TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.")


def put_facts(latex, facts, index):
    """Replace names by what they stand for, the longest first, each in brackets; a command is one token."""
    tokens, names = tokens_of(latex), sorted(facts, key=len, reverse=True)
    spelled, result, place = [tokens_of(name) for name in names], "", 0
    while place < len(tokens):
        found = [k for k, name in enumerate(spelled) if tokens[place : place + len(name)] == name]
        if found:
            values = facts[names[found[0]]]
            dot = r"\cdot " if result[-1:].isdigit() else ""  # latex2sympy reads 8(3) as a mixed number, 11
            result += f"{dot}({values[index % len(values)]})"
            place += len(spelled[found[0]])
        else:
            result += tokens[place] + (" " if tokens[place][0] == "\\" else "")
            place += 1
    return result


def sides_of(formula):
    """Part a formula at its equals signs, those in braces aside."""
    sides, depth = [""], 0
    for character in formula:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "=" and depth == 0:
            sides.append("")
        else:
            sides[-1] += character
    return sides


def tokens_of(latex):
    """Return commands and characters, without spaces."""
    return [token for token in TOKEN.findall(latex) if not token.isspace() and token != r"\,"]


def read(latex):
    """Return sympy's formula, worked out."""
    found = latex2sympy(latex)
    return found.doit() if hasattr(found, "doit") else found


@cache  # the middle of `a = b = c` stands in two equations
def number(latex):
    """Evaluate at one point."""
    formula = read(latex)
    values = {symbol: AT[symbol.name] for symbol in formula.free_symbols if symbol.name != "i"}
    values |= {symbol: sympy.I for symbol in formula.free_symbols if symbol.name == "i"}
    return complex(sympy.N(formula.subs(values)))


def is_true(left, right, facts):
    """Whether one of the facts makes both sides equal."""
    values = max((len(each) for each in facts.values()), default=1)
    for index in range(values):
        a, b = number(put_facts(left, facts, index)), number(put_facts(right, facts, index))
        if abs(a - b) <= 1e-7 * (1 + abs(a)):
            return True
    return False


def false_relations(problem):
    """Return the equations in the steps, as text, that are not true."""
    wrong = []
    for step in problem.steps:
        for formula in FORMULA.findall(step):
            wrong += [f"{a} = {b}" for a, b in pairwise(sides_of(formula)) if not is_true(a, b, problem.facts)]
    return wrong
