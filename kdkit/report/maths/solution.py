"""A solved problem as a person reads it: every step with a mark, at the terminal, in a notebook and in a page."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import tostring

from markupsafe import Markup

from kdkit.maths.checking.steps import StepVerdict
from kdkit.maths.checking.verdicts import Verdict
from kdkit.report.maths.plain import plain_latex
from kdkit.report.render import render
from kdkit.report.writing import plain_html
from kdkit.runs.messages import visible

MARKS = {StepVerdict.RIGHT: "✓", StepVerdict.WRONG: "✗", StepVerdict.UNCHECKED: "·"}
"""Stand before a step."""
COLOURS = {StepVerdict.RIGHT: "#0f766e", StepVerdict.WRONG: "#be123c", StepVerdict.UNCHECKED: "#6b7280"}
LONGEST = 400
"""Letters of a step that are shown: what is longer is no step."""
LEGEND = "✓ true   ✗ not true   · words, or nothing to check"
LATEX_SIGNS = {"<": r"\lt ", ">": r"\gt "}
"""What begins HTML, as LaTeX writes it too."""
STEERING = ("href", "style", "class", "id")
"""Attributes that LaTeX may set and a formula needs not: they lead elsewhere, or load what lies there."""
_FORMULA = re.compile(r"(\$[^$]*\$)")


@dataclass(frozen=True)
class SolvedProblem:
    """What a model wrote about a problem, with what the checker says of it."""

    problem: str
    """As the model was asked."""
    steps: Sequence[tuple[str, StepVerdict]]
    """Lines before the answer."""
    answer: str | None
    """LaTeX; None: the model gave none."""
    verdict: Verdict | None
    """None: the true answer is not known."""
    gold: str | None
    """The true answer, LaTeX."""
    model: str
    """Which one wrote: `student`, `teacher`, or another folder of the run."""
    notes: Sequence[str] = field(default_factory=tuple)
    """Sentences on how far the result can be trusted."""

    @property
    def judgement(self) -> str:
        """Say in words what the answer is worth."""
        if self.verdict is None:
            return "not checked: the true answer is not known"
        words = {
            Verdict.RIGHT: "right",
            Verdict.WRONG: f"wrong, it is ${self.gold}$",
            Verdict.NO_ANSWER: f"none was given in a box, it is ${self.gold}$",
            Verdict.UNREADABLE: f"it cannot be read, it is ${self.gold}$",
            Verdict.TIMED_OUT: f"unanswered: checking it took too long, it is ${self.gold}$",
        }
        return words[self.verdict]

    def to_text(self) -> str:
        """Write it for a terminal."""
        lines = [f"problem  {plain_latex(self.problem)}"]
        lines += [f"  {MARKS[mark]} {plain_latex(_cut(text))}" for text, mark in self.steps]
        answer = "-" if self.answer is None else plain_latex(self.answer)
        lines.append(f"answer   {answer}   ({plain_latex(self.judgement)})")
        return visible("\n".join([*lines, *(f"note     {plain_latex(note)}" for note in self.notes)]))

    def _repr_markdown_(self) -> str:
        """Write it for a notebook, which sets the LaTeX."""
        lines = [f"**Problem.** {_safe(self.problem)}", ""]
        lines += [f"- {_coloured(MARKS[mark], COLOURS[mark])} {_safe(_cut(text))}" for text, mark in self.steps]
        answer = "-" if self.answer is None else f"${self.answer}$"
        lines += ["", f"**Answer of the {_safe(self.model)}.** {_safe(answer)} ({_safe(self.judgement)})"]
        lines += [f"\n*{_safe(note)}*" for note in self.notes]
        return "\n".join(lines)

    def to_html(self) -> str:
        """Write it as a section of a page that needs no other file: LaTeX becomes MathML."""
        items = "".join(
            f"<li class='{mark.name.lower()}'><span>{MARKS[mark]}</span> {to_mathml(_cut(text))}</li>"
            for text, mark in self.steps
        )
        answer = "-" if self.answer is None else to_mathml(rf"$\boxed{{{self.answer}}}$")
        notes = "".join(f"<p class='note'>{to_mathml(note)}</p>" for note in self.notes)
        return (
            f"<section><p><b>Problem.</b> {to_mathml(self.problem)}</p><ul>{items}</ul>"
            f"<p><b>Answer of the {plain_html(self.model)}.</b> {answer} ({to_mathml(self.judgement)})</p>{notes}"
            "</section>"
        )


def to_page(solved: Sequence[SolvedProblem], title: str) -> str:
    """Write solved problems as one page."""
    return render(
        "solved.html.j2", {"title": title, "legend": LEGEND, "solved": [Markup(each.to_html()) for each in solved]}
    )


def to_mathml(text: str) -> str:
    """Write a line of words and LaTeX as HTML; a formula that is none stays as it was written."""
    parts = _FORMULA.split(visible(text))
    return "".join(_formula(part[1:-1]) if part.startswith("$") else plain_html(part) for part in parts if part)


def _formula(latex: str) -> str:
    # of this function alone: the rest of the page needs no package
    from latex2mathml.converter import convert_to_element

    try:
        formula = convert_to_element(latex)
    except Exception:  # of any kind: a model may write anything
        return f"<code>{plain_html(latex)}</code>"
    for element in formula.iter():  # the package would write what stands in \text{} as HTML, scripts too
        element.text = html.unescape(element.text or "")
        for name in STEERING:
            element.attrib.pop(name, None)
    return tostring(formula, encoding="unicode")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _coloured(mark: str, colour: str) -> str:
    return f"<span style='color:{colour}'>{mark}</span>"


def _safe(text: str) -> str:
    """Keep the words of a line from being read as HTML or Markdown; formulas stay, without signs that begin HTML."""
    parts = _FORMULA.split(visible(text))
    return "".join(
        re.sub("[<>]", lambda sign: LATEX_SIGNS[sign[0]], part)
        if part.startswith("$")
        else re.sub(r"([*_`\[\]$])", r"\\\1", plain_html(part))
        for part in parts
    )
