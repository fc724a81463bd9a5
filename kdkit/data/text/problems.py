"""Maths problems as documents: a conversation of the problem and its solution, with the problem itself kept beside it.

Another problem is one with other numbers or signs: by their words alone all problems of a kind are near-copies.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdkit.alignment.templates import Message
from kdkit.config.language import DataConfig
from kdkit.data.conversations import Conversation, fill_template
from kdkit.data.text.documents import Documents, clean_text, write_documents
from kdkit.data.text.duplicates import find_near_copies
from kdkit.data.text.files import is_leftover
from kdkit.errors import UserError
from kdkit.maths.files import SUFFIXES, columns_of, read_problem_file, read_problems, statement_key, write_problems
from kdkit.maths.problem import Problem

FORMAT = 1
"""Raise it when a problem becomes another document."""
FILE = "problems.jsonl"
"""The problems of a corpus, in its folder."""
_SIGNS = {"+": " plus ", "-": " minus ", "*": " times ", "/": " over ", "=": " equals ", "<": " less ", ">": " more "}
_SIGN = re.compile(r"[-+*/=<>]")
_NUMBER_OR_SIGN = re.compile(r"\d+(?:\.\d+)?|[-+*/=<>^]")


def as_document(problem: Problem, template: str | None = None) -> str:
    """Return the conversation of a problem and its solution, in JSON; see `Conversation.to_json`.

    Args:
        template: `data.prompt_template`, with `{problem}` in the place of the statement; None: the statement alone.
    """
    asked = problem.problem
    if template is not None:
        asked = fill_template(template, {"problem": asked}, f"problem {problem.id!r}")
    messages = Message("user", asked), Message("assistant", problem.solution)
    return clean_text(Conversation(messages).to_json())


def holds_problems(source: str | Path, config: DataConfig) -> bool:
    """Return whether `data.path` is to be read as maths problems: asked for, or seen by the columns."""
    if config.format != "auto":
        return config.format == "problems"
    if not isinstance(source, Path) or config.prompt_template or config.answer_column:
        return False
    files = _problem_files(source)
    if not files:
        return False
    columns = columns_of(files[0])
    is_text = config.text_column in columns
    return not is_text and (source.suffix == ".json" or {"problem", "answer"} <= columns)


def read_problem_corpus(source: str | Path, config: DataConfig) -> tuple[list[Problem], Counter[str]]:
    """Read the problems of a file or folder, `data.subset_size` of them at most, and count the rows left out.

    Raises:
        UserError: neither a file of problems nor a folder of such; see also `read_problem_file`.
    """
    files = _problem_files(source) if isinstance(source, Path) else []
    if not files:
        raise UserError(
            f"data.path: expected a {' or '.join(SUFFIXES)} file of problems or a folder of them for "
            f"data.format=problems, got {str(source)!r}; name one, or data.path=kdkit-maths"
        )
    problems: list[Problem] = []
    left_out: Counter[str] = Counter()
    for file in files:
        try:
            read = read_problem_file(file, config.bad_rows == "skip", skip_where=config.skip_rows_where)
        except UserError as error:
            raise UserError(f"data.path: {error}") from None
        of_file = f"{file.stem}:" if len(files) > 1 else ""
        problems += [replace(problem, id=of_file + problem.id) for problem in read.problems]
        left_out += read.left_out
    if config.subset_size is not None and config.subset_size < len(problems):
        chosen = random.Random(0).sample(range(len(problems)), config.subset_size)
        problems = [problems[number] for number in sorted(chosen)]
    return problems, left_out


def write_problem_corpus(
    folder: Path, source: str, problems: Sequence[Problem], left_out: Counter[str], template: str | None
) -> None:
    """Write problems as documents of conversations, and themselves; the meta file is that of every corpus."""
    texts = (as_document(problem, template) for problem in problems)
    num_documents, num_duplicates, digest = write_documents(folder, texts)
    assert num_documents, "read_problem_file has seen to it"
    write_problems(folder / FILE, problems)
    meta: dict[str, Any] = {"source": source, "fingerprint": digest, "num_duplicates": num_duplicates}
    meta |= {"is_chat": True, "has_problems": True, "rows_left_out": dict(left_out)}
    (folder / "meta.json").write_text(json.dumps(meta))


def problems_of(parts: Iterable[Documents], template: str | None) -> dict[str, Problem]:
    """Return the problems that are kept beside documents, by the text of the document; see `as_document`."""
    return {as_document(each, template): each for part in parts for each in read_problems(part.folder / FILE)}


def find_repeated(held_out: Iterable[str], others: Iterable[str]) -> np.ndarray:
    """Find the problems that say a held-out one again: the same statement, or nearly, with the same numbers and signs.

    Args:
        held_out: documents, see `as_document`.
        others: documents that are looked through.

    Returns:
        bool, `[num_others]`.
    """
    kept, looked_at = (list(map(_statement, documents)) for documents in (held_out, others))
    same = {statement_key(text) for text in kept}
    numbers = {_numbers(text) for text in kept}
    is_near = find_near_copies(map(_spell_signs, kept), map(_spell_signs, looked_at))
    is_same = np.array([statement_key(text) in same for text in looked_at], bool)
    has_numbers = np.array([_numbers(text) in numbers for text in looked_at], bool)
    return is_same | (is_near & has_numbers)


def _statement(document: str) -> str:
    return Conversation.from_json(document).messages[0].content


def _numbers(text: str) -> tuple[str, ...]:
    """Return the numbers and signs of a statement, in their order."""
    return tuple(_NUMBER_OR_SIGN.findall(text))


def _spell_signs(text: str) -> str:
    """Write signs as words: `x - 2` and `x + 2` are other texts."""
    return _SIGN.sub(lambda sign: _SIGNS[sign[0]], text)


def _problem_files(source: Path) -> list[Path]:
    """Return the files of a folder that may hold problems, by name; a file alone."""
    if source.is_file():
        return [source] if source.suffix in SUFFIXES else []
    files = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return [path for path in files if not is_leftover(path, source)]
