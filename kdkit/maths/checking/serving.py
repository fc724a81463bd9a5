"""The loop of a checker's process: a job a line comes in, its verdict goes out; it ends if it grows too large."""

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdkit.config.maths.settings import CheckerConfig

READY = "ready"
LAST = "last"
"""Behind a verdict: the process has grown, and ends."""
PAGE = 4096
GRACE = 10
"""Seconds beyond its limit after which a process ends itself, should nobody be left to end it."""


def serve(settings: CheckerConfig, check: Callable[[dict[str, Any]], str]) -> None:
    """Answer jobs under limits of time and memory; without memory the process ends, and so says that it failed."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    start = _size()
    limit = start + settings.memory_mb * 2**20
    _limit_memory(limit)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    print(READY, file=replies, flush=True)
    for line in sys.stdin:
        signal.alarm(math.ceil(settings.seconds) + GRACE)
        try:
            verdict = check(json.loads(line))
        except MemoryError:
            os._exit(1)
        signal.alarm(0)
        is_last = _size() > start + (limit - start) // 2
        print(f"{verdict} {LAST}" if is_last else verdict, file=replies, flush=True)
        if is_last:
            return


def _size() -> int:
    """Return the bytes of address space in use; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[0]) * PAGE if status.exists() else 0


def _limit_memory(limit: int) -> None:
    """Let the process have no more address space than this, where the system can do that."""
    import resource

    if _size():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
