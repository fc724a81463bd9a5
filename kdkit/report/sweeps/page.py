"""The report of a sweep: `report.html` (self-contained), `report.md` and its pictures, from its `sweep.json`.

A difference above 0 means that the variant is better; what levels are, `measure` says.
"""

from pathlib import Path

from kdkit.report.render import embed_picture, render_files
from kdkit.report.sweeps.figures import draw_effects, draw_heat_map, draw_pareto, draw_variants
from kdkit.report.sweeps.tables import difference_table, effects_table, level_table, settings_table, verdict_table
from kdkit.report.sweeps.words import conclusion, cost_sentence, effect_sentences, how_to_read, unseen_sentence
from kdkit.runs.folder import Run


def write_sweep_report(folder: Run) -> Path:
    """Write page, Markdown twin and pictures into a sweep's folder.

    Returns:
        The path of `report.html`.
    """
    sweep, at = folder.read_json("sweep.json"), folder.path
    pictures = {"variants": draw_variants(sweep, at / "variants.png"), "costs": draw_pareto(sweep, at / "costs.png")}
    tables = {
        "verdicts": verdict_table(sweep),
        "levels": level_table(sweep),
        "differences": difference_table(sweep),
        "settings": settings_table(sweep),
    }
    if "effects" in sweep:  # of a grid
        pictures["effects"] = draw_effects(sweep, at / "effects.png")
        pictures["heat_map"] = draw_heat_map(sweep, at / "heat_map.png")
        tables["effects"] = effects_table(sweep)
    facts = {
        "title": f"Sweep {sweep['name']}",
        "verdict": conclusion(sweep),
        "command": sweep["command"],
        "sweep": sweep,
        "pictures": {name: embed_picture(path) for name, path in pictures.items() if path is not None},
        "tables": tables,
        "how_to_read": how_to_read(sweep),
        "effects": effect_sentences(sweep),
        "unseen": unseen_sentence(sweep),
        "costs": cost_sentence(sweep),
        "config": {entry["name"]: entry["settings"] for entry in sweep["variants"]},
        "environment": sweep["environment"],
    }
    render_files(at, {"report.md": "sweep.md.j2", "report.html": "sweep.html.j2"}, facts)
    return at / "report.html"
