"""What a person at a terminal sees: one line of progress that is rewritten, notes, results; no wider than 100 columns.

Where nobody watches, as in a log file, a line of progress is printed every so often instead.
"""

import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import TextIO

from kdkit.machine.interrupt import FIRST
from kdkit.runs.messages import NOTE, Step, read_step, say_time, visible

WIDTH = 100
"""Columns of a line at most; a path or a command that is longer is not cut."""
EVERY = 15.0
"""Seconds between lines of progress where they cannot be rewritten."""
_WARNING = re.compile(r"\bwarning\b", re.IGNORECASE)
_BAR = re.compile(r"\d+%\||\d+(\.\d+)?(it/s|s/it)")
"""Progress bars of other packages."""


@dataclass
class Lines:
    """A file that hands on what is written to it, line by line."""

    take: Callable[[str], None]
    _rest: str = ""

    def write(self, text: str) -> int:
        """Hand on whole lines; the rest waits."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.take(line.rpartition("\r")[2].rstrip())
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line is handed on when it is whole."""

    def isatty(self) -> bool:
        """Say that nobody watches this file itself."""
        return False


@dataclass
class Terminal:
    """Shows the way of some work: `[2/5] teacher 130/1300 · 56 s left · about 3 min in all`."""

    verbose: bool = False
    """Show all that is printed."""
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    place: str = ""
    """Stands before progress: `[2/5]`."""
    in_all: Callable[[Step], float | None] = lambda step: None
    """Estimates the seconds of the whole, where that can be."""
    is_drawn: bool = False
    _shown_at: float = -EVERY
    _phase: str = ""

    @property
    def rewrites(self) -> bool:
        """Whether the last line can be rewritten: somebody watches."""
        return self.stream.isatty()

    def say(self, text: str) -> None:
        """Print a line that stays, broken between words where it is too long."""
        self.erase()
        lines = textwrap.wrap(
            visible(text), WIDTH, break_long_words=False, break_on_hyphens=False, subsequent_indent="    "
        )
        print("\n".join(lines), file=self.stream, flush=True)

    def show(self, text: str) -> None:
        """Show a line until the next one; nothing where it could not be taken back."""
        if self.rewrites:
            print(f"\r\x1b[K{text[: WIDTH - 1]}", end="", file=self.stream, flush=True)
            self.is_drawn = True

    def erase(self) -> None:
        """Take back the line of progress."""
        if self.is_drawn:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
            self.is_drawn = False

    def erase_in_signal(self) -> None:
        """Do what `erase` does, from a signal's handler, which may have interrupted a print."""
        if self.is_drawn:
            os.write(self.stream.fileno(), b"\r\x1b[K")
            self.is_drawn = False

    def printed(self, line: str) -> None:
        """Take a line that some work has printed."""
        if (step := read_step(line)) is not None:
            self.progress(step)
        if self.verbose:
            self.erase()
            print(line, file=self.stream, flush=True)
        elif step is None and line.startswith(NOTE):
            self.say(f"{self.place} {line.removeprefix(NOTE)}".strip())
        elif step is None and _WARNING.search(line):
            self.say(line)

    def complained(self, line: str) -> None:
        """Take a line that some work has written to stderr: shown, unless it is a bar of another package."""
        # the kernel has written the answer to Ctrl-C straight to the terminal already
        if line and line != FIRST and (self.verbose or not _BAR.search(line)):
            self.erase()
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Take what this process prints, as `printed` does."""
        with redirect_stdout(Lines(self.printed)):
            yield

    def progress(self, step: Step) -> None:
        """Show where a phase is; in a log a new phase at once, then a line every `EVERY` seconds, and its end."""
        seconds = self.in_all(step)
        whole = f" · about {say_time(seconds)} in all" if seconds is not None else ""
        text = f"{self.place} {step.phase} {step.step}/{step.total} · {say_time(step.seconds_left)} left{whole}".strip()
        if self.rewrites:
            self.show(text)
            return
        is_due = step.phase != self._phase or step.step == step.total or time.monotonic() - self._shown_at >= EVERY
        if is_due and not self.verbose:
            self._phase, self._shown_at = step.phase, time.monotonic()
            print(text, file=self.stream, flush=True)
