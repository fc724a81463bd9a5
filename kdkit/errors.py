"""The exceptions that a user is meant to read; they lie under every other module."""

import textwrap

WIDTH = 96
"""Columns of an error in a notebook; JupyterLab and Kaggle show about 100 before they wrap inside words."""


class UserError(ValueError):
    """A mistake that the user can correct: shown as one line, exit code 2, no traceback.

    The message reads `<config path or function>: expected <constraint>, got <value>; <what to do>`.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints in a traceback's place."""
        return _as_block(str(self))


class TrainingError(RuntimeError):
    """A training that cannot go on, such as a loss that is not a number: one line, exit code 1, no traceback."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints in a traceback's place."""
        return _as_block(str(self))


def _as_block(message: str) -> list[str]:
    """Break a message into lines that a notebook shows whole, what to do on a line of its own.

    A command is never broken: it is there to be copied.
    """
    what, _, remedy = message.partition("; ")
    lines = textwrap.wrap(what, WIDTH, break_long_words=False, break_on_hyphens=False)
    before, command, rest = remedy.partition("python -m kdkit ")
    lines += textwrap.wrap(before, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [*lines, *([f"    {command}{rest}"] if command else [])]
