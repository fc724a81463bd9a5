"""A checker's process that misbehaves where an answer says so: for the limits of the pool."""

import os
import signal
import sys
import time

from kdkit.config.maths.settings import CheckerConfig
from kdkit.maths.checking.worker import serve

KEPT = []


def main():
    settings = CheckerConfig.model_validate_json(sys.stdin.readline())
    serve(settings, behave)


def behave(job):
    """Do what the answer says, or the last line; otherwise the verdict is `right`."""
    answer = job["answer"] if "answer" in job else job["lines"][-1]
    if answer.startswith("sleep"):
        time.sleep(1000)
    if answer.startswith("spin"):
        while True:
            pass
    if answer.startswith("grow"):
        while True:
            KEPT.append(bytearray(2**24))
    if answer.startswith("keep"):
        KEPT.append(bytearray(2**20 * 80))
    if answer.startswith("exit"):
        os._exit(3)
    if answer.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    return "right"


def never_starts():
    raise SystemExit("no sympy here")
