"""What other runs in the same folder say of this one: runs on the same held-out text, and sweeps of the same data."""

import json
from pathlib import Path
from typing import Any

import yaml

from kdkit.config.values import flatten
from kdkit.report.gap import write_share
from kdkit.report.sweeps.tables import verdict_table
from kdkit.report.sweeps.words import conclusion, effect_sentences, unseen_sentence
from kdkit.report.tables import MISSING, Table, write_number
from kdkit.report.writing import HIGHER, LOWER, hide_folders, machine_folders
from kdkit.runs.folder import Run

MOST_RUNS = 12
"""Of many runs those with the fewest settings that differ are shown."""
MOST_SETTINGS = 4
"""Settings that are named of one run."""
MOST_VARIANTS = 8
"""Variants of a grid that are listed beside what its settings do."""
SAME = ("data", "teacher")
"""Sections of a configuration that a sweep must share with a run to be its ablation."""
SILENT = ("report", "cache_dir", "train.wandb", "train.wandb_project", "train.log_every", "train.save_every")
"""Settings that change no figure."""


def runs_beside(run: Run, config: dict[str, Any], evaluation: dict[str, Any], manifest: dict[str, Any]) -> Table:
    """Put the students of the folder's other runs on the same held-out text beside this run's; no rows without any.

    Without intervals: those need the scores of every document, which `python -m kdkit compare` pairs.
    """
    mine, level = _flat(config), evaluation["models"]["student"]["bits_per_byte"]
    found = []
    for folder in _folders(run):
        other, settings = _read(folder / "evaluation.json"), _settings(folder)
        text = _read(folder / "data" / "manifest.json")
        if not other or not settings or "differences" not in other or not _same_text(evaluation, manifest, other, text):
            continue
        differing = [
            f"{key}={_write(value)}" for key, value in _flat(settings).items() if mine.get(key, value) != value
        ]
        differing = hide_folders(differing, machine_folders(settings, folder))
        entry = other["models"]["student"]
        cells = [f"{entry['bits_per_byte']:.3f}", f"{entry['bits_per_byte'] - level:+.3f}"]
        gap = write_share(other, MISSING)
        steps = write_number(entry.get("training", {}).get("steps"), "{:,}")
        found.append((len(differing), [folder.name, _list(differing), steps, *cells, gap]))
    own = write_number(evaluation["models"]["student"].get("training", {}).get("steps"), "{:,}")
    this = [run.name, "this run", own, f"{level:.3f}", MISSING, write_share(evaluation, MISSING)]
    rows = [row for _, row in sorted(found, key=lambda each: each[0])[:MOST_RUNS]]
    headings = ["run", "what differs", "steps", f"student, bits per byte {LOWER}", f"more than this run's by {LOWER}"]
    return [*headings, f"gap closed {HIGHER}"], [this, *rows] if rows else []


def sweeps_beside(run: Run, config: dict[str, Any], steps: int | None) -> list[dict[str, Any]]:
    """Return the sweeps in the folder of the same text and teacher.

    Args:
        steps: of this run's student.

    Returns:
        `name`, `verdict`, `effects` (of a grid, what each setting does), `table` of the variants (no rows where they
        are many and the effects say it), `unseen`, `length` and `page`, in words.
    """
    found = []
    for folder in _folders(run):
        sweep = _read(folder / "sweep.json")
        if not sweep or not any(
            _settings(inner) and _shares(config, _settings(inner)) for inner in sorted(folder.iterdir())
        ):
            continue
        # of one setting its variants say the same
        effects = effect_sentences(sweep) if len(sweep.get("effects", [])) > 1 and sweep["num_effects"] else []
        headings, rows = verdict_table(sweep)
        found.append(
            {
                "name": sweep["name"],
                "verdict": conclusion(sweep),
                "effects": effects,
                "table": (headings, rows if len(rows) <= MOST_VARIANTS or not effects else []),
                "unseen": unseen_sentence(sweep),
                "length": _length(sweep, steps),
                "page": f"{folder.name}/report.html",
            }
        )
    return found


def _length(sweep: dict[str, Any], steps: int | None) -> str:
    """Say how many seeds and steps a sweep's runs had, and this run's steps where those are others."""
    count, trained = len(sweep["seeds"]), [entry["steps"] for entry in sweep["variants"] if entry.get("steps")]
    words = f"{count} seed{'s' * (count > 1)}"
    if not trained:
        return words
    each = f"{max(trained):,}" if min(trained) == max(trained) else f"{min(trained):,} to {max(trained):,}"
    other = steps is not None and {steps} != set(trained)
    return f"{words} of {each} steps" + (f", where this run had {steps:,}" if other else "")


def _folders(run: Run) -> list[Path]:
    """Return the folders beside a run's."""
    around = sorted(run.path.resolve().parent.iterdir())
    return [folder for folder in around if folder.is_dir() and folder != run.path.resolve()]


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON file of another run; {} where there is none, or none that can be read: it must not stop this page."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _settings(folder: Path) -> dict[str, Any]:
    """Read another run's configuration; {} where there is none that can be read."""
    try:
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _same_text(
    evaluation: dict[str, Any], manifest: dict[str, Any], other: dict[str, Any], text: dict[str, Any]
) -> bool:
    """Return whether two runs were measured on the same held-out text."""
    corpora = [each.get("corpus", {}).get("fingerprint") for each in (manifest, text)]
    sizes = [each.get("evaluated", {}).get("bytes") for each in (evaluation, other)]
    return corpora[0] is not None and corpora[0] == corpora[1] and sizes[0] == sizes[1]


def _shares(config: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two configurations have the same text and the same teacher."""
    return all(config.get(section) == other.get(section) for section in SAME)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Flatten a configuration to the settings that may change a figure."""
    return {key: value for key, value in flatten(config).items() if not key.startswith(SILENT)}


def _write(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _list(settings: list[str]) -> str:
    """Name some settings, and count the rest."""
    if not settings:
        return "nothing"
    rest = len(settings) - MOST_SETTINGS
    return ", ".join(settings[:MOST_SETTINGS]) + (f", and {rest} more" if rest > 0 else "")
