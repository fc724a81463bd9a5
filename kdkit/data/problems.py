"""Problems that are made here (`data.path: kdkit-maths`), and those of a run as its folder keeps them.

The split is that of `make_problems`: no numbers and no template of a held-out problem are ever trained on.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdkit.config.maths.settings import MADE, ProblemsConfig
from kdkit.data.many.documents import MixedDocuments
from kdkit.data.text.corpora import Corpus
from kdkit.data.text.documents import Documents
from kdkit.data.text.problems import FORMAT, problems_of, write_problem_corpus
from kdkit.errors import UserError
from kdkit.maths import problems as templates
from kdkit.maths.files import read_problems, write_problems
from kdkit.maths.problem import Problem
from kdkit.maths.problems.make import make_problems
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files
from kdkit.runs.messages import note

FOLDER = "problems"
"""Of prepared data: a file for each of `SETS`."""
TRAIN, HELD_OUT, HELD_OUT_TEMPLATES = SETS = "train", "held_out", "held_out_templates"
SET_OF = {"train": TRAIN, "evaluation": HELD_OUT}
"""The set that a split of the data is."""


def load_made(
    settings: ProblemsConfig, seed: int, cache_path: Path, template: str | None = None
) -> tuple[Corpus, Corpus]:
    """Make the problems of a configuration, or read those of an earlier call; return both splits.

    Args:
        template: `data.prompt_template`.

    Raises:
        UserError: see `make_problems`.
    """
    code = fingerprint_files(Path(templates.__path__[0]))
    key = fingerprint(FORMAT, settings.model_dump(), seed, code, template)

    def fill(folder: Path) -> None:
        """Make the sets and write them."""
        print(f"data: making {settings.num_problems:,} problems with proven solutions", flush=True)
        sets = make_problems(settings, seed)
        for name, problems in ((TRAIN, sets.train), (HELD_OUT, sets.held_out)):
            write_problem_corpus(folder / name, MADE, problems, Counter(), template)
        if sets.held_out_templates:
            write_problems(folder / HELD_OUT / f"{HELD_OUT_TEMPLATES}.jsonl", sets.held_out_templates)
        for sentence in sets.notes:
            note(f"data: {sentence}")

    folder = cached_folder(cache_path / "corpora", key, fill)
    train, held_out = (_open(folder / name) for name in (TRAIN, HELD_OUT))
    return replace(train, fingerprint=fingerprint(train.fingerprint, held_out.fingerprint, key)), held_out


def _open(folder: Path) -> Corpus:
    return Corpus(Documents(folder), **json.loads((folder / "meta.json").read_text()))


def keep_problems(
    documents: Documents | MixedDocuments, numbers: list[int] | None, folder: Path, name: str, template: str | None
) -> None:
    """Write the problems of a split as JSON lines.

    Args:
        documents: of the split.
        numbers: of those to write, in their order; None: all.
        folder: of the prepared data.
        name: of the set, see `SETS`.
        template: `data.prompt_template`.
    """
    known = problems_of(documents.parts if isinstance(documents, MixedDocuments) else [documents], template)
    texts = list(documents)
    chosen = [known[texts[number]] for number in (range(len(texts)) if numbers is None else numbers)]
    write_problems(folder / FOLDER / f"{name}.jsonl", chosen)


def keep_held_out_templates(held_out: Corpus | None, folder: Path) -> None:
    """Write the problems of kinds that are never trained on beside the others, where there are such."""
    if held_out is not None and isinstance(held_out.documents, Documents):
        path = held_out.documents.folder / f"{HELD_OUT_TEMPLATES}.jsonl"
        if path.is_file():
            write_problems(folder / FOLDER / path.name, read_problems(path))


def open_problems(folder: Path, name: str) -> list[Problem]:
    """Read a set of problems out of the folder of prepared data; none where it holds no such.

    Args:
        name: see `SETS`.
    """
    path = folder / FOLDER / f"{name}.jsonl"
    return read_problems(path) if path.is_file() else []


def find_levels(problems: list[Problem]) -> np.ndarray:
    """Return the level of each problem, float; infinite where it has none.

    Raises:
        UserError: there are no problems, or none has a level.
    """
    levels = np.array([problem.level or np.inf for problem in problems], float)
    if not np.isfinite(levels).any():
        what = "problems without any level" if problems else "data that is no maths problems"
        raise UserError(
            f"train.curriculum: expected maths problems with levels for 'level', got {what}; set "
            "train.curriculum=none, or data.path=kdkit-maths"
        )
    return levels
