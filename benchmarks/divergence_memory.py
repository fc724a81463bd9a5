"""Time and memory of a divergence, forward and backward: full logits, TRL's chunks, and kdkit's chunks.

    python -m benchmarks.divergence_memory [--trl PYTHON] [--repeat 3]

Student width 576, teacher width 1,024, vocabulary 49,152, 4,096 tokens, fp32. Every row is a process of its own, one
after the other. A shared machine's speed changes within minutes, so the dense row is run again before every second
row, and a row's ratio is to the mean of the dense runs before and after it; with `--repeat` the median ratio counts.
`--trl` names a Python that has trl==1.16.0; without it TRL's row is left out, and the table says so.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Problem, measure, measure_divergence, print_row, problem, row, write_results
from kdkit.config.losses import (
    AdaptiveKL,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewedForwardKL,
    SkewedReverseKL,
    TotalVariation,
)
from kdkit.losses.chunked.blend import QueriedRows, alone, dense_divergence, sparse_divergence
from kdkit.losses.chunked.engine import Head, chunked_loss, even_chunks, rows_per_chunk
from kdkit.losses.chunked.events import TokenEvents
from kdkit.losses.chunked.signals import DenseSignals, SparseSignals
from kdkit.losses.measures import make_measure

DENSE = [
    ForwardKL(),
    ReverseKL(),
    JensenShannon(),
    SkewedForwardKL(),
    SkewedReverseKL(),
    TotalVariation(),
    AdaptiveKL(),
]
TAILS = ("ghost", "keep_mass", "renormalise")
TOP_K = 64
CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results" / "divergence_memory.json"


def dense_row(name: str) -> dict[str, Any]:
    """Measure a divergence from an online teacher."""
    return measure_divergence(f"kdkit {name}", dense_loss(name))


def dense_loss(name: str) -> Callable[[Problem], torch.Tensor]:
    """Return kdkit's divergence from an online teacher, as a function of a problem."""
    settings = next(settings for settings in DENSE if settings.name == name)

    def divergence(given: Problem) -> torch.Tensor:
        count, size = len(given.student_hidden), len(given.student_head)
        nothing = torch.zeros(count, dtype=torch.int64)
        signals = DenseSignals(given.teacher_hidden, Head(given.teacher_head, size), CPU, nothing, nothing)
        teacher_loss = dense_divergence(
            signals, _asked(count), TokenEvents(), TokenEvents(), make_measure(settings), 1.0
        )
        return _run(given, teacher_loss)

    return divergence


def sparse_loss(tail: str) -> Callable[[Problem, SparseSignals], torch.Tensor]:
    """Return kdkit's forward KL from a teacher of whom the most likely tokens are known."""

    def divergence(given: Problem, signals: SparseSignals) -> torch.Tensor:
        measure_of = make_measure(ForwardKL())
        teacher_loss = sparse_divergence(
            signals,
            _asked(len(given.student_hidden)),
            TokenEvents(),
            measure_of,
            1.0,
            num_events=len(given.student_head),
            tail=tail,
        )
        return _run(given, teacher_loss)

    return divergence


def sparse_row(tail: str) -> dict[str, Any]:
    """Measure forward KL from a teacher of whom the 64 most likely tokens are known."""
    divergence, whole = sparse_loss(tail), problem()
    signals = top_k(whole)
    whole = whole._replace(teacher_hidden=None, teacher_head=None)
    few = torch.arange(64)
    part = Problem(
        whole.student_hidden.detach()[:64].clone().requires_grad_(),
        whole.student_head.detach().requires_grad_(),
        None,
        None,
    )
    divergence(part, signals.at(few)).backward()
    with measure() as found:
        loss = divergence(whole, signals)
        loss.backward()
    return row(f"kdkit forward_kl, k = {TOP_K}, {tail}", found, loss=loss.item())


def _run(given: Problem, teacher_loss: Any) -> torch.Tensor:
    head = Head(given.student_head, len(given.student_head))
    chunks = even_chunks(len(given.student_hidden), rows_per_chunk(head.vocab_size, CPU))
    return chunked_loss(given.student_hidden, head, alone(teacher_loss), chunks)[0]


def _asked(count: int) -> QueriedRows:
    return QueriedRows(torch.arange(count), torch.arange(count), torch.full((count,), 1 / count), 1 / count)


def top_k(given: Problem) -> SparseSignals:
    """Keep the teacher's most likely tokens, as a cache would."""
    ids, logprobs, rest = [], [], []
    for rows in even_chunks(len(given.teacher_hidden), 128):
        kept = (given.teacher_hidden[rows] @ given.teacher_head.T).log_softmax(-1).topk(TOP_K)
        ids.append(kept.indices.int())
        logprobs.append(kept.values)
        rest.append((1 - kept.values.exp().sum(-1, keepdim=True)).log())
    return SparseSignals(torch.cat(ids), torch.cat(logprobs), torch.cat(rest), 1.0)


def main() -> None:
    """Run all rows, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", default="")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--one", default="", help="run one row in this process and print it")
    parser.add_argument("--rows", nargs="+", default=[settings.name for settings in DENSE] + list(TAILS))
    arguments = parser.parse_args()
    if arguments.one:
        print_row(sparse_row(arguments.one) if arguments.one in TAILS else dense_row(arguments.one))
        return
    dense = [sys.executable, "-m", "benchmarks.peers.dense"]
    commands = [[arguments.trl, "-m", "benchmarks.peers.trl_divergence"]] if arguments.trl else []
    commands += [[sys.executable, "-m", "benchmarks.divergence_memory", "--one", name] for name in arguments.rows]
    rounds = [run_round(dense, commands) for _ in range(arguments.repeat)]
    if not arguments.trl:
        print("TRL was left out: --trl names no Python that has it")
    write_results(RESULTS, [_median(list(runs)) for runs in zip(*rounds, strict=True)])


def run_round(dense: list[str], commands: list[list[str]]) -> list[dict[str, Any]]:
    """Run every row once, two of them between one dense run and the next; the dense row comes first."""
    before, rows = call(dense), []
    first = before | {"time / dense": 1.0, "dense / memory": 1.0}
    for pair in (commands[i : i + 2] for i in range(0, len(commands), 2)):
        found = [call(command) for command in pair]
        after = call(dense)
        for values in found:
            values["time / dense"] = values["cpu_seconds"] / ((before["cpu_seconds"] + after["cpu_seconds"]) / 2)
            values["dense / memory"] = before["peak_mb"] / values["peak_mb"]
            print_row(values)
        rows += found
        before = after
    return [first, *rows]


def call(command: list[str]) -> dict[str, Any]:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run whose ratio (of the dense row: whose time) is the median."""
    column = "time / dense" if runs[0]["time / dense"] != 1.0 else "cpu_seconds"
    middle = statistics.median_low(values[column] for values in runs)
    ratios = [values["time / dense"] for values in runs]
    spread = {"times": f"{min(ratios):.2f} to {max(ratios):.2f}"}
    return next(values for values in runs if values[column] == middle) | spread


if __name__ == "__main__":
    main()
