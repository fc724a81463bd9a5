"""What the notebooks' widgets share: their look, errors in one line, and what a saved notebook shows in their place."""

import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdkit.errors import UserError

Explore = Callable[[str, int | None], dict[str, Any]]
"""From a text and the number of a token, None for the one in the middle, to what a model makes of them: `tokens`, of
the text, `position`, of the token, and what is shown; see `kdkit.teachers.expert_probe` and `token_probe`."""

MARK = "#c2410c"
"""Colour of the chosen token."""
WIDE = {"width": "auto", "max_width": "820px"}
"""Layout of what a line of text stands in."""
NAMED = {"description_width": "110px"}
"""Style of a widget with its name before it; of all of them, so that they stand below each other."""


@dataclass(frozen=True)
class Explorer:
    """Widgets of an open notebook; where a saved one is read without them, their first picture or table."""

    box: Any
    """An `ipywidgets` container."""
    still: str
    """HTML."""

    def _repr_mimebundle_(self, **choice: Any) -> dict[str, Any]:
        return self.box._repr_mimebundle_(**choice) | {"text/html": self.still}


def text_explorer(facts: dict[str, Any], explore: Explore, view: Any, show: Callable[[dict[str, Any]], None]) -> Any:
    """Return widgets: a held-out text or one's own, a token of it, and a view of both.

    Args:
        facts: `texts` to choose from, and `shown`: what `explore` has returned for the first.
        explore: called whenever text or token change.
        view: the widget that `show` fills with what `explore` returns.
    """
    import ipywidgets

    options = [(" ".join(text.split())[:90], text) for text in facts["texts"]]
    chosen = ipywidgets.Dropdown(options=options, description="held-out", style=NAMED, layout=WIDE)
    later = {"continuous_update": False, "style": NAMED, "layout": WIDE}
    text = ipywidgets.Textarea(value=facts["texts"][0], description="text", rows=4, **later)
    token = ipywidgets.IntSlider(min=0, description="token", **later)
    message = ipywidgets.HTML()

    def place(shown: dict[str, Any]) -> None:
        """Show what was found, and move the token's slider there."""
        # moved by hand it runs the model, moved by a new text it must not run it again
        with unheard(token, on_token):
            token.max, token.value = len(shown["tokens"]) - 1, shown["position"]
        show(shown)

    def take(change: dict[str, Any]) -> None:
        text.value = change["new"]

    on_token = answering(message, lambda change: place(explore(text.value, token.value)))
    token.observe(on_token, "value")
    text.observe(answering(message, lambda change: place(explore(text.value, None))), "value")
    chosen.observe(take, "value")
    place(facts["shown"])
    return ipywidgets.VBox([chosen, text, token, message, view])


@contextmanager
def unheard(widget: Any, react: Callable[..., None]) -> Iterator[None]:
    """Change the value of a widget without the call of an observer."""
    widget.unobserve(react, "value")
    try:
        yield
    finally:
        widget.observe(react, "value")


def answering(message: Any, react: Callable[..., None]) -> Callable[..., None]:
    """Return a callback for a widget that writes its error, in one line, into the widget `message`.

    A callback runs outside of every cell, so there is nothing below which a browser would show its error.

    Args:
        message: an `ipywidgets.HTML`.
        react: what the widget calls.
    """

    def run(*event: Any) -> None:
        """Clear what the last call left, and react."""
        message.value = ""
        try:
            react(*event)
        except UserError as error:
            message.value = problem(str(error))
        except Exception as error:
            logging.getLogger(__name__).exception("a callback of a widget failed")
            message.value = problem(f"{type(error).__name__}: {error}")

    return run


def problem(text: str) -> str:
    """Write an error as a line of HTML; of several lines the first one."""
    first = (text.strip().splitlines() or [""])[0]
    return f"<div style='border-left:4px solid #dc2626;padding:2px 12px;line-height:1.5'>{html.escape(first)}</div>"
