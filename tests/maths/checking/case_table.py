"""The table of cases: gold answers, answers to them, and what a careful marker says."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import AnswerKind

FOLDER = Path(__file__).parent / "cases"
OTHER_VERDICTS = FOLDER / "math_verify.json"
"""What math-verify says of each case with its defaults; `python -m tests.maths.checking.math_verify_says` writes it."""


@dataclass(frozen=True)
class Case:
    """One row."""

    source: str
    """Its file."""
    gold: str
    answer: str
    verdict: Verdict
    kind: AnswerKind | None = None
    against: str = ""
    settings: dict[str, object] = field(default_factory=dict, hash=False)
    """Of policies, where they differ from the defaults."""

    @property
    def policies(self) -> PolicyConfig:
        return PolicyConfig.model_validate(self.settings)


def read_cases() -> list[Case]:
    """Read every case: blocks of `policy`, `gold`, `kind`, `against`, then a verdict and an answer a line."""
    cases = []
    for path in sorted(FOLDER.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").split("\n\n"):
            cases += _read_block(path.stem, block)
    return cases


def _read_block(source: str, block: str) -> list[Case]:
    gold, kind, against, settings, cases = "", None, "", {}, []
    for line in block.splitlines():
        word, _, rest = line.partition(" ")
        if not line or line.startswith("# "):
            continue
        if word == "gold":
            gold = rest
        elif word == "kind":
            kind = rest
        elif word == "against":
            against = rest
        elif word == "policy":
            name, _, value = rest.partition("=")
            settings[name] = _read_setting(name, value)
        else:
            cases.append(Case(source, gold, rest, Verdict(word), kind, against, settings))
    return cases


def _read_setting(name: str, value: str) -> object:
    is_text = isinstance(PolicyConfig.model_fields[name].default, str)
    return value if is_text else json.loads(value)
