"""Picture of the experts used on a text, and widgets to choose the text in an open notebook. Never imports torch.

What is drawn is what `kdkit.teachers.expert_probe` writes down.
"""

from math import log2
from pathlib import Path
from typing import Any

from IPython.display import Image, Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from kdkit.report.explore.widgets import MARK, Explore, Explorer, text_explorer
from kdkit.report.figures import save, to_png
from kdkit.report.render import data_url
from kdkit.report.router import source_colours
from kdkit.runs.folder import Run, is_watched


def draw_experts(run: Run) -> Path | None:
    """Draw the experts used on a held-out text (02); None where there are none."""
    facts = run.read_json("teacher/experts.json")
    return None if "missing" in facts else save(picture_of(facts, facts["shown"]), run, "experts.png")


def show_experts(run: Run, explore: Explore | None) -> Any:
    """Return what a notebook shows: widgets for a person, the saved picture otherwise, words without experts.

    Args:
        explore: runs the teacher on a text; None: it has no experts.
    """
    facts, path = run.read_json("teacher/experts.json"), draw_experts(run)
    if path is None or explore is None:
        return Markdown(facts["missing"])
    if not is_watched():
        return Image(filename=str(path), width=980)
    still = f"<img alt='experts of a text' width='980' src='{data_url(path.read_bytes())}'>"
    return Explorer(explorer(facts, explore), still)


def explorer(facts: dict[str, Any], explore: Explore) -> Any:
    """Return widgets: a text, a token of it, and the picture of both.

    Args:
        facts: `teacher/experts.json`.
        explore: runs the teacher whenever text or token change.
    """
    import ipywidgets

    picture = ipywidgets.Image(format="png", layout={"max_width": "980px"})

    def show(shown: dict[str, Any]) -> None:
        picture.value = to_png(picture_of(facts, shown))

    return text_explorer(facts, explore, picture, show)


def picture_of(facts: dict[str, Any], shown: dict[str, Any]) -> Figure:
    """Draw the chosen experts and the routing entropy, both `[num_layers, S]`, and each expert's next tokens.

    Args:
        facts: `layers` and `num_experts` of `teacher/experts.json`.
        shown: what `ExpertExplorer.explore` returns for a text.
    """
    layers, predictions = len(facts["layers"]), shown["predictions"]
    heights = [0.8 + 0.26 * layers, 0.3 + 0.2 * layers, 0.5 + 0.24 * len(predictions)]
    figure = Figure(figsize=(10.4, sum(heights) + 1.2), layout="constrained")
    choices, entropy, signals = figure.subplots(3, 1, height_ratios=heights)
    _draw_choices(choices, facts, shown)
    _draw_entropy(entropy, facts, shown)
    _draw_predictions(signals, shown)
    return figure


def _draw_choices(axes: Axes, facts: dict[str, Any], shown: dict[str, Any]) -> None:
    """Colour each token of each layer by the expert of the largest weight, and name the first two."""
    colours = source_colours(facts["num_experts"])
    axes.imshow([[colours[chosen[0]] for chosen in row] for row in shown["experts"]], aspect="auto")
    for layer, row in enumerate(shown["experts"]):
        for place, chosen in enumerate(row):
            axes.text(place, layer, " ".join(map(str, chosen[:2])), ha="center", va="center", fontsize=7)
    first = "two experts" if len(shown["experts"][0][0]) > 1 else "expert"
    axes.set_title(f"{first} of the largest weight for each token, per layer (colour: the first)", fontsize=10)
    axes.xaxis.tick_top()
    _label_tokens(axes, shown)
    _mark_token(axes, shown)
    _label_layers(axes, facts)


def _draw_entropy(axes: Axes, facts: dict[str, Any], shown: dict[str, Any]) -> None:
    """Show how undecided the gates are."""
    most = log2(facts["num_experts"])
    image = axes.imshow(shown["entropy"], cmap="YlGnBu", vmin=0, vmax=most, aspect="auto")
    axes.set_title(f"entropy of the routing, bits (at most {most:.2g}: all experts alike)", fontsize=10)
    axes.set_xticks([])
    _mark_token(axes, shown)
    _label_layers(axes, facts)
    axes.figure.colorbar(image, ax=axes, pad=0.01)


def _draw_predictions(axes: Axes, shown: dict[str, Any]) -> None:
    """Write the most likely tokens after the chosen one, by the model and by each expert alone; darker is likelier."""
    predictions, position = shown["predictions"], shown["position"]
    axes.imshow([entry["probabilities"] for entry in predictions], cmap="Greens", vmin=0, vmax=1.2, aspect="auto")
    for row, entry in enumerate(predictions):
        for place, (token, probability) in enumerate(zip(entry["tokens"], entry["probabilities"], strict=True)):
            axes.text(
                place,
                row,
                f"{_visible(token)}  {probability:.1%}",
                ha="center",
                va="center",
                fontsize=8,
                parse_math=False,
            )
    names = ["its own routing" if entry["expert"] is None else f"expert {entry['expert']}" for entry in predictions]
    following = shown["tokens"][position + 1 : position + 2]
    read = f"after {_visible(shown['tokens'][position])}"
    text = f"{read}, where the text goes on with {_visible(following[0])}" if following else read
    axes.set_title(f"most likely next tokens {text}", fontsize=10, parse_math=False)
    axes.set(xticks=(), yticks=range(len(names)), yticklabels=names)
    axes.tick_params(axis="y", labelsize=8)


def _label_tokens(axes: Axes, shown: dict[str, Any]) -> None:
    """Name the columns, the chosen token in bold."""
    labels = [_visible(token) for token in shown["tokens"]]
    # a dollar sign in a text is no formula
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="left", fontsize=8, parse_math=False)
    axes.get_xticklabels()[shown["position"]].set(fontweight="bold", color=MARK)


def _mark_token(axes: Axes, shown: dict[str, Any]) -> None:
    """Frame the column of the chosen token."""
    axes.axvspan(shown["position"] - 0.5, shown["position"] + 0.5, fill=False, edgecolor=MARK, linewidth=1.8)


def _label_layers(axes: Axes, facts: dict[str, Any]) -> None:
    axes.set_yticks(range(len(facts["layers"])), facts["layers"], fontsize=7)
    axes.set_ylabel("layer", fontsize=9)


def _visible(token: str) -> str:
    """Make spaces, line ends and characters that the font does not have visible, and cut a long token."""
    token = token.replace(" ", "\u2423").replace("\n", "\u23ce").replace("\t", "\u21e5")
    font = get_font(findfont("sans"))
    token = "".join(c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in token)
    return token if len(token) <= 14 else f"{token[:13]}\u2026"
