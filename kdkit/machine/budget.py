"""The time that a session has: Kaggle ends one after twelve hours, whatever is trained in it."""

import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path

KAGGLE_HOURS = 11.25
"""Of Kaggle's twelve: what is left is for saving, for the report, and for what it takes to keep the session's files."""
STARTED = "KDKIT_STARTED"
"""Environment variable: reading of the monotonic clock when the first process of this session began."""


@dataclass
class TimeBudget:
    """Seconds that this session may last, counted from the start of its first process."""

    seconds: float
    _last: float | None = None
    _longest: float = 0.0

    @property
    def hours(self) -> str:
        """The budget, to be read."""
        return f"{self.seconds / 3600:.4g} h"

    def is_used_up(self) -> bool:
        """Return whether what is done between two calls, at its longest so far, no longer fits."""
        now = elapsed()
        if self._last is not None:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        return now + self._longest >= self.seconds


def find_budget(hours: float | None) -> TimeBudget | None:
    """Return the budget of a setting `train.time_budget_hours`: null is 11 h 15 min on Kaggle, and none elsewhere."""
    if hours is None and os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        hours = KAGGLE_HOURS
    return None if hours is None else TimeBudget(3600 * hours)


def elapsed() -> float:
    """Return the seconds since this session began: its first process, which has started this one or is it."""
    return time.monotonic() - float(os.environ.get(STARTED) or _process_start())


def hand_on_start() -> None:
    """Let the processes that this one starts count from its own beginning."""
    os.environ.setdefault(STARTED, repr(_process_start()))


@functools.cache
def _process_start() -> float:
    """Return when this process began on the monotonic clock; where the system does not say, when it was first asked."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return time.monotonic()
    ticks = float(stat.read_text().rpartition(")")[2].split()[19])  # since the system began: man 5 proc
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age
