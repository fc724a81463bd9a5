"""The inside of a checker's process: a job a line comes in, its verdict goes out; it ends if it grows too large.

sympy is imported where it is needed: the loop itself, under whatever check, starts several times sooner without.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdkit.config.maths.settings import CheckerConfig, PolicyConfig

READY = "ready"
LAST = "last"
"""Behind a verdict: the process has grown, and ends."""
PAGE = 4096
GRACE = 10
"""Seconds beyond its limit after which a process ends itself, should nobody be left to end it."""
EXAMPLES = (
    ("2i", "(1+i)^{2}", None, ""),
    (r"\frac{x^{2}}{2}+C", r"\frac{1}{2}x^2+K", "antiderivative", "x"),
    (r"C_1e^{x}", "Ae^{x}", "ode", "y'=y"),
    ("[1,2)", r"1\le x<2", "set", ""),
    (r"\begin{pmatrix}1&\sqrt{2}\end{pmatrix}", r"(1,\sin x)", None, ""),
)
"""Checked at the start: sympy loads much when it is first used."""


def main() -> None:
    """Check answers and steps until the input ends."""
    import kdkit.maths.checking.steps  # noqa: F401 - now, before time and memory are limited
    from kdkit.maths.checking.answers import check_answer

    settings = CheckerConfig.model_validate_json(sys.stdin.readline())
    policies = settings.policies
    for gold, answer, kind, against in EXAMPLES:
        check_answer(gold, answer, policies, kind, against)  # type: ignore[arg-type]
    serve(settings, lambda job: check_job(job, policies))


def check_job(job: dict[str, Any], policies: PolicyConfig) -> str:
    """Check an answer, or one line of a solution."""
    from kdkit.maths.checking.answers import check_answer
    from kdkit.maths.checking.steps import check_line

    if "lines" in job:
        facts = {name: tuple(values) for name, values in job["facts"].items()}
        return check_line(job["lines"], len(job["lines"]) - 1, facts, policies)
    return check_answer(job["gold"], job["answer"], policies, job["kind"], job["against"])


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
