"""Ctrl-C, or Jupyter's interrupt, in a training: the step is finished and saved first; a second one stops at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

FIRST = "stopping: this step is finished and saved first; once more stops at once and saves nothing"
"""What a first Ctrl-C is answered with, while a training runs."""


class Stopped(KeyboardInterrupt):
    """A training was stopped by its user, and what it had is saved; the message says what that is."""

    def _render_traceback_(self) -> list[str]:
        """Show one line in a notebook; IPython's hook."""
        return [f"stopped. {self}. To go on, run all cells again, in 03 and 06 with RESUME = True."]


@dataclass
class StopRequest:
    """Whether a user has asked the training to stop."""

    wanted: bool = False

    def check(self, saved: str) -> None:
        """Stop here, if that was asked for.

        Args:
            saved: what is on the disk, in words.

        Raises:
            Stopped: the user has asked.
        """
        if self.wanted:
            raise Stopped(saved)


@contextmanager
def stop_when_saved() -> Iterator[StopRequest]:
    """Note the first SIGINT instead of raising at once, so that whoever trains can save and then call `check`.

    The second one raises KeyboardInterrupt wherever the training is. Signals reach the main thread only, so in any
    other thread, and with several processes, which cannot agree on a step, nothing is changed.
    """
    request = StopRequest()
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several or threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, frame: FrameType | None) -> None:
        request.wanted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, f"{FIRST}\n".encode())  # print may be what was interrupted, and does not let itself be called again

    before = signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, before)
