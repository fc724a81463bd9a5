"""What a student was asked to match, in words and as a formula: of every loss by its name in a configuration.

p is the teacher's distribution, q the student's, both at temperature T.
"""

from dataclasses import dataclass
from typing import Any

from kdkit.report.writing import write_number_plainly


@dataclass(frozen=True)
class Matching:
    """A loss for a reader."""

    words: str
    """What it asks of the student; behind "The student learns to match"."""
    formula: str
    """Its value, without the weight and the square of the temperature."""
    tempered: bool = True
    """Whether it is multiplied by the square of the temperature."""


MINUS = "\u2212"

DIVERGENCES = {
    "forward_kl": Matching("all that the teacher finds possible", "KL(p ‖ q) = Σ p · log(p / q)"),
    "reverse_kl": Matching("what the teacher finds likely", "KL(q ‖ p) = Σ q · log(q / p)"),
    "jsd": Matching(
        "the teacher's predictions by way of the mean of both",
        "{w} · KL(p ‖ m) + {rest} · KL(q ‖ m),  m = {w} · p + {rest} · q",
    ),
    "skewed_forward_kl": Matching(
        "all that the teacher finds possible, against a mixture with the teacher's own", "KL(p ‖ {w} · p + {rest} · q)"
    ),
    "skewed_reverse_kl": Matching(
        "what the teacher finds likely, against a mixture with the student's own", "KL(q ‖ {rest} · p + {w} · q)"
    ),
    "tvd": Matching("the teacher's probabilities, each alike", "½ · Σ |p - q|"),
    "adaptive_kl": Matching(
        "the teacher's head and tail, the more where the two differ more",
        "a · KL(p ‖ q) + (1 - a) · KL(q ‖ p),  a: share of Σ |p - q| that lies in the {w} the teacher finds likeliest",
    ),
}
"""Of two distributions over the same outcomes; `{w}` is the option's value, `{rest}` is 1 less it."""

ACROSS = {
    "xtoken_p_kl": Matching(
        "the teacher's tokens, on which its own probabilities are projected, averaged over spans of text",
        "KL(p ‖ q W),  W: from the student's vocabulary to the teacher's",
    ),
    "xtoken_h_kl": Matching(
        "the tokens that have a partner in the other vocabulary, and the sorted probabilities of all others",
        "Σ [p · log(p / q) - p + q] over pairs + Σ |sorted p - sorted q| over the others",
    ),
    "alm": Matching(
        "how likely the teacher finds the text of every span",
        "p · log(p / q) + (1 - p) · log((1 - p) / (1 - q)),  p, q: likelihood of the span's text, to the power 1/{w}",
        tempered=False,
    ),
    "gold": Matching(
        "the tokens of both vocabularies, and the sorted probabilities of all others",
        "s · JSD(p, q) over common tokens + (1 - s) · Σ |sorted p - sorted q|,  s: their share of the vocabulary",
    ),
    "uld": Matching("the teacher's sorted probabilities, one by one", "Σ |sorted p - sorted q|"),
    "cdm": Matching(
        "the {w} likeliest tokens of the teacher, paired by their spelling at positions paired by time warping",
        "KL(p ‖ q) over the pairs",
    ),
}
"""Of models with tokenizers of their own."""

WITHIN = {
    "projected_kl": (
        "what the teacher's next tokens begin with, wherever both have read the same text",
        "p, q: over the tokens of the finer tokenizer that the text after this place can begin with",
    ),
    "overlap_kl": (
        "the teacher's predictions of tokens that both vocabularies spell alike",
        "p, q: over the common tokens, where the next token is one",
    ),
}
"""Losses that compare by one of the divergences: words, and what is compared."""

_OPTION = {
    "jsd": ("teacher_weight", 0.5),
    "skewed_forward_kl": ("skew", 0.1),
    "skewed_reverse_kl": ("skew", 0.1),
    "adaptive_kl": ("head_mass", 0.5),
    "alm": ("likelihood_temperature", 100.0),
    "cdm": ("top_k", 100),
}
"""The option that a formula names, with its default."""
_PARTS = {
    "feature": "hidden states of the last layer that is compared",
    "attention": "attention maps",
    "layerwise": "hidden states of all layers that are compared",
    "contrastive": "telling places of a text apart",
}


def used_loss(config: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """Return the loss that a run was trained with, `name` and options; what `auto` chose is in `training.json`."""
    asked = config["distill"]["loss"]
    asked = {"name": asked} if isinstance(asked, str) else asked
    used = training.get("loss", {}).get("name", asked["name"])
    return asked if used == asked["name"] else {"name": used}


def loss_in_words(loss: dict[str, Any]) -> str:
    """Say in a sentence what a loss asks of the student."""
    name = loss["name"]
    if name in WITHIN:
        return f"The student learns to match {WITHIN[name][0]} ({name}, by {_inner(loss)['name']})."
    found = (DIVERGENCES | ACROSS).get(name)
    words = found.words.format(**_values(loss)) if found else "the teacher"
    return f"The student learns to match {words} ({name})."


def loss_as_formula(loss: dict[str, Any], distill: dict[str, Any]) -> str:
    """Write the whole loss with this run's numbers, a line for every part of it.

    Args:
        loss: `used_loss`.
        distill: section of the configuration.
    """
    name, ratio = loss["name"], distill["kd_ratio"]
    compared = _inner(loss) if name in WITHIN else loss
    found = (DIVERGENCES | ACROSS).get(compared["name"])
    lines = [f"loss = {_number(1 - ratio)} · CE + {_number(ratio)} · KD", "CE = -log q(next token)"]
    if found:
        heat = distill["temperature"]
        square = f"{_number(heat)}² · " if found.tempered and heat != 1 else ""
        value = found.formula.format(**_values(compared))
        lines.append(f"KD = {square}[{value}]" if square else f"KD = {value}")
    if name in WITHIN:
        lines.append(WITHIN[name][1])
    weights = distill.get("weights", {})
    parts = [f"{_number(weights[part])} · {words}" for part, words in _PARTS.items() if weights.get(part)]
    if parts:
        logits = weights.get("logits", 1.0)
        lines.append(f"and in KD, beside {_number(logits)} · the above: {'; '.join(parts)}")
    return "\n".join(lines).replace("-", MINUS)


def _inner(loss: dict[str, Any]) -> dict[str, Any]:
    """Return the divergence inside a loss."""
    inner = loss.get("divergence", "forward_kl")
    return {"name": inner} if isinstance(inner, str) else inner


def _values(loss: dict[str, Any]) -> dict[str, str]:
    """Return what a formula's gaps are filled with."""
    if loss["name"] not in _OPTION:
        return {}
    option, default = _OPTION[loss["name"]]
    value = loss.get(option, default)
    return {"w": _number(value), "rest": _number(1 - value)}


def _number(value: float) -> str:
    return write_number_plainly(round(value, 6))
