"""Who taught what: pictures and tables of a run with several teachers or kinds of text. Never imports torch."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdkit.report.figures import save, tidy
from kdkit.report.router import source_colours
from kdkit.report.tables import Table, write_interval
from kdkit.runs.curves import COLOURS, LABELS
from kdkit.runs.folder import Run

PHASE = "teachers"
"""Of the lines in metrics.jsonl."""
ONLY = "only "
"""Before the name of a teacher in kinds.json: the student that it has taught alone."""


def label_of(model: str) -> str:
    """Return what a model is called in pictures and tables; a teacher by its own name."""
    if model.startswith(ONLY):
        return f"student of {model.removeprefix(ONLY)} alone"
    return LABELS.get(model, f"teacher {model}")


def text_table(manifest: dict[str, Any]) -> Table | None:
    """Say how much text of each kind there is (01); None where there is one kind."""
    if not manifest.get("kinds"):
        return None
    rows = [[kind, *(f"{count:,}" for count in facts.values())] for kind, facts in manifest["kinds"].items()]
    headings = [name.replace("_", " ") for name in next(iter(manifest["kinds"].values()))]
    return ["kind of text", *headings], rows


def draw_shares(run: Run) -> Path | None:
    """Show each teacher's share of the student's tokens over the steps, and by kind of text (03); None for one teacher.

    Tokens that nobody teaches are in no share.
    """
    lines = [line for line in run.read_metrics() if line["phase"] == PHASE]
    if not lines:
        return None
    names, kinds = list(lines[0]["tokens"]), list(next(iter(lines[0]["tokens"].values())))
    colours = dict(zip(names, source_colours(len(names)), strict=True))
    figure = Figure(figsize=(9.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_over_steps(left, lines, colours)
    sums = {name: {kind: sum(line["tokens"][name][kind] for line in lines) for kind in kinds} for name in names}
    _draw_by_kind(right, sums, kinds, colours)
    right.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.42), ncols=min(len(names), 4))
    return save(figure, run, "teachers.png")


def _draw_over_steps(axes: Axes, lines: list[dict[str, Any]], colours: dict[str, Any]) -> None:
    """Stack the teachers' shares, a step of the picture for every line of the log."""
    edges = [0, *(line["step"] for line in lines)]
    bottom = [0.0] * len(lines)
    for name, colour in colours.items():
        shares = []
        for line in lines:
            total = sum(sum(of_kind.values()) for of_kind in line["tokens"].values())
            shares.append(sum(line["tokens"][name].values()) / max(total, 1e-9))
        top = [low + share for low, share in zip(bottom, shares, strict=True)]
        axes.fill_between(edges, [*bottom[:1], *bottom], [*top[:1], *top], step="pre", color=colour, linewidth=0)
        bottom = top
    axes.set(xlim=(0, edges[-1]), ylim=(0, 1), xlabel="optimizer step", ylabel="share of the student's tokens")
    axes.yaxis.set_major_formatter("{x:.0%}")
    tidy(axes, "who taught, over time")


def _draw_by_kind(axes: Axes, sums: dict[str, dict[str, float]], kinds: list[str], colours: dict[str, Any]) -> None:
    """Draw a bar per kind of text, cut into the teachers' shares of it."""
    starts = [0.0] * len(kinds)
    for name, colour in colours.items():
        totals = [max(sum(of_one[kind] for of_one in sums.values()), 1e-9) for kind in kinds]
        shares = [sums[name][kind] / total for kind, total in zip(kinds, totals, strict=True)]
        bars = axes.barh(kinds, shares, left=starts, color=colour, label=name)
        axes.bar_label(bars, [f"{share:.0%}" if share > 0.06 else "" for share in shares], label_type="center")
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    axes.set(xlim=(0, 1))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:.0%}")
    tidy(axes, "who taught which kind of text", grid="x")


def draw_kinds(run: Run) -> Path | None:
    """Show the bits per byte of all models on each kind of held-out text (04); None where there is one kind."""
    by_kind = _by_kind(run)
    if not by_kind:
        return None
    models = list(next(iter(by_kind.values())))
    teachers = [name for name in models if name not in LABELS and not name.startswith(ONLY)]
    colours = COLOURS | dict(zip(teachers, source_colours(len(teachers)), strict=True))
    figure = Figure(figsize=(9.2, 0.9 + 0.26 * len(models) * len(by_kind) / 2), layout="constrained")
    rows = -(-len(by_kind) // 2)
    panels = figure.subplots(rows, min(2, len(by_kind)), sharex=True, squeeze=False).flatten()
    for axes, (kind, levels) in zip(panels, by_kind.items(), strict=False):
        names = [label_of(name) for name in models]
        values = [levels[name]["bits_per_byte"] for name in models]
        low, high = zip(*(levels[name]["interval_95"] for name in models), strict=True)
        errors = [
            [max(0.0, v - edge) for v, edge in zip(values, low, strict=True)],
            [max(0.0, edge - v) for v, edge in zip(values, high, strict=True)],
        ]
        axes.barh(names, values, color=[colours.get(name, "#94a3b8") for name in models])
        axes.errorbar(values, names, xerr=errors, fmt="none", ecolor="#334155", elinewidth=0.9, capsize=2)
        for name, value, edge in zip(names, values, high, strict=True):
            axes.text(max(value, edge), name, f"  {value:.3f}", va="center", fontsize=8)
        axes.set_xlim(0, 1.25 * max(max(high), *values))
        axes.invert_yaxis()
        tidy(axes, kind, grid="x")
    for axes in panels[len(by_kind) :]:
        axes.set_visible(False)
    figure.supxlabel("bits per byte, held-out text (lower is better)", fontsize=9)
    return save(figure, run, "kinds.png")


def _by_kind(run: Run) -> dict[str, Any]:
    """Return what was measured on each kind of text last; empty where there is one kind."""
    return run.read_json("kinds.json") if (run.path / "kinds.json").is_file() else {}


def kinds_table(run: Run) -> Table | None:
    """Put the bits per byte of every model on every kind of text side by side; None where there is one kind."""
    if not (by_kind := _by_kind(run)):
        return None
    models = list(next(iter(by_kind.values())))
    rows = [
        [label_of(name), *(f"{of_kind[name]['bits_per_byte']:.3f}" for of_kind in by_kind.values())] for name in models
    ]
    return ["bits per byte", *by_kind], rows


def differences_table(run: Run) -> Table:
    """Say by how much the student is better than every other model on every kind of text, with intervals."""
    by_kind = _by_kind(run)
    rows = []
    for kind, of_kind in by_kind.items():
        for name, values in of_kind.items():
            if name != "student":
                interval = write_interval(values["difference_interval_95"], 3)
                rows.append([kind, label_of(name), f"{values['difference']:+.3f}", interval])
    return ["kind of text", "student against", "bits per byte better", "95 % interval"], rows


def shares_table(run: Run) -> Table | None:
    """Say how many of the student's tokens each teacher has taught, by kind of text; None for one teacher."""
    lines = [line for line in run.read_metrics() if line["phase"] == PHASE]
    if not lines:
        return None
    names, kinds = list(lines[0]["tokens"]), list(next(iter(lines[0]["tokens"].values())))
    sums = {name: [sum(line["tokens"][name][kind] for line in lines) for kind in kinds] for name in names}
    totals = [max(sum(column), 1e-9) for column in zip(*sums.values(), strict=True)]
    whole = max(sum(totals), 1e-9)
    rows = [
        [
            name,
            *(f"{value / total:.1%}" for value, total in zip(values, totals, strict=True)),
            f"{sum(values) / whole:.1%}",
        ]
        for name, values in sums.items()
    ]
    return ["teacher's share of", *kinds, "all"], rows
