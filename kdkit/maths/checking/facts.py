"""What the names in the steps of a solution stand for: functions, definitions, matrices, and unknowns with values."""

from dataclasses import dataclass, field
from itertools import product

import sympy
from sympy import Basic, MatrixBase, Symbol
from sympy.core.function import AppliedUndef

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.calculus import DERIVATIVE
from kdkit.maths.checking.latex.analysis import read_formula
from kdkit.maths.checking.latex.tokens import UnreadableError, tokenise

DEEPEST = 4
"""Definitions within definitions."""


@dataclass
class Facts:
    """Names and what they stand for."""

    policies: PolicyConfig
    matrices: dict[str, list[str]] = field(default_factory=dict)
    """Tokens of a name, joined, to tokens of a matrix in brackets."""
    functions: dict[str, tuple[tuple[Symbol, ...], Basic]] = field(default_factory=dict)
    """Name without primes, to its letters and its formula: f to (x, x^2)."""
    definitions: dict[Symbol, Basic] = field(default_factory=dict)
    """A letter to a formula with letters: u to x + 1."""
    values: dict[Basic, tuple[Basic, ...]] = field(default_factory=dict)
    """An unknown, or a function at a point, to numbers."""

    @classmethod
    def read(cls, facts: dict[str, tuple[str, ...]], policies: PolicyConfig) -> "Facts":
        """Read `Problem.facts`; what cannot be read is left out."""
        found = cls(policies)
        for name, values in facts.items():
            try:
                found.add(name, values)
            except UnreadableError:
                continue
        return found

    def add(self, name: str, values: tuple[str, ...]) -> None:
        """Note one name and its values, LaTeX to LaTeX.

        Raises:
            UnreadableError: one of them is no formula.
        """
        tokens = tokenise(name, self.policies)
        read = [read_formula(tokenise(value, self.policies), self.policies)[0] for value in values]
        if any(isinstance(value, MatrixBase) for value in read):
            if len(tokens) == 1:
                self.matrices[tokens[0]] = ["(", *tokenise(values[0], self.policies), ")"]
            return
        if len(tokens) > 1 and tokens[0] in ("\\det", "\\int"):
            return  # computed from the matrix, or proven by differentiation
        self.note(read_formula(tokens, self.policies)[0], read)

    def note(self, key: Basic, values: list[Basic]) -> None:
        """Note what a name that was read stands for."""
        has_letters = any(value.free_symbols for value in values)
        if isinstance(key, AppliedUndef) and has_letters and all(isinstance(each, Symbol) for each in key.args):
            self.functions[key.func.__name__] = (key.args, values[0])
        elif isinstance(key, Symbol) and has_letters:
            self.definitions[key] = values[0]
        elif isinstance(key, Symbol | AppliedUndef):
            self.values[key] = tuple(values)

    def knows(self, key: Basic) -> bool:
        """Return whether a name stands for a formula."""
        if isinstance(key, AppliedUndef):
            return self._find_function(key) is not None or key in self.values
        return isinstance(key, Symbol) and self._define(key) is not None

    def replace_matrices(self, tokens: list[str]) -> list[str]:
        """Put matrices in the place of their names."""
        return [part for token in tokens for part in self.matrices.get(token, [token])]

    def resolve(self, formula: Basic, depth: int = 0) -> Basic:
        """Put formulas in the place of functions and definitions; unknowns stay."""
        if depth > DEEPEST or isinstance(formula, MatrixBase):
            return formula
        places: dict[Basic, Basic] = {}
        for each in formula.atoms(AppliedUndef):
            if (found := self._find_function(each)) is not None:
                letters, value = found
                places[each] = value.subs(dict(zip(letters, each.args, strict=True)), simultaneous=True)
        for symbol in formula.free_symbols:
            if (found := self._define(symbol)) is not None:
                places[symbol] = found
        if not places:
            return formula
        return self.resolve(formula.xreplace(places), depth + 1)

    def _find_function(self, applied: AppliedUndef) -> tuple[tuple[Symbol, ...], Basic] | None:
        """Return letters and formula of a function, differentiated as often as it has primes."""
        name = applied.func.__name__
        base = name.rstrip("'")
        for known, primes in ((base, len(name) - len(base)), (name, 0)):
            if known in self.functions and len(self.functions[known][0]) == len(applied.args):
                letters, value = self.functions[known]
                if primes and len(letters) > 1:
                    continue
                return letters, sympy.diff(value, letters[0], primes) if primes else value
        return None

    def _define(self, symbol: Symbol) -> Basic | None:
        """Return the formula of a letter, or of its derivative."""
        if symbol in self.definitions:
            return self.definitions[symbol]
        base = symbol.name.rstrip("'")
        order, variable = len(symbol.name) - len(base), None
        if match := DERIVATIVE.fullmatch(symbol.name):
            base, order, variable = match["head"], int(match["order"] or 1), match["variable"]
        value = self.definitions.get(Symbol(base))
        if value is None and base in self.functions and order:
            value = self.functions[base][1]
        if value is None or not order:
            return None
        letters = sorted(value.free_symbols - set(self.values), key=lambda each: each.name)
        if variable is None and len(letters) != 1:
            return None
        return sympy.diff(value, Symbol(variable) if variable else letters[0], order)

    def assignments(self, formulas: list[Basic]) -> list[dict[Basic, Basic]]:
        """List the ways to give unknowns their values; several unknowns with as many values each go together."""
        present = set().union(*(each.free_symbols | each.atoms(AppliedUndef) for each in formulas))
        known = [key for key in self.values if key in present]
        several = [key for key in known if len(self.values[key]) > 1]
        if len({len(self.values[key]) for key in several}) == 1:
            count = len(self.values[several[0]])
            return [{key: self.values[key][place if key in several else 0] for key in known} for place in range(count)]
        return [dict(zip(known, each, strict=True)) for each in product(*(self.values[key] for key in known))]
