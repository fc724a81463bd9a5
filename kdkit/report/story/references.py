"""Whose work a run rests on: the sources that the docstrings of its losses and methods name, as BibTeX."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdkit.report.story.methods import WITHIN, used_loss

FILE = Path(__file__).parent / "references.bib"
DISTILLATION = "hinton2015distilling"
"""Every run's source."""
OF_LOSSES = {
    "forward_kl": [DISTILLATION],
    "reverse_kl": ["gu2023minillm"],
    "jsd": ["agarwal2023gkd"],
    "skewed_forward_kl": ["ko2024distillm"],
    "skewed_reverse_kl": ["ko2024distillm"],
    "tvd": ["wen2023fdistill"],
    "adaptive_kl": ["wu2024akl"],
    "xtoken_p_kl": ["sreenivas2026xtoken"],
    "xtoken_h_kl": ["sreenivas2026xtoken"],
    "alm": ["minixhofer2025alm"],
    "gold": ["patino2025gold"],
    "uld": ["boizard2024uld"],
    "cdm": ["chen2025cdm", "wan2024fusion"],
}
"""Keys by the names of losses; those that are not here are kdkit's own."""
OF_METHODS = {
    "talas": "dao2026talas",
    "dskd": "zhang2024dskd",
    "cdm": "chen2025cdm",
    "emo": "truong2025emo",
    "stella": "zhang2024stella",
    "cosine": "kim2023embeddistill",
    "rkd": "park2019rkd",
    "leaf": "vujanic2025leaf",
    "margin_mse": "hofstatter2020margin",
    "list_kl": "ren2021rocketqav2",
    "simcse": "gao2021simcse",
    "late_interaction": "khattab2020colbert",
}
"""Keys by the names of methods of embedding distillation."""


@dataclass(frozen=True)
class Reference:
    """A publication."""

    key: str
    bibtex: str
    title: str
    year: str
    arxiv: str
    """Number of its preprint; empty: it has none."""


@cache
def read_references() -> dict[str, Reference]:
    """Read `references.bib`: by their keys."""
    entries = FILE.read_text(encoding="utf-8").strip().split("\n\n")
    found = {}
    for entry in entries:
        fields = dict(re.findall(r"(?m)^  (\w+) = \{(.*)\},?$", entry))
        key = entry[entry.index("{") + 1 : entry.index(",")]
        found[key] = Reference(key, entry, fields["title"].strip("{}"), fields["year"], fields.get("eprint", ""))
    return found


def language_references(config: dict[str, Any], training: dict[str, Any]) -> list[Reference]:
    """List the sources of all that a language model's training used, distillation itself first."""
    distill, train, stages = config["distill"], config["train"], config["train"].get("stages", [])
    keys = [DISTILLATION]
    for asked in [used_loss(config, training), *(stage["loss"] for stage in stages if stage.get("loss"))]:
        loss = {"name": asked} if isinstance(asked, str) else asked
        compared = loss.get("divergence", "forward_kl") if loss["name"] in WITHIN else loss["name"]
        keys += OF_LOSSES.get(compared if isinstance(compared, str) else compared["name"], [])
    uses = {
        "trinh2025guide": distill.get("start_from_teacher"),
        "men2024shortgpt": _kind(config) in ("layers", "prune"),
        "muralidharan2024minitron": _kind(config) == "prune",
        "hu2021lora": config.get("student", {}).get("lora"),
        "agarwal2023gkd": any(stage.get("on_policy") for stage in stages),
        "kim2025experts": config.get("router", {}).get("kind", "none") != "none",
        "anshumann2025sparse": config.get("cache", {}).get("enabled") and config["cache"].get("mode") == "sampled",
        "liu2025muon": train.get("optimizer") == "muon",
    }
    return _named([*keys, *(key for key, is_used in uses.items() if is_used)])


def _kind(config: dict[str, Any]) -> str:
    """Return how the student was made from the teacher; empty: it was not."""
    return (config.get("student", {}).get("from_teacher") or {}).get("kind", "")


def method_references(config: dict[str, Any]) -> list[Reference]:
    """List the sources of an embedding model's training, distillation itself first."""
    method = config["method"]
    name = method if isinstance(method, str) else method["name"]
    return _named([DISTILLATION, *([OF_METHODS[name]] if name in OF_METHODS else [])])


def _named(keys: list[str]) -> list[Reference]:
    return [read_references()[key] for key in dict.fromkeys(keys)]
