"""The page of documentation with one problem of every kind."""

import random

from kdkit.maths.problem import DOMAINS, Problem
from kdkit.maths.problems.all import HELD_OUT, TEMPLATES, check_names
from kdkit.maths.problems.template import Template

SEED = 7
"""Of the examples on the page."""

HEAD = r"""# Problems of maths

kdkit makes problems with solutions, step by step in LaTeX, and proves each step before it gives a problem away: exact
arithmetic, on the very numbers that the step shows. A step that is not true stops the generator (`UnprovenStepError`).

    python -c "from kdkit.maths.problems.make import recognise; print(recognise('x² - 5x + 6 = 0').solution)"

- `make_problems(settings, seed)` makes three sets (`maths.problems.*` in [the settings](settings.md)): problems to
  train on, the same kinds with other numbers, and other kinds. The same settings and seed make the same problems.
  Whether numbers are held out is decided by a hash of them, so they are whatever the seed and the size of a set.
- `python -m kdkit problems` lists the kinds below with their levels.
- `recognise(text)` finds the problem that somebody typed, in plain words, unicode or LaTeX, and solves it; `None`: it
  is no kind of those below.
- `kdkit.maths.problems.audit` reads the text of statement, steps and answer anew, with none of the generators' code,
  and checks them in numbers: by putting in, numpy, differences, quadrature, values near a limit.
  `python -m benchmarks.maths_problems` makes and audits 20,000 problems; its figures are in
  `benchmarks/results/maths_problems.json`.

This page is generated:

    python -c "from kdkit.maths.problems.describe import describe_problems as d; print(d(), end='')" > docs/FILE

with `maths_problems.md` for `FILE`.
"""


def describe_problems() -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, _table(), *(_domain(domain) for domain in DOMAINS if _of(domain))])


def list_problems(domain: str = "") -> str:
    """Return a line for each kind: its name, its levels and an example.

    Args:
        domain: one of `DOMAINS`; empty: all.

    Raises:
        UserError: there is no such domain.
    """
    if domain:
        check_names("--domain", [domain], DOMAINS)
    lines = []
    for each in DOMAINS:
        if domain in ("", each) and _of(each):
            lines += [each, *(_line(template) for template in _of(each)), ""]
    return "\n".join(lines)


def _line(template: Template) -> str:
    levels = f"{min(template.levels)}-{max(template.levels)}"
    return f"  {template.name:<36} levels {levels}  {example(template).problem}"


def example(template: Template) -> Problem:
    """Return a kind's example: of its middle level."""
    level = template.levels[len(template.levels) // 2]
    return template.build(template.draw(random.Random(f"{SEED}/{template.name}"), level), level)


def _of(domain: str) -> list[Template]:
    return [template() for template in TEMPLATES if template.domain == domain]


def _table() -> str:
    rows = ["| domain | kinds | held out by default |", "|---|---|---|"]
    for domain in DOMAINS:
        names = [template.name for template in _of(domain)]
        held_out = next((name for name in names if name in HELD_OUT), names[-1] if names else "")
        if names:
            rows.append(f"| `{domain}` | {len(names)} | `{held_out}` |")
    return "\n".join([*rows, ""])


def _domain(domain: str) -> str:
    parts = [f"## {domain.replace('_', ' ').capitalize()}", ""]
    for template in _of(domain):
        problem = example(template)
        levels = ", ".join(map(str, template.levels))
        lines = [problem.problem, "", *(f"> {line}  " for line in problem.solution.splitlines())]
        parts += [
            f"### {template.name}",
            "",
            f"Levels {levels}; the example is of level {problem.level}.",
            "",
            *lines,
            "",
        ]
    return "\n".join(parts)
