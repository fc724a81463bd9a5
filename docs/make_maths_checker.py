"""Write docs/maths_checker.md from the settings and the table of cases.

python -m docs.make_maths_checker
"""

import json
from collections import Counter, defaultdict
from pathlib import Path

from kdkit.config.maths.settings import PolicyConfig
from tests.maths.checking.case_table import OTHER_VERDICTS, Case, read_cases

PAGE = Path(__file__).parent / "maths_checker.md"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "maths_checker.json"
SOURCES = {
    "numbers": "Numbers",
    "formulas": "Formulas",
    "sets": "Sets, intervals, several solutions",
    "families": "Families over the whole numbers",
    "pieces": "Functions in pieces, systems in braces",
    "tuples": "Points, systems, matrices",
    "units": "Units, percent, degrees",
    "calculus": "Antiderivatives, unfinished answers",
    "equations": "Equations, differential equations, names",
    "complex": "Complex numbers",
    "words": "Words, and no answer",
}
BOXES = {"several_boxes": r"`\boxed{1}` ... `\boxed{2}`: `last` 2, `first` 1, `agree` and `refuse` no answer"}
INTRODUCTION = r"""# The checker of answers

Whether a student's final answer is right, and whether each line of its solution is. An answer is read into sympy by a
reader of our own (`kdkit/maths/checking/latex/`), and compared by what kind of answer the problem has; formulas are
equal where they agree at random points in 45 digits. `math-verify` stands beside it in every table below: it is the
field's tool, a good one, and its defaults are not what a careful marker says.

```python
from kdkit.config.maths.settings import CheckerConfig
from kdkit.maths.checking.pool import CheckerPool, Job

with CheckerPool(CheckerConfig(num_workers=2, seconds=5.0, memory_mb=1024)) as pool:
    pool.check([Job("2i", "(1+i)^2"), Job("x^3/3 + C", "x^3/3", "antiderivative", "x^2")])  # [right, wrong]
```

| verdict | when |
|---|---|
| `right`, `wrong` | the answer was read and compared |
| `no_answer` | no `\boxed{}` and no `####`, or an empty one: an error of format |
| `unreadable` | no formula we know, or a number of more than 2,000 digits; also where the gold answer is unreadable |
| `timed_out` | the time or memory did not suffice, or the process died: unanswered, never a crash |

The processes are new Pythons, not forks: they work from any thread, in notebooks and under pytest-xdist. One that
hangs, dies or outgrows its memory is replaced and costs one verdict; Ctrl-C ends them all, and so does the end of the
program.

| kind of answer | how it is compared |
|---|---|
| `expression` | equal values; numbers exactly, decimals with a tolerance |
| `values` | the same solutions in any order: `x = 2 \text{ or } x = 3`, `\{3, 2\}`, `\frac{1 \pm \sqrt{5}}{2}` |
| `set` | the same real numbers: intervals, unions, solved inequalities, set builders |
| `tuple` | entry by entry, names in any order: `y = 2, x = 1` is (1, 2) |
| `matrix` | entry by entry; products, inverses and transposes with numbers in them are computed |
| `equation` | one a constant multiple of the other; of inequalities a positive one |
| `antiderivative` | its derivative is the integrand, and a constant is there where the policy wants one |
| `ode` | it solves the equation and its conditions, with as many free constants as the gold answer, of any name |
| `statement` | the same words; yes and true are one, no and false another |

Letters keep their case (V/v is not 1) and their primes (y'' is not y); `i` is the root of -1; letters are real numbers,
but z and w are complex where `i` or a bar is near; f(2) is a function's value, and x(x + 1) a product.
"""
STEPS = r"""
## Steps

`check_steps(solution, facts, policies)` gives each line a verdict. Every relation between dollar signs must be true:
for all values of letters, for each value of an unknown in `facts`, or for one at least where the line is a case such as
`x = 2`. Relations joined by "or" must cover all values, and none may be idle. Functions, their derivatives,
definitions (`u = x + 1`) and matrices are replaced by what they stand for, also those that the solution itself defines.
Derivatives, limits, sums, determinants and definite integrals are computed, equations of indefinite integrals
differentiated.

| line | facts | verdict |
|---|---|---|
| `Factor: $(x - 2)(x - 3) = 0$.` | x: 2, 3 | right |
| `Factor: $(x - 2)(x + 3) = 0$.` | x: 2, 3 | wrong |
| `So $x = 2$ or $x = 3$.` | x: 2, 3 | right |
| `$f'(x) = 5x^{2} - 5$` | f(x): x^3 - 3x; x: -1, 1 | wrong: true at both, and not the derivative |
| `$\int u'v \, dx = -e^{-2x} + C$` | u: -4x + 4; v: -e^(-2x)/2 | right |
| `48/2 = <<48/2=25>>25 clips` | | wrong |
| `Both sides are divided by $2$.` | | unchecked: no relation |

What it cannot see: a true relation that does not follow, a number in words ("subtract $11$"), and an inequality that is
too weak for the values in `facts` to break it.
"""
LIMITS = r"""
## Limits

- A formula has at most 4,000 letters and 60 brackets within brackets, a number 2,000 digits, a matrix 12 rows. What
  lies beyond is `unreadable`; towers of powers are refused before they are computed.
- Families over whole numbers are compared as sets of numbers where the gold answer says that they are such,
  `\frac{\pi}{2} + k\pi, k \in \mathbb{Z}`; without these words they are formulas in `k`, for `(n - 2)\pi` may be a
  sum of angles.
- Functions in pieces (`cases`) are compared where pieces end, between and beyond; conditions, as inequalities, must be
  solved for their letter.
- `\sin 2x` is sin(2x), `\sin x \cos x` a product of two; `\sin x/2` is half of sin x: write brackets.
- Units are known by name (lengths, masses, times, energies, money); others are words that must be the same.
"""


def make_page() -> str:
    """Return the page."""
    cases = read_cases()
    says = [row["says"] for row in json.loads(OTHER_VERDICTS.read_text(encoding="utf-8"))]
    pairs = list(zip(cases, says, strict=True))
    return "".join(
        [INTRODUCTION, _policies(pairs), STEPS, _summary(pairs), _measured(), _differences(pairs), LIMITS, _end()],
    )


def _policies(pairs: list[tuple[Case, str]]) -> str:
    """Describe each policy with its examples, away from the default."""
    examples = defaultdict(list)
    for case, says in pairs:
        for name, value in case.settings.items():
            shown = f"{_show(value)}: {_code(case.gold)}, {_code(case.answer)} {case.verdict.value} ({says})"
            examples[name].append(shown)
    lines = [
        "\n## Policies\n\nSettings of `maths.checker.policies`: values away from the default, a gold answer, an ",
        "answer, our verdict, and in brackets what math-verify says with its defaults.\n",
    ]
    lines.append("\n| policy | default | what it says | examples |\n|---|---|---|---|\n")
    for name, field in PolicyConfig.model_fields.items():
        shown = BOXES.get(name) or "; ".join(examples[name][:4])
        meaning = " ".join((field.description or "").split()).replace("|", r"\|")
        lines.append(f"| `{name}` | {_show(field.default)} | {meaning} | {shown} |\n")
    return "".join(lines)


def _summary(pairs: list[tuple[Case, str]]) -> str:
    """Count by source in how many cases math-verify says the same."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case, says in pairs:
        if case.source in SOURCES:
            counts[case.source]["cases"] += 1
            counts[case.source]["right, said wrong"] += case.verdict == "right" and says != "right"
            counts[case.source]["wrong, said right"] += case.verdict != "right" and says == "right"
    columns = ("cases", "right, said wrong", "wrong, said right")
    lines = [
        f"\n## The table of cases\n\n{len(pairs)} cases with a verdict each, in `tests/maths/checking/cases/`. We ",
        "agree with all of them, since the checker was mended until it did; on answers made by rule it is measured ",
        "by\n`python -m benchmarks.maths_checker`. What math-verify 0.9.0 says with its defaults, which know neither ",
        f"kinds nor integrands:\n\n| | {' | '.join(columns)} |\n|---|---|---|---|\n",
    ]
    for source, title in SOURCES.items():
        lines.append(f"| {title} | {' | '.join(str(counts[source][column]) for column in columns)} |\n")
    total = sum(counts.values(), Counter())
    lines.append(f"| all with default policies | {' | '.join(str(total[column]) for column in columns)} |\n")
    return "".join(lines)


def _measured() -> str:
    """Show what the benchmark found."""
    lines = [
        "\n## Measured\n\n`python -m benchmarks.maths_checker`, two warm processes each, in the same run; ratios are ",
        "those of three runs in turn.\n\n| | jobs | kdkit | math-verify | ratios |\n|---|---|---|---|---|\n",
    ]
    for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]:
        what = row["what"].replace("per second", f"per second {row.get('unit', '')}")
        what += f", load {row['load']}" if "load" in row else ""
        extra = f"{row['longest_seconds']} s, {row['most_mb']} MB at most" if "most_mb" in row else ""
        cells = [row["jobs"], row.get("kdkit", ""), row.get("math_verify", ""), row.get("ratios", extra)]
        lines.append(f"| {what} | {' | '.join(str(cell) for cell in cells)} |\n")
    return "".join(lines)


def _differences(pairs: list[tuple[Case, str]]) -> str:
    """List the cases on which the two differ."""
    lines = ["\n## Where we differ from math-verify\n"]
    for source, title in SOURCES.items():
        found = [(case, says) for case, says in pairs if case.source == source and _differs(case, says)]
        if found:
            lines.append(f"\n### {title}\n\n| gold | answer | kind | we | math-verify |\n|---|---|---|---|---|\n")
        for case, says in found:
            kind = (case.kind or "") + (f" of {_code(case.against)}" if case.against else "")
            lines.append(f"| {_code(case.gold)} | {_code(case.answer)} | {kind} | {case.verdict.value} | {says} |\n")
    return "".join(lines)


def _differs(case: Case, says: str) -> bool:
    return (case.verdict == "right") != (says == "right")


def _end() -> str:
    return f"\nThis page is generated: `python -m docs.make_maths_checker`, from {len(read_cases())} cases.\n"


def _show(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _code(text: str) -> str:
    """Show LaTeX as it is within a table."""
    return f"`{text}`".replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
