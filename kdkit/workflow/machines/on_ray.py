"""The teacher's answers made by Ray: an actor with the teacher on each GPU, or on some of the CPUs (extra `ray`).

Ray Data hands chunks out to the actors, and a chunk of an actor that dies to another one. What comes back is written
here, in one place, as by any other build: a build that is stopped goes on, and its file is the same, byte for byte.
"""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdkit.config.language import BUILD, Config
from kdkit.data.prepare import build_data, open_data
from kdkit.distill.curriculum import cached_rows
from kdkit.distill.open_teacher import cache_path, open_cache, signal_maker
from kdkit.distill.plan import TrainingPlan, plan_training
from kdkit.errors import UserError
from kdkit.machine.hardware import DTYPES, find_hardware
from kdkit.machine.interrupt import stop_when_saved
from kdkit.machine.session import Session
from kdkit.runs.costs import read_cost, write_cost
from kdkit.runs.folder import Run
from kdkit.runs.messages import note
from kdkit.runs.paths import make_place_for
from kdkit.runs.store_build import build_store, encode_chunk, missing_chunks
from kdkit.teachers.build import build_teacher
from kdkit.teachers.cache_build import ChunkClock
from kdkit.teachers.prepare import prepare_teacher
from kdkit.workflow.terminal import Lines

MAX_BLOCKS = 1000
"""Pieces of work that Ray is given at most: what an actor that dies had begun of one is done again."""
STARTS = 4
"""How often Ray is started where it is too slow for itself."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_agent_register_timeout_ms": "300000",  # or it ends itself on a machine that is busy
}
"""Environment variables of Ray: nothing is sent to its makers, and it is quiet where nothing ends."""
_OF_RAY = re.compile(r"\((raylet|pid=|autoscaler)|ray\.data|Ray Data|/ray/session|core_worker|Ray process")
"""Lines of Ray on stderr."""


class _Lines(Lines):
    """Stands for stderr, which Ray wants to have a number."""

    def fileno(self) -> int:
        """Return that of the file behind it."""
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else 2


class AnswerActor:
    """Holds the teacher; makes chunks of a cache."""

    def __init__(self, config: Config, run: Run, num_chunks: int):
        """Load the data and the teacher, in a process of Ray."""
        hardware = find_hardware(config.train.device, config.train.precision)
        if hardware.device != "cpu":  # Ray shows an actor its own GPU alone
            hardware = replace(hardware, device="cuda:0", teacher_device="cuda:0")
        session = Session(config, replace(run, writes=False), hardware)
        data = open_data(build_data(config, run.cache_path), config.teachers.only)
        plan = plan_training(session, data)
        teacher = prepare_teacher(session, data, DTYPES[plan.answer_precision])
        self.maker = signal_maker(plan, teacher, cached_rows(plan))
        self.chunks = self.maker.chunks()
        assert len(self.chunks) == num_chunks, "the text here is another one"

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make chunks.

        Args:
            batch: `number`, which they are.

        Returns:
            `number`, `content`, what they hold as a file, and the `seconds` and the teacher's `tokens` that it took.
        """
        made: dict[str, list[Any]] = {name: [] for name in ("number", "content", "seconds", "tokens")}
        for number in map(int, batch["number"]):
            begin, before = time.perf_counter(), self.maker.tokens_read
            keys = self.chunks[number]
            content = encode_chunk(self.maker.fields, keys, self.maker.make(keys), number)
            seconds, tokens = time.perf_counter() - begin, self.maker.tokens_read - before
            for name, value in zip(made, (number, content, seconds, tokens), strict=True):
                made[name].append(value)
        return made


def build_on_ray(plan: TrainingPlan, actors: int) -> Path:
    """Build the cache of a run by some actors of Ray: on this machine, or on the cluster that RAY_ADDRESS names.

    Raises:
        Stopped, SystemExit: by the user, or by the time budget; the chunks that were made are saved.
        UserError: too few GPUs or CPUs; see also `build_cache`.
    """
    session, path, header = plan.session, cache_path(plan), plan.cache_header
    if path.is_file():
        open_cache(plan)
        note(f"cache {path}: complete")
        return path
    make_place_for(path, "cache.file")
    if session.config.teacher.path == BUILD:
        build_teacher(session, plan.data)
    maker = signal_maker(plan, None, cached_rows(plan))
    chunks, parts = maker.chunks(), Path(f"{path}.parts")
    cost = read_cost(parts) or {"seconds": 0.0, "tokens": 0}
    note(f"cache {path}: {sum(map(len, chunks)):,} sequences in {len(chunks):,} chunks, by {actors} actors of Ray")
    try:
        with stop_when_saved(session.run, session.config.train.time_budget_hours) as request, _ray(session, actors):
            rows = _answers(session, actors, missing_chunks(path, chunks), len(chunks))
            early: dict[int, bytes] = {}

            def make(number: int) -> bytes:
                """Wait for a chunk; those that others have made meanwhile are kept until it is their turn."""
                request.check(f"cache: {number} of {len(chunks)} chunks are saved")
                while number not in early:
                    row = next(rows)
                    early[row["number"]] = row["content"]
                    cost.update({name: cost[name] + row[name] for name in ("seconds", "tokens")})
                request.look()
                return early.pop(number)

            build_store(path, header, maker.fields, chunks, make, ChunkClock(len(chunks)).tick)
    finally:
        if parts.is_dir():  # a build that was stopped has cost something, too
            write_cost(parts, cost["seconds"], cost["tokens"])
    write_cost(path, cost["seconds"], cost["tokens"], sequences=sum(map(len, chunks)))
    return path


def _answers(session: Session[Config], actors: int, missing: list[int], num_chunks: int) -> Iterator[dict[str, Any]]:
    """Yield what the actors have made of the chunks that are missing, in the order in which it is ready.

    Raises:
        UserError: of an actor.
    """
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    on_gpu = session.hardware.device != "cpu"
    share = {"num_gpus": 1} if on_gpu else {"num_cpus": max(1, int(ray.cluster_resources()["CPU"]) // actors)}
    work = ray.data.from_items([{"number": n} for n in missing], override_num_blocks=min(len(missing), MAX_BLOCKS))
    arguments = (session.config, session.run, num_chunks)
    made = work.map_batches(AnswerActor, fn_constructor_args=arguments, batch_size=1, concurrency=actors, **share)
    try:
        yield from made.iter_rows()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise RuntimeError(f"Ray: an actor failed: {' '.join(str(error.cause).split())[:300]}") from error


@contextmanager
def _ray(session: Session[Config], actors: int) -> Iterator[None]:
    """Join Ray's cluster, or start Ray on this machine, and leave it at the end.

    Raises:
        UserError: there are too few GPUs, or CPUs, for the actors.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    import ray

    with redirect_stderr(_Lines(_complain)):
        _start()
        try:
            kind = "CPU" if session.hardware.device == "cpu" else "GPU"
            there = int(ray.cluster_resources().get(kind, 0))
            if there < actors:
                raise UserError(
                    f"--ray: expected at most {there} actors, one for each {kind} that Ray sees, got {actors}; "
                    f"set --ray {max(there, 1)}, or name a larger cluster: RAY_ADDRESS=HOST:6379"
                )
            yield
        finally:
            with contextlib.suppress(Exception):
                ray.shutdown()


def _start() -> None:
    """Join Ray's cluster or start Ray here: more than once, as it waits half a minute for itself and a busy machine is
    slower.

    Raises:
        RuntimeError: it does not start.
    """
    import ray

    here = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False, "num_cpus": os.cpu_count()}
    for attempt in range(1, STARTS + 1):
        try:
            with _native_silence():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **here)
            return
        except Exception as error:  # Ray raises it bare
            ray.shutdown()
            if attempt == STARTS or "timed out during startup" not in str(error):
                raise RuntimeError(f"Ray: expected it to start, got: {' '.join(str(error).split())[:200]}") from error


@contextmanager
def _native_silence() -> Iterator[None]:
    """Let nothing through that is written to stderr past Python: Ray's core says how much it will say."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _complain(line: str) -> None:
    """Say what is no line of Ray."""
    if line and not _OF_RAY.search(line):
        print(line, file=sys.__stderr__, flush=True)
