r"""Rows of problem files: our own form and those of GSM8K and MATH, and what is wrong with others."""

import re
from typing import Any, Literal, get_args

from kdkit.config.maths.settings import PolicyConfig
from kdkit.errors import UserError
from kdkit.maths.checking.boxes import find_answer
from kdkit.maths.problem import BOX, AnswerKind, Problem

MARK = "####"
"""Stands before the answer in GSM8K."""
STATEMENTS, DOMAIN_COLUMNS = ("problem", "question"), ("domain", "type", "subject")
"""Columns with the statement, and with what a file calls the field; the first that is there counts."""
OTHERS = ("question", "solution", "type", "subject")
"""Columns that are read beside the fields of a problem."""
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_LEVEL = re.compile(r"(?:Level )?([1-5])")


Fault = Literal["no answer", "empty answer", "no problem", "wrong columns", "two answers", "wrong level"]


class BadProblemError(UserError):
    """A row that is no problem with an answer."""

    def __init__(self, fault: Fault, where: str, expected: str, got: str):
        super().__init__(
            f"{where}: expected {expected}, got {got}; correct the row, or leave such rows out with data.bad_rows=skip"
        )
        self.fault = fault


def read_row(row: dict[str, Any], where: str, line: int, policies: PolicyConfig) -> tuple[Problem, str | None]:
    """Make a problem of a row.

    Args:
        where: names the row in messages.
        line: its number, which is the id of a row without one.
        policies: say which of several boxes holds the answer.

    Returns:
        The problem, and the answer in the solution's box where another one is given beside it.

    Raises:
        BadProblemError: it is no problem with an answer.
    """
    name = next((each for each in STATEMENTS if each in row), None)
    if name is None or not {"answer", "solution"} & row.keys():
        raise BadProblemError("wrong columns", where, "problem and answer (or solution)", ", ".join(row) or "nothing")
    statement = _text(row, name, where)
    if not statement.strip():
        raise BadProblemError("no problem", where, "the text of a problem", "an empty one")
    given, solution = row.get("answer"), _text(row, "solution", where)
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = repr(given)
    if isinstance(given, str) and MARK in given:
        solution, _, given = given.rpartition(MARK)
    boxed = find_answer(solution, policies) if BOX in solution else None
    answer = boxed if given is None else _text({"answer": given}, "answer", where)
    if answer is None:
        raise BadProblemError("no answer", where, rf"an answer, or a solution with {BOX}{{}}", "neither")
    if not answer.strip():
        raise BadProblemError("empty answer", where, "an answer", "an empty one")
    answer = answer.strip().removeprefix("$").removesuffix("$").strip()
    problem = Problem(
        id=str(row.get("id") or line),
        problem=statement.strip(),
        answer=answer,
        steps=_texts(row["steps"], "a list of text in 'steps'", where) if "steps" in row else _steps(solution),
        domain=next((str(row[each]) for each in DOMAIN_COLUMNS if row.get(each)), None),
        template=row.get("template"),
        level=_level(row.get("level"), where),
        answer_kind=_kind(row.get("answer_kind", "expression"), where),
        check_against=row.get("check_against", ""),
        facts=_facts(row.get("facts", {}), where),
    )
    return problem, boxed if given is not None else None


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadProblemError("wrong columns", where, f"text in {name!r}", f"{str(value)[:60]!r}")
    return value


def _texts(value: Any, expected: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadProblemError("wrong columns", where, expected, f"{str(value)[:60]!r}")
    return tuple(value)


def _facts(value: Any, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise BadProblemError("wrong columns", where, "names and their values in 'facts'", f"{str(value)[:60]!r}")
    return {name: _texts(values, "lists of text in 'facts'", where) for name, values in value.items()}


def _level(value: Any, where: str) -> int | None:
    """Read 3, `3` and MATH's `Level 3`; its `Level ?` is none."""
    if value is None or value == "Level ?":
        return None
    if not (found := _LEVEL.fullmatch(str(value))):
        raise BadProblemError("wrong level", where, "a level from 1 to 5", repr(value))
    return int(found[1])


def _kind(value: Any, where: str) -> AnswerKind:
    if value not in get_args(AnswerKind):
        raise BadProblemError("wrong columns", where, f"answer_kind {', '.join(get_args(AnswerKind))}", repr(value))
    return value


def _steps(solution: str) -> tuple[str, ...]:
    """Return the lines of a solution that say something beside the final answer."""
    lines = [line.strip() for line in _CALCULATOR.sub("", solution).split("\n")]
    return tuple(open_boxes(line) for line in lines if line and not _is_box_alone(line))


def _is_box_alone(line: str) -> bool:
    bare = line.strip("$. ")
    return bare.startswith(BOX) and open_boxes(bare) == bare[len(BOX) + 1 : -1]


def open_boxes(text: str) -> str:
    r"""Write the content of every `\boxed{...}` in place of the box; one that does not end stays."""
    parts: list[str] = []
    while (start := text.find(BOX + "{")) >= 0:
        end, depth = start + len(BOX), 0
        while end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
            if not depth:
                break
        if depth:
            break
        parts += [text[:start], text[start + len(BOX) + 1 : end - 1]]
        text = text[end:]
    return "".join([*parts, text])
