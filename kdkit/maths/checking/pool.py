"""Many answers at once, in processes with limits of time and memory, which are replaced when they hang or die."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import kdkit
from kdkit.config.maths.settings import CheckerConfig
from kdkit.maths.checking.quick import compare_quickly
from kdkit.maths.checking.verdicts import StepVerdict, Verdict
from kdkit.maths.problem import AnswerKind

LONGEST = 20_000
"""Letters of a gold answer and an answer, or of a line, that are sent to a process; what is longer is no formula."""
START_SECONDS = 120.0
"""For a process to import sympy on a busy machine."""
MOST_FAILED_STARTS = 3


@dataclass(frozen=True)
class Job:
    """One answer to compare; see `kdkit.maths.checking.answers.check_answer`."""

    gold: str
    answer: str
    kind: AnswerKind | None = None
    against: str = ""


@dataclass(frozen=True)
class StepJob:
    """One solution to check, line by line; see `kdkit.maths.checking.steps.check_steps`."""

    solution: str
    facts: dict[str, tuple[str, ...]] = field(default_factory=dict)


class CheckerPool:
    """Checks answers and steps in its own processes; a context manager, for any number of threads.

    The processes are Python's own, started anew and not forked, so that neither notebooks nor threads nor CUDA disturb
    them. Ctrl-C does not reach them: it ends the call, and with it the processes.
    """

    program = "from kdkit.maths.checking.worker import main; main()"
    """What a process runs."""

    def __init__(self, settings: CheckerConfig) -> None:
        """Start nothing yet: processes start when they are first needed, or by `with`."""
        self.settings = settings
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "CheckerPool":
        with self._lock:
            self._fill(self.settings.num_workers)
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self.close()

    def close(self) -> None:
        """End the processes; the next check starts new ones."""
        with self._lock:
            self._end_all()

    def check(self, jobs: Sequence[Job]) -> list[Verdict]:
        """Compare answers.

        Args:
            jobs: in any number; equal ones are compared once.

        Returns:
            Verdicts in the order of the jobs. A job that takes too long, needs too much memory or ends its process
            is TIMED_OUT.

        Raises:
            RuntimeError: no process can be started.
        """
        found: dict[Job, Verdict] = {}
        requests: dict[Job, str] = {}
        for job in dict.fromkeys(jobs):
            quick = compare_quickly(job.gold, job.answer, self.settings.policies, job.kind)
            if quick is not None:
                found[job] = quick
            elif len(job.gold) + len(job.answer) + len(job.against) > LONGEST:
                found[job] = Verdict.UNREADABLE
            else:
                requests[job] = json.dumps(asdict(job))
        replies = self._run(list(requests.values()))
        for job, reply in zip(requests, replies, strict=True):
            found[job] = Verdict.TIMED_OUT if reply is None else Verdict(reply)
        return [found[job] for job in jobs]

    def check_steps(self, jobs: Sequence[StepJob]) -> list[list[StepVerdict]]:
        """Check the lines of solutions; a line that takes too long is UNCHECKED.

        Raises:
            RuntimeError: no process can be started.
        """
        places, asked = [], []
        found = [[StepVerdict.UNCHECKED for _ in job.solution.splitlines()] for job in jobs]
        for number, job in enumerate(jobs):
            lines = job.solution.splitlines()
            for at, line in enumerate(lines):
                if line.strip() and sum(map(len, lines[: at + 1])) <= LONGEST:
                    places.append((number, at))
                    asked.append(json.dumps({"lines": lines[: at + 1], "facts": job.facts}))
        for (number, at), reply in zip(places, self._run(asked), strict=True):
            if reply is not None:
                found[number][at] = StepVerdict(reply)
        return found

    def _run(self, requests: list[str]) -> list[str | None]:
        """Have every request answered; None: it took too long, or its process died."""
        replies: list[str | None] = [None] * len(requests)
        waiting = deque(range(len(requests)))
        with self._lock:
            try:
                while waiting or any(worker.place is not None for worker in self._workers):
                    self._fill(min(self.settings.num_workers, len(waiting) + self._count_busy()))
                    for worker in self._workers:
                        if worker.is_idle and waiting:
                            place = waiting.popleft()
                            if not worker.send(requests[place], place, self.settings.seconds):
                                waiting.appendleft(place)
                    self._collect(replies)
            except BaseException:
                self._end_all()
                raise
        return replies

    def _count_busy(self) -> int:
        return sum(worker.place is not None for worker in self._workers)

    def _fill(self, count: int) -> None:
        """Start processes until there are as many; they import sympy while this one goes on."""
        while len(self._workers) < count:
            self._workers.append(_Worker(self.program, self.settings))

    def _collect(self, replies: list[str | None]) -> None:
        """Wait for the next reply or the next deadline, and take out what hangs or died."""
        now = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            until = min((worker.deadline for worker in self._workers), default=now)
            ready = {key.data for key, _ in selector.select(max(0.0, until - now))}
        now = time.monotonic()
        for worker in list(self._workers):
            is_alive = worker.receive(replies) if worker in ready else True
            if is_alive and now < worker.deadline:
                self._failed_starts = 0 if worker.is_ready else self._failed_starts
                continue
            if not worker.is_ready:
                self._failed_starts += 1
                if self._failed_starts >= MOST_FAILED_STARTS:
                    raise RuntimeError(f"the checker's processes do not start: {worker.last_words()}")
            worker.end()
            self._workers.remove(worker)

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()


class _Worker:
    """One process: at most one job at a time."""

    def __init__(self, program: str, settings: CheckerConfig) -> None:
        root = str(Path(kdkit.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for us alone
        )
        self.output: Any = self._process.stdout
        self._received = b""
        self.is_ready = False
        self.place: int | None = None
        """Of the request that it works on."""
        self.deadline = time.monotonic() + START_SECONDS
        self._write(settings.model_dump_json())

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self.is_ready and self.place is None

    def send(self, request: str, place: int, seconds: float) -> bool:
        """Hand over a request; False: the process has died."""
        if not self._write(request):
            self.deadline = 0.0
            return False
        self.place, self.deadline = place, time.monotonic() + seconds
        return True

    def _write(self, text: str) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def receive(self, replies: list[str | None]) -> bool:
        """Read what there is, and note a reply; False: the process has ended, or will."""
        part = os.read(self.output.fileno(), 65536)
        self._received += part
        if not part or b"\n" not in self._received:
            return bool(part)
        line, self._received = self._received.split(b"\n", 1)
        words = line.decode().split()
        if self.is_ready and self.place is not None:
            replies[self.place] = words[0]
        self.is_ready, self.place, self.deadline = True, None, float("inf")
        return len(words) == 1

    def last_words(self) -> str:
        """Return the last line that it wrote to its error output."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def end(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self.output, self._errors):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
