"""Two processes on this machine that train as one (gloo), for tests."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def join_group(rank: int, port: int) -> None:
    """Make this process one of two, before anything is trained."""
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= addresses | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def run_two(work: Callable, *arguments: Any, preload: tuple[str, ...] = ("tests.tiny",)) -> None:
    """Call `work(rank, port, *arguments)` in two processes.

    Args:
        preload: modules that a server imports once before it is forked: two fresh interpreters would import for longer
            than they train.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before, here = os.environ.get("PYTHONPATH"), str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = here
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preload))
        processes = [context.Process(target=work, args=(rank, port, *arguments), daemon=True) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=200)
            assert process.exitcode == 0
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
