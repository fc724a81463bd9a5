"""The checker of answers beside bare math-verify: speed, the table of cases, wrong constants, nonsense, real golds.

    nice -n 19 python -m benchmarks.maths_checker [--jobs 1000]       (KDKIT_TEST_DATA: the golds of real files as well)

Both have two processes on jobs of the same kinds in the same run; math-verify, many times slower, gets an even sample
of them. Its answers are read by `parse("$...$")` and compared by `verify`, as its documentation does it. A job is one
gold answer and one answer, and no two are alike; both are warm. On a busy machine a second of the clock says little, so
the processor time of the processes counts as well: two cores do twice what one second of it does.
"""

import argparse
import json
import logging
import multiprocessing
import os
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.measure import versions, write_results
from kdkit.config.maths.settings import CheckerConfig
from kdkit.maths.checking.answers import check_answer
from kdkit.maths.checking.pool import CheckerPool, Job
from tests.maths.checking.case_table import OTHER_VERDICTS, read_cases
from tests.maths.checking.made_answers import fuzzed_answers, right_answers, wrong_answers
from tests.maths.checking.test_gold_answers import FILES

RESULTS = Path(__file__).parent / "results" / "maths_checker.json"
PROCESSES = 2
REPEATS = 3
FEW = 40
"""Jobs for math-verify."""


def main() -> None:
    """Measure all; the results are written after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    count = parser.parse_args().jobs
    extra = {name: metadata.version(name) for name in ("math-verify", "latex2sympy2_extended", "sympy", "mpmath")}
    rows: list[dict[str, Any]] = []
    peers = multiprocessing.get_context("spawn").Pool(PROCESSES, start_math_verify)
    with CheckerPool(CheckerConfig(num_workers=PROCESSES)) as pool, peers:
        pool.check(list(right_answers(100, seed=99)))
        peers.map(ask_math_verify, list(right_answers(22, seed=97)), chunksize=1)
        parts = (
            lambda: compare_speed(count, pool, peers),
            lambda: judge_wrong_constants(5000, pool, peers),
            lambda: judge_golds(pool),
            lambda: [judge_table(), judge_nonsense(2000)],
        )
        for part in parts:
            rows += [row | {"versions": versions() | extra} for row in part()]
            write_results(RESULTS, rows)


def compare_speed(count: int, pool: CheckerPool, peers: Any) -> list[dict[str, Any]]:
    """Check right and wrong answers in equal parts; the median of three runs in turn, each on jobs of its own."""
    rows = []
    for name, keep in (("eleven kinds", is_any), ("the nine kinds that are no plain number", is_formula)):
        found = []
        for seed in range(REPEATS):
            jobs = [*right_answers(count, seed), *wrong_answers(count, seed)]
            jobs = [job for job in jobs if keep(job)][::2]
            sample = jobs[:: max(1, len(jobs) // FEW)]
            found.append((run_pool(pool, jobs), run_math_verify(peers, sample)))
        row: dict[str, Any] = {"what": f"answers per second, {name}", "jobs": len(jobs)}
        for place, unit in ((0, "of the clock"), (1, "of processor time on two cores")):
            pairs = [(ours[place], theirs[place]) for ours, theirs in found]
            middle = sorted(pairs)[REPEATS // 2]
            rates = {"kdkit": round(middle[0], 1), "math_verify": round(middle[1], 1)}
            ratios = [round(ours / theirs, 1) for ours, theirs in pairs]
            rows.append(row | {"unit": unit} | rates | {"ratios": ratios, "load": round(os.getloadavg()[0], 1)})
    return rows


def is_any(job: Job) -> bool:
    return True


def is_formula(job: Job) -> bool:
    return job.kind is not None or any(letter.isalpha() for letter in job.gold.replace("frac", ""))


def run_pool(pool: CheckerPool, jobs: list[Job]) -> tuple[float, float]:
    """Return the answers of a warm pool per second of the clock, and of processor time on two cores."""
    pids = [worker._process.pid for worker in pool._workers]
    start, start_cpu = time.perf_counter(), time.process_time() + sum(map(cpu_seconds, pids))
    verdicts = pool.check(jobs)
    seconds = time.perf_counter() - start
    cpu = time.process_time() + sum(map(cpu_seconds, pids)) - start_cpu
    assert not set(verdicts) - {"right", "wrong"}
    assert pids == [worker._process.pid for worker in pool._workers]
    return len(jobs) / seconds, PROCESSES * len(jobs) / cpu


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask_math_verify(job: Job) -> str:
    """Return what math-verify says."""
    from math_verify import parse, verify

    gold, answer = parse(f"${job.gold}$"), parse(f"${job.answer}$")
    return "right" if verify(gold, answer) else "wrong"


def start_math_verify() -> None:
    """Import it, and load what it loads when it is first used."""
    logging.disable(logging.CRITICAL)
    for job in right_answers(11, seed=98):
        ask_math_verify(job)


def time_math_verify(job: Job) -> float:
    """Return the processor time of one answer."""
    start = time.process_time()
    ask_math_verify(job)
    return time.process_time() - start


def run_math_verify(peers: Any, jobs: list[Job]) -> tuple[float, float]:
    """Return the answers of two warm processes per second of the clock, and of processor time on two cores."""
    start = time.perf_counter()
    cpu = sum(peers.map(time_math_verify, jobs, chunksize=4))
    return len(jobs) / (time.perf_counter() - start), PROCESSES * len(jobs) / cpu


def judge_table() -> dict[str, Any]:
    """Return the share of cases in which each says what a careful marker says."""
    cases = read_cases()
    said = [check_answer(case.gold, case.answer, case.policies, case.kind, case.against) for case in cases]
    others = [row["says"] for row in json.loads(OTHER_VERDICTS.read_text(encoding="utf-8"))]
    ours = sum(mine == case.verdict for mine, case in zip(said, cases, strict=True))
    plain = [(case, says) for case, says in zip(cases, others, strict=True) if not case.settings]
    theirs = sum(says == case.verdict or {says, case.verdict} == {"wrong", "unreadable"} for case, says in plain)
    wrongly = sum(says == "right" and case.verdict == "wrong" for case, says in plain)
    return {
        "what": f"agreement with the table of {len(cases)} cases ({len(plain)} with default policies for math-verify)",
        "jobs": len(cases),
        "kdkit": round(ours / len(cases), 4),
        "math_verify": round(theirs / len(plain), 4),
        "math_verify_false_positives": wrongly,
    }


def judge_wrong_constants(count: int, pool: CheckerPool, peers: Any) -> list[dict[str, Any]]:
    """Count wrong constants that are marked right."""
    jobs = list(wrong_answers(count, seed=0))
    verdicts = Counter(pool.check(jobs))
    few = jobs[:: count // (2 * FEW)]
    others = Counter(peers.map(ask_math_verify, few, chunksize=4))
    return [
        {"what": "wrong constants marked right", "jobs": count, "kdkit": verdicts["right"], "verdicts": dict(verdicts)},
        {"what": "wrong constants marked right", "jobs": len(few), "math_verify": others["right"]},
    ]


def judge_nonsense(count: int) -> dict[str, Any]:
    """Send nonsense one by one: the verdicts, the longest time, and the most memory of a process."""
    settings = CheckerConfig(num_workers=1, seconds=5.0, memory_mb=512)
    found: Counter[str] = Counter()
    longest, memory, pids = 0.0, 0, set()
    with CheckerPool(settings) as pool:
        pool.check([Job("x", "x + 0")])
        for job in fuzzed_answers(count, seed=1):
            start = time.perf_counter()
            found.update(pool.check([job]))
            longest = max(longest, time.perf_counter() - start)
            for worker in pool._workers:
                pids.add(worker._process.pid)
                memory = max(memory, peak_of(worker._process.pid))
    return {
        "what": "nonsense survived, five seconds and 512 MB each",
        "jobs": count,
        "kdkit": sum(found.values()),
        "verdicts": dict(found),
        "longest_seconds": round(longest, 2),
        "most_mb": memory,
        "processes": len(pids),
    }


def peak_of(pid: int) -> int:
    """Return the most resident memory of a process so far, in MB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def judge_golds(pool: CheckerPool) -> list[dict[str, Any]]:
    """Check the golds of real files against themselves."""
    if "KDKIT_TEST_DATA" not in os.environ:
        return []
    rows = []
    for name in FILES:
        text = (Path(os.environ["KDKIT_TEST_DATA"]) / "maths" / f"{name}.jsonl").read_text(encoding="utf-8")
        golds = [json.loads(line)["answer"] for line in text.rstrip("\n").split("\n")]
        found = Counter(pool.check([Job(gold, gold) for gold in golds]))
        rows.append({"what": f"golds of {name} right for themselves", "jobs": len(golds), "kdkit": found["right"]})
    return rows


if __name__ == "__main__":
    main()
