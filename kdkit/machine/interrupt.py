"""Stopping a training where it is saved: by Ctrl-C or Jupyter's interrupt, or because a session's time is up.

At Ctrl-C the step is finished and saved first; a second one stops at once.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from kdkit.machine.budget import TimeBudget, find_budget
from kdkit.runs.folder import Run

FIRST = "stopping: this step is finished and saved first; a second Ctrl-C or interrupt stops at once and saves nothing"
"""What a first Ctrl-C is answered with, while a training runs."""
FIRST_OF_SEVERAL = "stopping: this step is finished and saved first, in 30 seconds at most: then the launcher ends it"
"""The same where several processes train together."""


class Stopped(KeyboardInterrupt):
    """A training was stopped by its user, and what it had is saved; the message says what that is."""

    def _render_traceback_(self) -> list[str]:
        """Show one line in a notebook; IPython's hook."""
        return [f"stopped. {self}. To go on, run all cells again, in 03 and 06 with RESUME = True."]


class TimeIsUp(Stopped):
    """A run was stopped because its session's time is up, and what it had is saved; the message says what that is."""


@dataclass
class StopRequest:
    """Whether a training is to stop: a user has asked, or the session's time is up."""

    wanted: bool = False
    """Stop behind the step that is being made; whoever asks sets it."""
    run: Run | None = None
    """Whose status says how to go on; None: nobody's."""
    budget: TimeBudget | None = None
    """None: there is time enough."""
    is_out_of_time: bool = False

    def look(self) -> bool:
        """Return whether to stop behind this step; called once behind each."""
        if not self.wanted and self.budget is not None and self.budget.is_used_up():
            self.wanted = self.is_out_of_time = True
        return self.wanted

    def check(self, saved: str) -> None:
        """Stop here, if that was asked for.

        Args:
            saved: what is on the disk, in words.

        Raises:
            Stopped: the user has asked.
            SystemExit: the time is up; with code 0, at which a notebook ends without an error.
        """
        if not self.wanted:
            return
        hours = self.budget.hours if self.budget is not None else ""
        reason = f"time budget of {hours} used up; {saved}" if self.is_out_of_time else f"stopped by its user; {saved}"
        if self.run is not None:
            self.run.set_progress(state="stopped", resume_needed=True, reason=reason, command=self.run.go_on_command)
        if not self.is_out_of_time:
            raise Stopped(saved)
        how = f", or: {self.run.go_on_command}" if self.run is not None else ""
        print(f"{reason}. To go on, run all cells again, in 03 and 06 with RESUME = True{how}", flush=True)
        raise SystemExit(0)


@contextmanager
def stop_when_saved(run: Run | None = None, hours: float | None = None) -> Iterator[StopRequest]:
    """Note the first SIGINT instead of raising at once, so that whoever trains can save and then call `check`.

    The second one raises KeyboardInterrupt wherever the training is. Signals reach the main thread only, so in any
    other thread Ctrl-C does what it always does. Of several processes the first one decides, and the others ask it
    behind every step; each gets the signal twice, from the terminal and from the launcher, so no second one counts.

    Args:
        run: that is trained.
        hours: the setting `train.time_budget_hours`; see `find_budget`.
    """
    request = StopRequest(run=run, budget=find_budget(hours))
    several, is_first = int(os.environ.get("WORLD_SIZE", "1")) > 1, os.environ.get("RANK", "0") == "0"
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if several and (request.wanted or not is_first):
            return
        request.wanted = True
        if not several:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        answer = FIRST_OF_SEVERAL if several else FIRST
        os.write(2, f"{answer}\n".encode())  # print may be what was interrupted, and may not be called again

    before = signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, before)
