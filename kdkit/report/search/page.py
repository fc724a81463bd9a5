"""The report of a search: `report.html` (self-contained), `report.md` and its pictures, from its `search.json`."""

import json
import shlex
from pathlib import Path
from typing import Any

from kdkit.report.render import embed_picture, render_files
from kdkit.report.search.figures import draw_curves, draw_history, draw_settings
from kdkit.report.tables import MISSING, Table, write_number
from kdkit.report.writing import HIGHER, LOWER, Best
from kdkit.runs.folder import Run

STATES = {"complete": "trained", "pruned": "given up", "fail": "failed", "running": "being trained"}
"""Words for the states of a trial."""


def write_search_report(folder: Run) -> Path:
    """Write page, Markdown twin and pictures into a search's folder.

    Returns:
        The path of `report.html`.
    """
    search, at = folder.read_json("search.json"), folder.path
    pictures = {
        "Trial by trial": draw_history(search, at / "history.png"),
        "Setting by setting": draw_settings(search, at / "settings.png"),
        "Learning curves": draw_curves(search, at / "curves.png"),
    }
    facts = {
        "title": f"Search {search['name']}",
        "verdict": conclusion(search),
        "command": search["command"],
        "search": search,
        "pictures": {title: (path.name, embed_picture(path)) for title, path in pictures.items() if path is not None},
        "tables": {"space": space_table(search), "trials": trial_table(search)},
        "again": best_command(search),
        "config": (best_trial(search) or {"settings": {}})["settings"],
        "environment": search["environment"],
    }
    render_files(at, {"report.md": "search.md.j2", "report.html": "search.html.j2"}, facts)
    return at / "report.html"


def best_trial(search: dict[str, Any]) -> dict[str, Any] | None:
    """Return the trial with the best level; None where none has come to an end."""
    complete = [trial for trial in search["trials"] if trial["state"] == "complete"]
    choose = max if search["measure"]["is_score"] else min
    return choose(complete, key=lambda trial: trial["level"], default=None)


def conclusion(search: dict[str, Any]) -> str:
    """State what was best and how far it is from the configuration's own values, if those were tried."""
    best, own = best_trial(search), next((t for t in search["trials"] if t["number"] == 0), None)
    counts = {word: sum(trial["state"] == state for trial in search["trials"]) for state, word in STATES.items()}
    tried = f"{len(search['trials'])} trials: {', '.join(f'{n} {word}' for word, n in counts.items() if n)}. "
    if best is None:
        return tried + "None has come to an end."
    unit, seeds = search["measure"]["name"], len(search["seeds"])
    over = f", mean of {seeds} seeds" if seeds > 1 else ", one seed"
    values = ", ".join(f"{key} {_short(value)}" for key, value in best["settings"].items())
    text = f"{tried}Best: {_level(search, best['level'])} {unit}{over} (trial {best['number']}: {values}). "
    if search.get("has_own") and own is best:
        text += "These are the configuration's own values: no other trial was better. "
    elif own and own["state"] == "complete" and own is not best:
        first = "The configuration's own values" if search.get("has_own") else "The first trial"
        gain = _level(search, abs(own["level"] - best["level"]))
        text += f"{first}, {_level(search, own['level'])}, {'are' if search.get('has_own') else 'is'} worse by {gain}. "
    return text + (
        "The best of many looks better than it is: it was chosen on the text and the seeds by which it is judged here. "
        "Train it with other seeds before you trust it."
    )


def space_table(search: dict[str, Any]) -> Table:
    """List the settings: what they were chosen from, the best value, and how much each one matters."""
    best = best_trial(search)
    by = search["importance_by"]
    headings = ["setting", "chosen from", "best", *([f"importance, {by}"] if by else [])]
    rows = []
    for dimension in search["space"]:
        value = MISSING if best is None else _short(best["settings"][dimension["key"]])
        share = [write_number(search["importances"].get(dimension["key"]), "{:.2f}")] if by else []
        rows.append([dimension["key"], dimension["words"], value, *share])
    return headings, rows


def trial_table(search: dict[str, Any]) -> Table:
    """List the trials, the best first, those that were given up and failed behind."""
    is_score = search["measure"]["is_score"]
    headings = ["trial", *(dimension["label"] for dimension in search["space"]), "state"]
    headings += [f"{search['measure']['name']} {HIGHER if is_score else LOWER}", "seconds"]
    sign, best = -1 if is_score else 1, best_trial(search)

    def rank(trial: dict[str, Any]) -> tuple[int, float]:
        """Put trained ones first, by their levels."""
        return list(STATES).index(trial["state"]), sign * (trial["level"] or 0.0)

    rows = []
    for trial in sorted(search["trials"], key=rank):
        values = [_short(trial["params"].get(dimension["key"])) for dimension in search["space"]]
        level = write_number(trial["level"], f"{{:.{search['measure']['digits']}f}}")
        state = STATES[trial["state"]]
        if trial["state"] == "pruned" and trial["curve"]:
            state += f" at {trial['curve'][-1][0] / len(search['seeds']):.0f} %"
            level = MISSING
        seconds = write_number(trial["seconds"], "{:.0f}")
        rows.append([str(trial["number"]), *values, state, Best(level) if trial is best else level, seconds])
    return headings, rows


def best_command(search: dict[str, Any]) -> str:
    """Return the command that trains the best trial's settings as a run with its notebooks; empty without one."""
    if (best := best_trial(search)) is None:
        return ""
    items = [f"{key}={value if isinstance(value, str) else _yaml(value)}" for key, value in best["settings"].items()]
    words = ["python", "-m", "kdkit", "run", search["config"]]
    return shlex.join([*words, *(word for item in [*search["overrides"], *items] for word in ("-p", item))])


def _yaml(value: Any) -> str:
    """Write a value on one line of YAML."""
    return json.dumps(value)  # JSON is YAML


def _short(value: Any) -> str:
    """Write a setting for a reader."""
    return MISSING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _level(search: dict[str, Any], level: float) -> str:
    return f"{level:.{search['measure']['digits']}f}"
