"""Pictures of a run, drawn from its JSON files and saved as PNG in `figures/`. Never imports torch."""

import io
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdkit.runs.curves import COLOURS, LABELS, teacher_level
from kdkit.runs.disk import whole_file, writing
from kdkit.runs.folder import Run

PARTS = {
    "kd": ("predictions", "#0f766e"),
    "feature": ("last hidden state", "#1d4ed8"),
    "attention": ("attention", "#c2410c"),
    "layerwise": ("all hidden states", "#7c3aed"),
    "contrastive": ("contrastive", "#be185d"),
}
"""Parts of the teacher's signal by their names in metrics.jsonl: title and colour."""


def draw_alignment(run: Run) -> Path:
    """Draw how the student's tokens align with the teacher's, and what the vocabularies share (01)."""
    manifest = run.read_json("data/manifest.json")
    facts, vocabulary = manifest["train"], manifest["vocabulary"]
    bars = {
        "student tokens the teacher\npredicts as the same token": facts["same_token_share"],
        "student tokens that start where\na teacher token starts": facts["same_prefix_share"],
        "student's vocabulary\nthat the teacher has": vocabulary["common"] / vocabulary["student"],
        "teacher's vocabulary\nthat the student has": vocabulary["common"] / vocabulary["teacher"],
    }
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots()
    rectangles = axes.barh(list(bars), list(bars.values()), color=COLOURS["student"])
    axes.bar_label(rectangles, [f"{share:.0%}" for share in bars.values()], padding=4)
    axes.set(xlim=(0, 1.12), xlabel="share")
    axes.invert_yaxis()
    tidy(axes)
    return save(figure, run, "alignment.png")


def draw_expert_load(run: Run) -> Path | None:
    """Show which share of the tokens each expert is sent, per layer (02); None for a dense teacher."""
    load = run.read_json("teacher/probe.json")["expert_load"]
    if load is None:
        return None
    even = 1 / len(load[0])
    figure = Figure(figsize=(1.6 + 0.62 * len(load[0]), 1.5 + 0.36 * len(load)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(load, cmap="YlGnBu", vmin=0, vmax=max(2 * even, max(map(max, load))), aspect="auto")
    for layer, shares in enumerate(load):
        for expert, share in enumerate(shares):
            colour = "white" if share > 1.4 * even else "black"
            axes.text(expert, layer, f"{share:.0%}", ha="center", va="center", fontsize=8, color=colour)
    axes.set(xlabel="expert", ylabel="layer", xticks=range(len(load[0])), yticks=range(len(load)))
    axes.set_title(f"share of tokens sent to each expert (even: {even:.0%})", fontsize=10)
    figure.colorbar(image, ax=axes)
    return save(figure, run, "expert_load.png")


def draw_layer_map(run: Run) -> Path | None:
    """Show which layer of the student learns from which layer of the teacher (02); None where it shows none."""
    facts = run.read_json("teacher/layer_map.json")
    if "missing" in facts:
        return None
    counts, names = (facts["student_layers"], facts["teacher_layers"]), ("student", "teacher")
    # both columns are equally high: a line that is level joins layers of equal relative depth; an only layer is a last
    heights = [[layer / (count - 1) if count > 1 else 1.0 for layer in range(count)] for count in counts]
    figure = Figure(figsize=(9.2, 1.4 + 0.28 * max(counts)), layout="constrained")
    axes = figure.subplots()
    for student, teacher in facts["pairs"]:
        axes.plot([0, 1], [heights[0][student], heights[1][teacher]], color="#94a3b8", zorder=1)
    for side, (name, levels) in enumerate(zip(names, heights, strict=True)):
        mapped = {pair[side] for pair in facts["pairs"]}
        colours = [COLOURS[name] if layer in mapped else "white" for layer in range(len(levels))]
        axes.scatter([side] * len(levels), levels, s=210, color=colours, edgecolors=COLOURS[name], zorder=2)
        for layer, level in enumerate(levels):
            colour = "white" if layer in mapped else COLOURS[name]
            axes.text(side, level, layer, ha="center", va="center", fontsize=8, color=colour)
    by = ", ".join(facts["used_by"]) or "no part of the loss in this run"
    axes.set_title(f"layers compared by: {by}", fontsize=10)
    margin = 0.5 / max(counts)
    axes.set(xlim=(-0.35, 1.35), ylim=(-margin, 1 + margin), yticks=(), ylabel="depth")
    axes.set_xticks((0, 1), names)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return save(figure, run, "layer_map.png")


def draw_learning_curves(run: Run) -> Path:
    """Show bits per byte on held-out text over steps and over seconds (03); the teacher as a line."""
    metrics = run.read_metrics()
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, label in zip(panels, ("step", "seconds"), ("optimizer step", "training seconds"), strict=True):
        for phase in ("student", "baseline", "baseline_equal_time", "baseline_answers_reused"):
            points = [m for m in metrics if m["phase"] == phase and "evaluation_bits_per_byte" in m and m["step"] > 0]
            if points:
                x, y = [m[key] for m in points], [m["evaluation_bits_per_byte"] for m in points]
                axes.plot(x, y, marker="o", markersize=3.5, color=COLOURS[phase], label=LABELS[phase])
        if (level := teacher_level(run)) is not None:
            axes.axhline(level, color=COLOURS["teacher"], linestyle="--", label=LABELS["teacher"])
        axes.set(xlabel=label, ylabel="bits per byte, held-out text" if key == "step" else "")
        tidy(axes)
    drawn = panels[0].get_legend_handles_labels()
    figure.legend(*drawn, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return save(figure, run, "learning_curves.png")


def draw_loss_terms(run: Run) -> Path:
    """Show the terms of the student's loss over steps, raw, each on its own scale (03)."""
    lines = [m for m in run.read_metrics() if m["phase"] == "student" and "loss" in m]
    figure = Figure(figsize=(9.2, 2.6), layout="constrained")
    names = {"ce_loss": "cross-entropy, nats", "kd_loss": "divergence from the teacher", "grad_norm": "gradient norm"}
    for axes, (key, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        plot_recorded(axes, lines, key, color=COLOURS["student"])
        axes.set(xlabel="optimizer step")
        tidy(axes, label)
    return save(figure, run, "loss_terms.png")


def draw_overlap(run: Run) -> Path | None:
    """Show how far the student agrees with the teacher on what comes next, over steps (03); None if not measured."""
    lines = [m for m in run.read_metrics() if m["phase"] == "student" and "overlap_share" in m]
    if not lines:
        return None
    figure = Figure(figsize=(9.2, 2.6), layout="constrained")
    share, mass, gap = figure.subplots(1, 3)
    plot_recorded(share, lines, "overlap_share", color=COLOURS["student"])
    share.set(ylim=(0, 1))
    tidy(share, "share of the most likely tokens that both have")
    for side in ("teacher", "student"):
        plot_recorded(mass, lines, f"overlap_{side}_mass", color=COLOURS[side], label=LABELS[side])
    mass.set(ylim=(0, 1))
    mass.legend(frameon=False, fontsize=8)
    tidy(mass, "probability of those, by each")
    plot_recorded(gap, lines, "overlap_entropy_gap", color=COLOURS["student"])
    gap.axhline(0.0, color="#94a3b8", linewidth=1)
    tidy(gap, "student's entropy less the teacher's, nats")
    for axes in (share, mass, gap):
        axes.title.set_fontsize(8.5)
        axes.set(xlabel="optimizer step")
    return save(figure, run, "overlap.png")


def draw_loss_parts(run: Run) -> Path | None:
    """Show the parts of the teacher's signal over steps: raw, each on its own scale, and weighted, together (03).

    None where predictions are all that is compared.
    """
    lines = [m for m in run.read_metrics() if m["phase"] == "student" and "loss" in m]
    parts = [name for name in PARTS if any(f"{name}_weighted" in m for m in lines)]
    if parts in ([], ["kd"]):
        return None
    figure = Figure(figsize=(9.2, 5.0), layout="constrained")
    figure.suptitle("parts of the teacher's signal, over optimizer steps", fontsize=11)
    for place, name in enumerate(parts):
        axes = figure.add_subplot(2, 3, place + 1)
        plot_recorded(axes, lines, f"{name}_loss", color=PARTS[name][1])
        tidy(axes, f"{PARTS[name][0]}, raw")
    axes = figure.add_subplot(2, 3, 6)
    for name in parts:
        plot_recorded(axes, lines, f"{name}_weighted", color=PARTS[name][1], label=PARTS[name][0])
    axes.set(yscale="log")
    tidy(axes, "all, as weighted in the loss")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return save(figure, run, "loss_parts.png")


def draw_quality_against_size(run: Run) -> Path:
    """Show what each model costs and how well it predicts (04)."""
    models = run.read_json("evaluation.json")["models"]
    figure = Figure(figsize=(9.2, 2.4), layout="constrained")
    panels = {
        "bits_per_byte": ("bits per byte (lower is better)", "{:.3f}"),
        "bytes_per_second": ("text read, kB per second", "{:,.0f}"),
        "size_bytes": ("weights, MB (one precision)", "{:.3g}"),
    }
    scale = {"bits_per_byte": 1, "bytes_per_second": 1e3, "size_bytes": 1e6}
    for axes, (key, (title, pattern)) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        known = {name: entry[key] / scale[key] for name, entry in models.items() if entry[key] is not None}
        values = [known.get(name, 0.0) for name in models]  # nobody counted the parameters of a teacher of one's own
        rectangles = axes.barh([LABELS[name] for name in models], values, color=[COLOURS[name] for name in models])
        labels = [pattern.format(known[name]) if name in known else "not known" for name in models]
        axes.bar_label(rectangles, labels, padding=3, fontsize=8)
        axes.margins(x=0.22)
        tidy(axes, title)
    axes.invert_yaxis()
    return save(figure, run, "quality_against_size.png")


def plot_recorded(axes: Axes, lines: list[dict[str, Any]], key: str, **options: Any) -> None:
    """Plot a figure of metrics.jsonl over optimizer steps, where it was recorded."""
    points = [(m["step"], m[key]) for m in lines if key in m]
    axes.plot(*zip(*points, strict=True), **options)


def tidy(axes: Axes, title: str = "", grid: Literal["x", "both"] = "both") -> None:
    """Remove the frame's upper and right side, and write a title."""
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)


def to_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file; nothing is saved."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def save(figure: Figure, run: Run, name: str) -> Path:
    """Save a figure in the run and return its path."""
    path = run.path / "figures" / name
    with writing(run.path, "--runs-dir"), whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    return path
