"""Whether an answer is right, in this process and without limits; `kdkit.maths.checking.pool` has them."""

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.boxes import find_answer
from kdkit.maths.checking.calculus import is_antiderivative, solves_equation
from kdkit.maths.checking.comparing import Comparison, guess_kind
from kdkit.maths.checking.equality import Formula
from kdkit.maths.checking.latex.units import mark_plain_unit
from kdkit.maths.checking.quick import compare_quickly
from kdkit.maths.checking.sets.families import are_same_families, cut_integers
from kdkit.maths.checking.shapes import Shape, Words, name_of, read_shape, read_words
from kdkit.maths.checking.verdicts import FAULTS, Verdict
from kdkit.maths.problem import AnswerKind

__all__ = ["Verdict", "check_answer", "find_answer"]

IN_ORDER = ("values", "set", "tuple", "matrix")
"""Kinds whose answers have commas of their own, so that 1,000 is no number in them."""


def check_answer(
    gold: str, answer: str, policies: PolicyConfig, kind: AnswerKind | None = None, against: str = ""
) -> Verdict:
    """Compare an answer with the gold one.

    Args:
        gold: LaTeX of the right answer.
        answer: LaTeX of the one to mark, as `find_answer` gives it.
        policies: when two answers count as the same.
        kind: of the answer; None: what the gold answer looks like.
        against: see `Problem.check_against`; of an `expression` what the problem gave, such as a product to expand:
            an answer that is no more than that again is wrong.

    Returns:
        UNREADABLE as well where the gold answer cannot be read, or does not solve what it is checked against.
    """
    if (quick := compare_quickly(gold, answer, policies, kind)) is not None:
        return quick
    try:
        units = [mark_plain_unit(text, letters=True) for text in (gold, answer)]
        if all("\\text" in text or "\\mathrm" in text for text in units):  # 10 m and 1000 cm
            gold, answer = units
        thousands = kind not in IN_ORDER
        (gold, letter), (answer, other) = cut_integers(gold), cut_integers(answer)
        ours = read_shape(gold, policies, thousands)
        if letter is not None and kind in (None, "values", "set", "expression"):
            same = are_same_families(ours, letter, read_shape(answer, policies, thousands), other)
            if same is not None:
                return Verdict.RIGHT if same else Verdict.WRONG
        words = read_words(answer, is_expected=True) if isinstance(ours, Words) else None
        theirs = words or read_shape(answer, policies, thousands)
        is_right = _are_same(ours, theirs, policies, kind, against)
    except FAULTS:
        return Verdict.UNREADABLE
    return Verdict.RIGHT if is_right else Verdict.WRONG


def _are_same(gold: Shape, answer: Shape, policies: PolicyConfig, kind: AnswerKind | None, against: str) -> bool:
    """Compare two answers that were read."""
    if kind == "expression" and against:
        given = read_shape(against, policies)
        if isinstance(given, Formula) and _is_again(given, answer) and not _is_again(given, gold):
            return False
    if kind == "antiderivative":
        return is_antiderivative(gold, answer, against, policies)
    if kind == "ode":
        return solves_equation(gold, answer, against, policies)
    return Comparison(policies, kind or guess_kind(gold), is_guessed=kind is None).are_same(gold, answer)


def _is_again(given: Formula, answer: Shape) -> bool:
    """Return whether an answer is what was given, up to the order of terms and factors."""
    _, answer = name_of(answer)
    return isinstance(answer, Formula) and answer.value == given.value
