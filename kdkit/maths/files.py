r"""Problem files: JSON lists and JSON lines of problems with answers, in our own form and in those of GSM8K and MATH.

    {"problem": ..., "solution": ..., "answer": ...}      perhaps with id, level, domain
    {"question": ..., "answer": "... #### 72"}            GSM8K
    {"problem": ..., "solution": "... \boxed{72} ..."}    MATH, with level "Level 3" and type

Of a solution the lines are the steps; a box in one of them is opened, since the answer stands in a box behind them, and
GSM8K's marks of a calculator, `<<48/2=24>>`, are left out.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kdkit.config.maths.settings import CheckerConfig
from kdkit.errors import UserError
from kdkit.maths.checking.pool import CheckerPool, Job
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import Problem
from kdkit.maths.rows import OTHERS, BadProblemError, read_row
from kdkit.runs.disk import write_text
from kdkit.runs.messages import note

SUFFIXES = (".jsonl", ".json")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class ProblemFile:
    """What was read from a file."""

    problems: list[Problem]
    left_out: Counter[str]
    """Rows by the fault, where they may be left out, or by the column that says so."""


def read_problems(path: Path) -> list[Problem]:
    """Read a problem file; see `read_problem_file`, with every fault refused."""
    return read_problem_file(path).problems


def read_problem_file(
    path: Path, skip: bool = False, checker: CheckerConfig | None = None, skip_where: str | None = None
) -> ProblemFile:
    """Read the problems of a file, in their order.

    Args:
        path: a JSON list, or JSON lines.
        skip: leave out and count rows that are no problem with an answer, instead of refusing them.
        checker: says whether two answers that are written differently are the same; null: the defaults.
        skip_where: a column; rows in which it is true are left out and counted.

    Raises:
        UserError: no JSON, no UTF-8, or no problem in it; an id twice; a row without problem or answer, with an empty
            answer or a level that is none; two different answers to one problem, or another in the column than in the
            solution's box. With the file and the line.
    """
    checker = checker or CheckerConfig()
    left_out: Counter[str] = Counter()
    found: list[tuple[int, Problem]] = []
    pairs: list[_Pair] = []
    ids: dict[str, int] = {}
    ignored: set[str] = set()
    known = {*(each.name for each in fields(Problem)), *OTHERS}
    for line, row in _rows(path):
        if skip_where is not None and row.get(skip_where):
            left_out[skip_where] += 1
            continue
        try:
            problem, boxed = read_row(row, f"line {line} of {str(path)!r}", line, checker.policies)
        except BadProblemError as error:
            if not skip:
                raise
            left_out[error.fault] += 1
            continue
        if (before := ids.setdefault(problem.id, line)) != line:
            raise UserError(
                f"line {line} of {str(path)!r}: expected an id of its own for every problem, got {problem.id!r}, which "
                f"line {before} has; rename one, or leave the column id out"
            )
        ignored |= row.keys() - known
        found.append((line, problem))
        if boxed is not None:
            pairs.append(_Pair(line, line, problem, boxed))
    pairs += _same_statements(found)
    found = _without_contradictions(found, pairs, path, skip, checker, left_out)
    if ignored:
        print(f"{path}: columns that are not read: {', '.join(sorted(ignored))}", flush=True)
    if left_out:
        listed = ", ".join(f"{count:,} ({fault})" for fault, count in left_out.most_common())
        note(f"{path}: rows left out: {listed}")
    if not found:
        why = "every row was left out" if left_out else "it is empty"
        raise UserError(f"expected problems in {str(path)!r}, got none; {why}")
    return ProblemFile([problem for _, problem in found], left_out)


def write_problems(path: Path, problems: Iterable[Problem]) -> Path:
    """Write problems as JSON lines, all their fields; `read_problems` reads them."""
    return write_text(path, "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in problems))


def solved_row(problem: Problem, solution: str) -> dict[str, Any]:
    """Return a row of a problem file in which somebody else's solution stands."""
    return {name: value for name, value in asdict(problem).items() if name != "steps"} | {"solution": solution}


def columns_of(path: Path) -> set[str]:
    """Return the columns of a file's first row; none where it is no problem file."""
    if path.suffix not in SUFFIXES or not path.is_file():
        return set()
    try:
        return set(next(_rows(path), (0, {}))[1])
    except UserError:
        return set()  # whoever reads it next says why


def statement_key(text: str) -> str:
    """Return a statement without spaces and what only changes its looks: equal keys, one problem."""
    text = text.replace("$", "").replace(r"\left", "").replace(r"\right", "").replace(r"\dfrac", r"\frac")
    return _SPACES.sub("", re.sub(r"\\[,;:! ]", "", text)).rstrip(".?").casefold()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON list or of JSON lines, each with its line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"expected a problem file, got {str(path)!r}: {error.strerror}; correct the path") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(
            f"line {line} of {str(path)!r}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}; save it "
            "as UTF-8"
        ) from None
    parsed = _parse_list(text, path) if text.lstrip().startswith("[") else _parse_lines(text, path)
    for line, row in parsed:
        if not isinstance(row, dict):
            raise UserError(
                f"line {line} of {str(path)!r}: expected a JSON object with problem and answer, got "
                f"{str(row)[:60]!r}; correct it"
            )
        yield line, row


def _parse_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, decoder.decode(line)
            except (ValueError, RecursionError) as error:
                raise _no_json(path, number, error) from None


def _parse_list(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Parse a list element by element: the standard parser does not say on which line one stands."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    place, line, counted = text.index("[") + 1, 1, 0
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        line += text.count("\n", counted, place)
        counted = place
        if text[place : place + 1] == "]":
            return
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _no_json(path, error.lineno if isinstance(error, json.JSONDecodeError) else line, error) from None
        yield line, value


def _refuse_constant(name: str) -> None:
    """Refuse what Python reads and JSON does not have."""
    raise ValueError(f"{name}, which JSON does not have")


def _no_json(path: Path, line: int, error: Exception) -> UserError:
    if isinstance(error, json.JSONDecodeError):
        seen = f"a mistake in column {error.colno} ({error.msg})"
    else:
        seen = "brackets too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]
    return UserError(f"line {line} of {str(path)!r}: expected JSON, got {seen}; correct it")


@dataclass(frozen=True)
class _Pair:
    """Two answers to one problem."""

    line: int
    other_line: int
    problem: Problem
    other: str


def _same_statements(found: list[tuple[int, Problem]]) -> list[_Pair]:
    """Pair every problem with the first of the same statement."""
    first: dict[str, tuple[int, Problem]] = {}
    pairs = []
    for line, problem in found:
        before, known = first.setdefault(statement_key(problem.problem), (line, problem))
        if before != line:
            pairs.append(_Pair(line, before, problem, known.answer))
    return pairs


def _without_contradictions(
    found: list[tuple[int, Problem]],
    pairs: list[_Pair],
    path: Path,
    skip: bool,
    checker: CheckerConfig,
    left_out: Counter[str],
) -> list[tuple[int, Problem]]:
    """Refuse, or leave out, problems with two answers that are not the same; what cannot be compared stays."""
    unlike = [pair for pair in pairs if statement_key(pair.problem.answer) != statement_key(pair.other)]
    if not unlike:
        return found
    jobs = [
        Job(each.other, each.problem.answer, each.problem.answer_kind, each.problem.check_against) for each in unlike
    ]
    with CheckerPool(checker.model_copy(update={"num_workers": 1})) as pool:
        verdicts = pool.check(jobs)
    wrong = {pair.line: pair for pair, verdict in zip(unlike, verdicts, strict=True) if verdict is Verdict.WRONG}
    for line, pair in wrong.items():
        if not skip:
            place = "the box of its solution" if pair.other_line == line else f"line {pair.other_line}"
            raise BadProblemError(
                "two answers",
                f"line {line} of {str(path)!r}",
                "one answer to a problem",
                f"{pair.problem.answer!r} beside {pair.other!r} in {place}",
            )
    left_out["two answers"] += len(wrong)
    return [(line, problem) for line, problem in found if line not in wrong]
