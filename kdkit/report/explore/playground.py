"""A playground: one prompt, the answers of a run's models side by side. Never imports torch.

What is shown first is what `kdkit.evaluate.playground` writes down.
"""

from collections.abc import Callable
from typing import Any

from IPython.display import HTML

from kdkit.errors import UserError
from kdkit.report.display import show_table
from kdkit.report.explore.widgets import NAMED, WIDE, Explorer, answering, problem
from kdkit.report.tables import MISSING
from kdkit.report.writing import plain_html
from kdkit.runs.curves import LABELS
from kdkit.runs.folder import Run, is_watched

Ask = Callable[..., dict[str, Any]]
"""From the name of a model, a prompt and the options of `kdkit.evaluate.playground.Playground.ask` to its answer."""

TICKED = ("teacher", "student", "baseline")
"""Models that are asked until somebody chooses others."""
MOST_TOKENS = 256


def show_playground(run: Run, ask: Ask) -> HTML | Explorer:
    """Return what a notebook shows (04): widgets for a person, the models' answers to one prompt otherwise.

    Args:
        run: with `playground.json`.
        ask: lets a model write.
    """
    facts = run.read_json("playground.json")
    still = answers_html(facts)
    return Explorer(playground(facts, ask), still) if is_watched() else HTML(still)


def playground(facts: dict[str, Any], ask: Ask) -> Any:
    """Return widgets: a prompt, how to draw, whom to ask, a button, and a card for every model.

    Args:
        facts: `playground.json`.
        ask: called for one model after the other when the button is clicked.
    """
    import ipywidgets

    prompt = ipywidgets.Textarea(value=facts["prompt"], description="prompt", rows=4, style=NAMED, layout=WIDE)
    options = _option_widgets(facts["options"])
    boxes = {name: _checkbox(name) for name in facts["answers"]}
    button = ipywidgets.Button(description="Generate", button_style="primary")
    message = ipywidgets.HTML()
    cards = {name: _card(name, answer) for name, answer in facts["answers"].items()}

    def fill(name: str) -> None:
        cards[name].children[1].value = "<i>writing\u2026</i>"
        values = {option: widget.value for option, widget in options.items()}
        cards[name].children[1].value = answer_html(ask(name, prompt.value, **values))

    def generate(_: Any) -> None:
        """Ask the models that are ticked; one that fails says so in its own card."""
        chosen = [name for name, box in boxes.items() if box.value]
        if not chosen:
            raise UserError("models: expected at least one, got none; tick one")
        button.disabled = True
        try:
            for name in chosen:
                answering(cards[name].children[1], fill)(name)
        finally:
            button.disabled = False

    def place(_: Any) -> None:
        for name, box in boxes.items():
            cards[name].layout.display = "" if box.value else "none"

    button.on_click(answering(message, generate))
    for box in boxes.values():
        box.observe(place, "value")
    place(None)
    rows = {"flex_flow": "row wrap"}
    return ipywidgets.VBox(
        [
            prompt,
            *options.values(),
            ipywidgets.HBox(list(boxes.values()), layout=rows | {"margin": "0 0 0 116px"}),
            ipywidgets.HBox([button], layout={"margin": "4px 0 4px 116px"}),
            message,
            ipywidgets.HBox(list(cards.values()), layout=rows | {"align_items": "stretch"}),
        ]
    )


def answer_html(answer: dict[str, Any]) -> str:
    """Write what a model answered, and what it took.

    Args:
        answer: what `Playground.ask` returns, or why there is none (`problem`).
    """
    if "problem" in answer:
        return problem(answer["problem"])
    style = "white-space:pre-wrap;word-break:break-word;line-height:1.5"
    end = "ended by the model" if answer["stopped"] else "cut off"
    facts = (
        f"{_speed(answer)} tokens per second, {answer['tokens']} tokens, {end}; "
        f"the prompt costs {answer['bits_per_byte']:.3f} bits per byte"
    )
    small = f"<div style='line-height:1.5;font-size:0.85em;opacity:0.75'>{facts}</div>"
    return f"<div style='{style}'>{plain_html(answer['text'])}</div>{small}"


def answers_html(facts: dict[str, Any]) -> str:
    """Write the answers of all models to one prompt as a table.

    Args:
        facts: `playground.json`.
    """
    rows = []
    for name, answer in facts["answers"].items():
        figures = [MISSING, MISSING]
        if "problem" not in answer:
            figures = [_speed(answer), f"{answer['bits_per_byte']:.3f}"]
        rows.append([LABELS.get(name, name), answer.get("text", answer.get("problem")), *figures])
    table = show_table((["model", "its text", "tokens per second", "bits per byte of the prompt"], rows))
    style = "max-width:820px;white-space:pre-wrap;line-height:1.5"
    return f"<div style='{style}'><b>prompt</b>: {plain_html(facts['prompt'])}</div>{table.data}"


def _speed(answer: dict[str, Any]) -> str:
    return f"{answer['tokens'] / max(answer['seconds'], 1e-9):,.0f}"


def _option_widgets(options: dict[str, Any]) -> dict[str, Any]:
    """Return a widget for each option of `Playground.ask`."""
    import ipywidgets

    look = {"style": NAMED, "layout": WIDE, "continuous_update": False}
    return {
        "temperature": ipywidgets.FloatSlider(
            value=options["temperature"], min=0.0, max=2.0, step=0.05, description="temperature", **look
        ),
        "top_p": ipywidgets.FloatSlider(
            value=options["top_p"], min=0.05, max=1.0, step=0.05, description="top p", **look
        ),
        "max_new_tokens": ipywidgets.IntSlider(
            value=options["max_new_tokens"],
            min=1,
            max=max(MOST_TOKENS, options["max_new_tokens"]),
            description="max tokens",
            **look,
        ),
        "seed": ipywidgets.BoundedIntText(
            value=options["seed"], min=0, max=2**31 - 1, description="seed", style=NAMED, layout={"width": "240px"}
        ),
    }


def _checkbox(name: str) -> Any:
    import ipywidgets

    return ipywidgets.Checkbox(
        value=name in TICKED,
        description=LABELS.get(name, name),
        indent=False,
        layout={"width": "auto", "margin": "2px 18px 2px 2px"},
    )


def _card(name: str, answer: dict[str, Any]) -> Any:
    """Return a column for a model: its name, and what it wrote."""
    import ipywidgets

    return ipywidgets.VBox(
        [ipywidgets.HTML(f"<b>{plain_html(LABELS.get(name, name))}</b>"), ipywidgets.HTML(answer_html(answer))],
        layout={"width": "300px", "border": "1px solid #9ca3af", "padding": "4px 12px", "margin": "4px"},
    )
