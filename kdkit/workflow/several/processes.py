"""Runs of a sweep, one after the other in this process, or several at once in processes of their own.

A process that is killed, as the system does where memory runs out, takes its own run with it and no other.
"""

import gc
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch

from kdkit.errors import UserError
from kdkit.evaluate.sweeps.comparison import AnyTrial
from kdkit.machine.interrupt import Stopped, TimeIsUp
from kdkit.runs.folder import Run
from kdkit.workflow.several.trial import PlannedRun, train_one
from kdkit.workflow.terminal import Lines, Terminal

Outcome = AnyTrial | UserError | RuntimeError
"""What a run came to, or what its training raised."""

WAIT = 0.5
"""Seconds until a run that another process is at is looked at again."""
READY, LINE, DONE, BUSY, STOPPED, TIME_IS_UP, ENDED = "ready", "line", "done", "busy", "stopped", "time is up", "ended"
"""What a worker says: it has begun, a line was printed, and how its run ended; of one that has ended it is said."""


def train_here(
    plans: list[PlannedRun], labels: dict[str, str], folder: Run, terminal: Terminal, processes: int = 0
) -> Iterator[tuple[PlannedRun, Outcome]]:
    """Train runs one after the other; yields each one's outcome.

    Runs that another process is at, started with the same command, come last.

    Args:
        labels: what stands before progress, by the runs' names.
        folder: of the sweep.
        processes: none.

    Raises:
        Stopped, SystemExit: see `kdkit.machine.interrupt`.
    """
    waiting = deque(plans)
    while waiting:
        plan = waiting.popleft()
        terminal.place = f"{labels[plan.name]}:"
        terminal.show(labels[plan.name])
        try:
            with terminal.capturing():
                outcome: Outcome | None = train_one(plan, folder)
        except (UserError, RuntimeError) as error:
            outcome = error
        finally:
            gc.collect()
        if outcome is None:
            waiting.append(plan)
            time.sleep(WAIT)
        else:
            yield plan, outcome


def train_in_processes(
    plans: list[PlannedRun], labels: dict[str, str], folder: Run, terminal: Terminal, processes: int
) -> Iterator[tuple[PlannedRun, Outcome]]:
    """Train several runs at once, each in a process of its own; yields each one's outcome as it comes.

    The processes share the cores; of several GPUs each has one.

    Args:
        processes: how many at once.

    Raises:
        Stopped, SystemExit: as `train_here`, when every process has saved what it had.
    """
    pool, waiting, is_time_up = Pool(folder, processes), deque(plans), False
    try:
        while (waiting and not is_time_up) or pool.busy():
            while waiting and not is_time_up and (free := pool.free()) is not None:
                free.give(waiting.popleft())
            for plan, kind, value in pool.listen():
                if kind == LINE:
                    terminal.place = f"{labels[plan.name]}:"
                    terminal.printed(value)
                elif kind == BUSY:
                    waiting.append(plan)
                elif kind == STOPPED:
                    raise Stopped(value)
                elif kind == TIME_IS_UP:
                    is_time_up = True
                else:
                    yield plan, value
    except KeyboardInterrupt as error:
        raise Stopped(pool.stop() or str(error)) from None
    except GeneratorExit:  # Ctrl-C while an outcome was printed
        pool.stop()
        raise
    finally:
        pool.close()
    if is_time_up:
        raise SystemExit(0)


@dataclass
class Worker:
    """A process that trains what it is given, one run after the other."""

    process: ForkServerProcess
    connection: Connection
    place: int
    plan: PlannedRun | None = None
    """What it is at."""
    is_ready: bool = False
    """It has said its first word: what a signal does to it is decided."""

    def give(self, plan: PlannedRun) -> None:
        """Hand over a run."""
        self.plan = plan
        self.connection.send(plan)

    def hear(self) -> tuple[str, Any]:
        """Return what it says: a kind of message and its value; of one that was killed the failure of its run."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            assert self.plan is not None
            return ENDED, RuntimeError(f"variant {self.plan.variant!r}, seed {self.plan.seed}: {self._end()}")
        self.is_ready = True
        return kind, value

    def _end(self) -> str:
        """Say how the process ended."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"expected a training, got its process ended with code {code}; what it said stands above"
        hint = "; where memory ran out: a smaller train.per_device_train_batch_size, or fewer --processes"
        return f"expected a training, got its process killed by {signal.Signals(-code).name}{hint * (code == -9)}"


@dataclass
class Pool:
    """The processes of a sweep, started as they are needed; one that ended is replaced."""

    folder: Run
    size: int
    workers: list[Worker] = field(default_factory=list)

    def busy(self) -> list[Worker]:
        """Return those that have a run."""
        return [worker for worker in self.workers if worker.plan is not None]

    def free(self) -> Worker | None:
        """Return one that has none, started if there may be more; None: all have."""
        if (idle := next((worker for worker in self.workers if worker.plan is None), None)) is not None:
            return idle
        if len(self.workers) == self.size:
            return None
        place = min(set(range(self.size)) - {worker.place for worker in self.workers})
        context = get_context("forkserver")  # it imports once, and has used neither CUDA nor threads when it forks
        context.set_forkserver_preload([__name__])
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self.folder, place, self.size), daemon=True)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: until it is ready this process decides
        process.start()
        signal.signal(signal.SIGINT, before)
        there.close()
        self.workers.append(Worker(process, here, place))
        return self.workers[-1]

    def listen(self) -> Iterator[tuple[PlannedRun, str, Any]]:
        """Wait until some say something, and yield on which run and what; who has come to its end is free then."""
        by_connection = {worker.connection: worker for worker in self.busy()}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]  # type: ignore[index]
            kind, value = worker.hear()
            if kind == READY or worker.plan is None:
                continue
            plan = worker.plan
            if kind == ENDED:
                self.workers.remove(worker)
            if kind != LINE:
                worker.plan = None
            yield plan, kind, value

    def stop(self) -> str:
        """Let every worker save what it has; return what one says of it. A second Ctrl-C stops them at once."""
        said = ""
        self._interrupt()
        while self.busy():
            try:
                for _, kind, value in self.listen():
                    said = value if kind == STOPPED and value else said
            except KeyboardInterrupt:
                self._interrupt()
        return said

    def _interrupt(self) -> None:
        """Pass Ctrl-C on to those at work; who is still importing has nothing to save."""
        for worker in self.busy():
            if worker.is_ready and worker.process.pid is not None:
                os.kill(worker.process.pid, signal.SIGINT)
            else:
                worker.process.terminate()

    def close(self) -> None:
        """End all processes: idle ones leave by themselves, those at work are killed."""
        for worker in self.workers:
            worker.connection.close()
            if worker.plan is not None:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join()


def _work(connection: Connection, folder: Run, place: int, processes: int) -> None:
    """Train what comes through the pipe until it is closed; what is printed goes back through it."""
    os.setsid()  # Ctrl-C reaches the first process alone, which tells each of the others once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _share_machine(place, processes)
    connection.send((READY, None))
    with redirect_stdout(Lines(lambda line: connection.send((LINE, line)))), suppress(EOFError):
        while True:
            connection.send(_answer(connection.recv(), folder))
            gc.collect()


def _answer(plan: PlannedRun, folder: Run) -> tuple[str, Any]:
    """Train a run; return the message on how it ended."""
    try:
        trial = train_one(plan, folder)
    except UserError as error:
        return DONE, UserError(str(error))
    except RuntimeError as error:  # its class may not survive the pipe
        return DONE, RuntimeError(str(error))
    except TimeIsUp as error:
        return TIME_IS_UP, str(error)
    except KeyboardInterrupt as error:
        return STOPPED, str(error)
    except SystemExit:
        return TIME_IS_UP, ""
    if trial is None:
        time.sleep(WAIT)
        return BUSY, None
    return DONE, trial


def _share_machine(place: int, processes: int) -> None:
    """Take this process's part of the cores, and one of the GPUs, before either is used."""
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named is not None else [str(i) for i in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
