"""Where a run's pictures stand on its page, what is said below each, and what one hears who cannot see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdkit.runs.curves import LABELS, Curves


@dataclass(frozen=True)
class Told:
    """What is said of a picture."""

    place: str = "more"
    """The section that shows it; `more`: a section of their own behind the others."""
    caption: str = ""
    """How to read it."""
    alt: str = ""
    """What it shows, for a reader who cannot see it."""


@dataclass(frozen=True)
class Picture(Told):
    """A picture of a page."""

    title: str = ""
    name: str = ""
    """Its file in `figures/`."""
    url: str = ""
    """Its content, so that the page needs no other file."""


LANGUAGE = {
    "Quality and cost": Told(
        "quality",
        "Left: the shorter the better. Middle: the longer the better. Right: in one precision, whatever the models "
        "were loaded in.",
        "Three bar charts of all models: bits per byte, text read per second, size of the weights.",
    ),
    "Where in a text they are good": Told(
        "measures",
        "Bits per byte of the same text, in bins: from tokens that are rare in the training text to frequent ones, and "
        "from the beginning of a window or document on. Bands are 95 % intervals.",
        "Bits per byte of all models by frequency of the tokens and by their position.",
    ),
    "Confidence and truth": Told(
        "measures",
        "Each point is a bin of equally many tokens. On the dashed line a model is right as often as it says; below it "
        "is too sure of itself. Bars are 95 % intervals.",
        "Share of first choices that are right over their probability, for every model.",
    ),
    "Learning curves": Told(
        "result",
        "Held-out text, measured while the models trained, on a part of the text of the table. Left: where two curves "
        "stand above each other, both models have read the same text. Right: where they do, both have had the same "
        "time; the student's holds what its teacher's answers took.",
        "Bits per byte on held-out text over optimizer steps and over seconds.",
    ),
    "Problems solved": Told("problems", "", "Shares of problems that the models solve."),
    "Terms of the student's loss": Told(
        "training",
        "As they were logged, before they are weighted. A divergence of 0 would be a student that predicts what its "
        "teacher predicts.",
        "Cross-entropy, divergence from the teacher and gradient norm over optimizer steps.",
    ),
    "Agreement with the teacher while it trained": Told(
        "training",
        "On rows of the training text. A student whose entropy is above its teacher's is less sure than it is.",
        "Share of the most likely tokens that student and teacher both have, their probability by each, and the "
        "difference of the entropies, over optimizer steps.",
    ),
    "Parts of the teacher's signal": Told(
        "training",
        "Each part on its own scale; the last panel shows them as they are weighted in the loss, so that one sees "
        "which of them the student follows.",
        "The parts of the loss over optimizer steps, raw and weighted.",
    ),
    "Which layers were compared": Told(
        "training",
        "A line joins a layer of the student with the layer of the teacher that it learns from; level lines join "
        "layers of equal relative depth.",
        "Layers of student and teacher, joined in pairs.",
    ),
    "Who taught what": Told("training", "Tokens that nobody teaches are in no share.", "Shares of the teachers."),
    "Kind by kind": Told(
        "result", "Every kind has held-out documents of its own.", "Bits per byte of all models on every kind of text."
    ),
    "How the teacher was routed": Told("teacher", "", "What was recorded of the teacher's router over the steps."),
    "How the tokenizers meet": Told(
        "text",
        "Two tokenizers cut one text at different places. Where both have read the same text, the teacher's answer "
        "can be compared with the student's.",
        "Shares of tokens and of vocabularies that student and teacher have in common.",
    ),
    "The teacher's experts": Told(
        "teacher",
        "A teacher whose experts all stand near the even share uses all of itself.",
        "Share of the tokens that each expert of each layer is sent.",
    ),
    "Its experts on a held-out text": Told(
        "teacher",
        "Which experts the router sends each token to, and what the teacher would predict with one of them alone.",
        "The experts of each token of a short text.",
    ),
}
"""Of the page of language models, by their titles; what is not named here stands behind the other sections."""


def curves_in_words(curves: Curves, teacher: float | None, measure: str = "bits per byte") -> str:
    """Say where every curve begins and ends: what a reader hears who cannot see the picture."""
    parts = [
        f"{LABELS.get(name, name)} from {points[0][1]:.3f} at step {points[0][0]:,} to {points[-1][1]:.3f} at step "
        f"{points[-1][0]:,}"
        for name, points in curves.items()
        if points
    ]
    parts += [] if teacher is None else [f"teacher at {teacher:.3f}"]
    return f"Curves of {measure} on held-out text over optimizer steps and over seconds: {'; '.join(parts)}."


def levels_in_words(models: dict[str, Any]) -> str:
    """Say what the bars of quality and cost show."""
    parts = [f"{LABELS.get(name, name)} {entry['bits_per_byte']:.3f}" for name, entry in models.items()]
    return f"Bar charts of all models: bits per byte ({', '.join(parts)}), text read per second, size of the weights."


def tell(title: str, told: Mapping[str, Told], alts: Mapping[str, str], path: Path, url: str) -> Picture:
    """Put a picture together with what is said of it.

    Args:
        told: by titles.
        alts: texts made from the run's own figures, which stand in place of the general ones.
    """
    of = told.get(title, Told())
    return Picture(of.place, of.caption, alts.get(title) or of.alt or title, title, path.name, url)
