"""Problems of all domains: how fast they are made, and whether an independent audit finds one that is wrong.

Each process makes its share of the problems with a seed of its own (all six domains, all levels), timed in processor
time; then `kdkit.maths.problems.audit` reads the text of each anew and checks statement, steps and answer in numbers,
with none of the generators' code. Duplicates are statements that two problems of the whole run share; the processes
do not know of each other, so these say how soon small templates repeat themselves. Last, a sample of the answers is
read by latex2sympy2_extended too, to see that the audit's reader reads what another one reads.

    OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.maths_problems
"""

import argparse
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kdkit.config.maths.settings import ProblemsConfig
from kdkit.maths.problem import DOMAINS, Problem
from kdkit.maths.problems.all import TEMPLATES
from kdkit.maths.problems.audit.all import audit
from kdkit.maths.problems.audit.formulas import UnreadableError, are_close, evaluate, names_in
from kdkit.maths.problems.make import make_problems

RESULTS = Path(__file__).parent / "results" / "maths_problems.json"
HELD_OUT, HELD_OUT_TEMPLATES = 0.08, 0.04
"""Shares of the problems in the sets to judge on."""
NUM_READ_TWICE = 300


def main() -> None:
    """Make and audit, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    share = arguments.problems // arguments.processes
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        parts = list(pool.map(run_share, [share] * arguments.processes, range(arguments.processes)))
    from benchmarks.measure import write_results  # it needs torch, the processes do not

    write_results(RESULTS, [summarise(parts)])


def run_share(count: int, seed: int) -> dict[str, Any]:
    """Make and audit one process's problems."""
    held_out, other = int(count * HELD_OUT), int(count * HELD_OUT_TEMPLATES)
    sizes = {"num_problems": count - held_out - other, "num_held_out": held_out, "num_held_out_templates": other}
    settings = ProblemsConfig(domains=list(DOMAINS), levels=[1, 2, 3, 4, 5], **sizes)
    start = time.process_time()
    sets = make_problems(settings, seed)
    made = time.process_time()
    problems = [*sets.train, *sets.held_out, *sets.held_out_templates]
    findings = [audit(problem) for problem in problems]
    trained = {problem.id for problem in sets.train}
    return {
        "making_seconds": made - start,
        "audit_seconds": time.process_time() - made,
        "problems": problems,
        "faults": [fault for finding in findings for fault in finding.faults],
        "steps_read": sum(finding.num_steps_read for finding in findings),
        "leaked": len([problem for problem in sets.held_out if problem.id in trained]),
        "notes": sets.notes,
    }


def summarise(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Join what the processes found."""
    problems: list[Problem] = [problem for part in parts for problem in part["problems"]]
    faults = [fault for part in parts for fault in part["faults"]]
    agreed, compared = read_twice(problems)
    return {
        "problems": len(problems),
        "wrong": len(faults),
        "faults": faults[:20],
        "problems_per_second_per_core": round(len(problems) / sum(part["making_seconds"] for part in parts)),
        "audits_per_second_per_core": round(len(problems) / sum(part["audit_seconds"] for part in parts)),
        "steps": sum(len(problem.steps) for problem in problems),
        "steps_read_by_the_audit": sum(part["steps_read"] for part in parts),
        "duplicates_in_a_process": sum(count_duplicates(part["problems"]) for part in parts),
        "duplicates_across_processes": count_duplicates(problems),
        "held_out_in_train": sum(part["leaked"] for part in parts),
        "answers_read_by_both": compared,
        "answers_read_alike": agreed,
        "templates": len(TEMPLATES),
        "by_domain": dict(sorted(Counter(str(problem.domain) for problem in problems).items())),
        "by_template": dict(sorted(Counter(str(problem.template) for problem in problems).items())),
        "notes": [note for part in parts for note in part["notes"]],
    }


def count_duplicates(problems: list[Problem]) -> int:
    """Return how many problems repeat the statement of an earlier one."""
    return len(problems) - len({problem.problem for problem in problems})


def read_twice(problems: list[Problem]) -> tuple[int, int]:
    """Return how many of a sample's numeric answers both readers agree on, and how many both read."""
    from latex2sympy2_extended import latex2sympy
    from mpmath import mp

    numeric = [each for each in problems if each.answer_kind == "expression" and not names_in(each.answer)]
    agreed = compared = 0
    for problem in numeric[:: max(1, len(numeric) // NUM_READ_TWICE)]:
        try:
            ours = evaluate(problem.answer)
            theirs = latex2sympy(problem.answer).subs("i", 1j).evalf(30)
        except (UnreadableError, ValueError, AttributeError):
            continue
        compared += 1
        agreed += are_close(ours, mp.mpmathify(complex(theirs)))
    return agreed, compared


if __name__ == "__main__":
    main()
