"""Lines that a stage prints, in forms that a terminal recognises: steps of a training, and notes for a person.

Everything else that is printed in a notebook stays in the notebook.
"""

import re
from dataclasses import dataclass

NOTE = "note: "
"""Begins a line that a person should read wherever it is shown."""
_ASCII = {code: 0x2400 + code for code in range(0x20) if code not in (9, 10)}  # tab and line end stay
_SIGNS = _ASCII | {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""The sign of every control character: Unicode has one for each of ASCII's."""
_STEP = re.compile(r"(?P<phase>\S.*?) +(?P<step>\d+)/(?P<total>\d+) .*? (?P<left>\d+) s left")


@dataclass(frozen=True)
class Step:
    """Where a training or another long work is."""

    phase: str
    """What is made: `teacher`, `student`, `cache`, ..."""
    step: int
    total: int
    seconds_left: int
    """Of this phase alone."""


def step_line(phase: str, step: int, total: int, words: str, seconds_left: float) -> str:
    """Write a line of progress; `read_step` reads it.

    Args:
        words: values that stand between, such as the loss.
    """
    return f"{phase:<20} {step:>6}/{total}  {words}  {seconds_left:4.0f} s left"


def read_step(line: str) -> Step | None:
    """Read what `step_line` wrote; None: it is another line."""
    found = _STEP.fullmatch(line.strip())
    return found and Step(found["phase"], int(found["step"]), int(found["total"]), int(found["left"]))


def visible(text: str) -> str:
    r"""Write control characters as signs, `\x1b` as `␛`: text that a model wrote must not steer a terminal.

    Line ends and tabs stay.
    """
    return text.replace("\r\n", "\n").translate(_SIGNS)


def note(text: str) -> None:
    """Print a line that a terminal shows too, as what a training goes on from."""
    print(NOTE + text, flush=True)


def say_time(seconds: float) -> str:
    """Write a time as roughly as it is known: `56 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
