"""Processes that hang, grow or die cost their own job and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kdkit.config.maths.settings import CheckerConfig
from kdkit.maths.checking.pool import LONGEST, CheckerPool, Job, StepJob
from tests.maths.checking.made_answers import right_answers

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = CheckerConfig(num_workers=2, seconds=1.0, memory_mb=128)


class BadPool(CheckerPool):
    program = "from tests.maths.checking.bad_worker import main; main()"


class DeadPool(CheckerPool):
    program = "from tests.maths.checking.bad_worker import never_starts; never_starts()"


@pytest.fixture(scope="module")
def pool():
    with CheckerPool(CheckerConfig(num_workers=2, seconds=20.0)) as found:
        yield found


@pytest.fixture(scope="module")
def bad_pool():
    with BadPool(SETTINGS) as found:
        yield found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_verdicts_come_in_the_order_of_the_jobs(pool):
    jobs = [Job("2i", "(1+i)^2"), Job("x", "y"), Job("x", ""), Job("x", r"\frac{"), Job("72", "72.0"), Job("72", "73")]
    expected = ["right", "wrong", "no_answer", "unreadable", "right", "wrong"]
    assert pool.check(jobs) == expected
    assert pool.check(jobs[::-1]) == expected[::-1]
    assert pool.check([]) == []


def test_what_is_too_long_is_refused_without_a_process(pool):
    started = time.monotonic()
    assert pool.check([Job("x", "x + " * LONGEST), Job("x", "9" * 10**6)]) == ["unreadable", "unreadable"]
    assert time.monotonic() - started < 1


def test_equal_jobs_are_checked_once(bad_pool):
    started = time.monotonic()
    assert bad_pool.check([Job("x", "sleep")] * 50) == ["timed_out"] * 50
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("behaviour", ["sleep", "spin", "grow", "exit", "kill"])
def test_a_job_that_misbehaves_is_timed_out_and_the_others_are_not(bad_pool, behaviour):
    jobs = [Job("x", f"fine {number}") for number in range(20)]
    jobs[3:3] = [Job("x", f"{behaviour} 1"), Job("x", f"{behaviour} 2")]
    assert bad_pool.check(jobs) == ["right"] * 3 + ["timed_out"] * 2 + ["right"] * 17


def test_a_process_that_has_grown_is_replaced_before_it_fails(bad_pool):
    bad_pool.close()
    assert bad_pool.check([Job("x", f"keep {number}") for number in range(4)]) == ["right"] * 4


def test_a_process_that_somebody_ends_between_two_calls_is_replaced(pool):
    pool.check([Job("x", "1x")])
    for worker in pool._workers:
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
    assert pool.check([Job("x", "x + 0"), Job("x", "x + 1")]) == ["right", "wrong"]


def test_processes_that_do_not_start_are_an_error_with_their_last_words():
    with pytest.raises(RuntimeError, match="no sympy here"):
        DeadPool(SETTINGS).check([Job("x", "y")])


def test_several_threads_share_a_pool(pool):
    jobs = list(right_answers(60, seed=4))
    found = {}

    def check(number):
        found[number] = pool.check(jobs[number::4])

    threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {verdict for verdicts in found.values() for verdict in verdicts} == {"right"}
    assert sum(map(len, found.values())) == 60


def test_no_process_is_left_when_the_pool_is_closed():
    with CheckerPool(CheckerConfig(num_workers=2)) as pool:
        pool.check([Job("x", "x + 0"), Job("x", "x + 1")])
        pids = [worker._process.pid for worker in pool._workers]
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))


PROGRAM = """
import time
from kdkit.config.maths.settings import CheckerConfig
from kdkit.maths.checking.pool import Job
from tests.maths.checking.test_pool import BadPool
pool = BadPool(CheckerConfig(num_workers=2, seconds=1.0))
pool.check([Job("x", "fine"), Job("x", "fine 2")])
print(*[worker._process.pid for worker in pool._workers], flush=True)
IS_BUSY and pool.check([Job("x", "spin"), Job("x", "sleep")])
time.sleep(60)
"""


def start_program(is_busy):
    """Start a program with a pool; return it, and the numbers of its two processes."""
    text = PROGRAM.replace("IS_BUSY", str(is_busy))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, **pipes)
    pids = [int(word) for word in program.stdout.readline().split()]
    assert len(pids) == 2
    return program, pids


def are_gone(pids, seconds):
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_running, pids))


def test_ctrl_c_ends_the_call_and_leaves_no_process():
    program, pids = start_program(is_busy=True)
    time.sleep(0.3)
    program.send_signal(signal.SIGINT)
    program.wait(timeout=60)
    assert b"KeyboardInterrupt" in program.stderr.read()
    assert are_gone(pids, seconds=20)


@pytest.mark.parametrize("is_busy", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_processes_end_themselves_when_their_program_is_killed(is_busy):
    program, pids = start_program(is_busy)
    time.sleep(0.3)
    program.kill()
    program.wait()
    assert are_gone(pids, seconds=40)


def test_steps_are_checked_by_the_same_processes(pool):
    solution = "Subtract: $2x = 6$\n\nSo $x = 3$\nIn words only.\nWrong: $x = 4$"
    expected = ["right", "unchecked", "right", "unchecked", "wrong"]
    assert pool.check_steps([StepJob(solution, {"x": ("3",)}), StepJob("$1 = 1$")]) == [expected, ["right"]]


def test_a_step_that_hangs_is_unchecked_and_the_others_are_not(bad_pool):
    assert bad_pool.check_steps([StepJob("fine\nsleep\n\nfine")]) == [["right", "unchecked", "unchecked", "right"]]
