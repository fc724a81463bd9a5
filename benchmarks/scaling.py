"""How a distillation step grows with tokens, vocabulary, layers, processes: kdkit, TRL, matrix products alone.

    python -m benchmarks.scaling [--rounds 2]        # writes benchmarks/results/scaling.json and docs/scaling.png
    python -m benchmarks.scaling --page              # measures nothing

A step: a random Llama student and a teacher of the same shape (width 128, sequences of 256) run forward, are compared
by forward KL and run backward, in fp32 on one thread; no optimizer, which is the same for all. kdkit: body, then
`chunked_distillation_loss`. TRL: both models' logits and the loss function of its `GKDTrainer` (trl==1.16.0). The
floor: the matrix products alone of the same shapes, by torch, forward and backward. Each side is a process of its own,
which walks through all sizes; the sides take turns. Time is processor time; with several processes, which share out the
sequences and sum their gradients by gloo, that of the busiest. The exponent b is that of a fit of time = a * size**b
over all rounds, its interval of 95 % that of the residuals.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.divergence_memory import call
from benchmarks.measure import measure, print_row, versions
from kdkit.losses import chunked_distillation_loss
from kdkit.losses.chunked.engine import even_chunks

RESULTS = Path(__file__).parent / "results" / "scaling.json"
PICTURE = Path(__file__).parent.parent / "docs" / "scaling.png"
WIDTH, LENGTH, REPEATS, ENOUGH_SECONDS = 128, 256, 3, 0.5
KDKIT, TRL, PRODUCTS = "kdkit", "TRL GKD", "products"


@dataclass(frozen=True)
class Size:
    """Of one step."""

    tokens: int = 512
    vocabulary: int = 4096
    layers: int = 2
    processes: int = 1


AXES = {
    "tokens": [Size(tokens=tokens) for tokens in (512, 1024, 2048, 4096, 8192)],
    "vocabulary": [Size(tokens=256, vocabulary=size) for size in (4096, 8192, 16_384, 49_152, 151_552)],
    "layers": [Size(layers=layers) for layers in (2, 4, 8, 16)],
    "processes": [Size(tokens=2048, processes=number) for number in (1, 2)],
}
Step = Callable[[], None]


def make_model(size: Size) -> LlamaForCausalLM:
    """Make one of the two models."""
    shape = {"num_hidden_layers": size.layers, "num_attention_heads": 4, "intermediate_size": 3 * WIDTH}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size.vocabulary, hidden_size=WIDTH, **shape))


def make_step(side: str, size: Size) -> tuple[Step, list[torch.nn.Parameter]]:
    """Return a function that does one step, and the parameters whose gradients it makes."""
    torch.manual_seed(0)
    ids = torch.randint(0, size.vocabulary, (size.tokens // LENGTH // size.processes, LENGTH))
    if side == PRODUCTS:
        return make_products(size, ids.shape[0]), []
    student, teacher = make_model(size).train(), make_model(size).eval().requires_grad_(False)

    def ours() -> None:
        """Distil as kdkit does."""
        with torch.no_grad():
            taught = teacher.model(input_ids=ids, use_cache=False).last_hidden_state
        hidden = student.model(input_ids=ids, use_cache=False).last_hidden_state
        chunked_distillation_loss(hidden, student.lm_head, taught, teacher.lm_head, ids, kd_ratio=1.0).backward()

    def theirs() -> None:
        """Distil as GKDTrainer.compute_loss does with given text."""
        from trl.experimental.gkd import GKDTrainer

        logits = student(input_ids=ids, use_cache=False).logits[:, :-1]
        with torch.no_grad():
            targets = teacher(input_ids=ids, use_cache=False).logits[:, :-1]
        GKDTrainer.generalized_jsd_loss(logits, targets, labels=ids[:, 1:], beta=0.0).backward()

    return (ours if side == KDKIT else theirs), list(student.parameters())


def make_products(size: Size, sequences: int) -> Step:
    """Return the matrix products of a step: of the student three times what the teacher needs once."""
    rows, heads = sequences * LENGTH, 4
    shapes = [(WIDTH, WIDTH)] * 4 + [(WIDTH, 3 * WIDTH)] * 2 + [(3 * WIDTH, WIDTH)]
    layer = [(torch.randn(rows, inner), torch.randn(inner, outer)) for inner, outer in shapes]
    queries = torch.randn(sequences * heads, LENGTH, WIDTH // heads)
    few = min(rows, max(1, 2**23 // size.vocabulary))  # rows of logits at once: memory that stays in place
    hidden, head = torch.randn(few, WIDTH), torch.randn(size.vocabulary, WIDTH)
    logits, gradient, total = torch.empty(few, size.vocabulary), torch.empty(few, WIDTH), torch.zeros_like(head)
    outputs = [torch.empty(len(a), b.shape[1]) for a, b in layer]

    def attend() -> None:
        scores = torch.bmm(queries, queries.transpose(1, 2))
        torch.bmm(scores, queries)

    def step() -> None:
        """Multiply."""
        for _ in range(4 * size.layers):  # the teacher forward, the student forward, and its two gradients
            attend()
            for (a, b), out in zip(layer, outputs, strict=True):
                torch.mm(a, b, out=out)
        for part in even_chunks(rows, few):
            some = slice(0, part.stop - part.start)
            torch.mm(hidden[some], head.T, out=logits[some])  # the teacher's
            torch.mm(hidden[some], head.T, out=logits[some])
            torch.mm(logits[some], head, out=gradient[some])
            total.addmm_(logits[some].T, hidden[some])

    return step


def time_step(side: str, size: Size) -> dict[str, float]:
    """Return the processor seconds of a step, the median of a few, and its memory."""
    step, parameters = make_step(side, size)
    make_step(side, replace(size, tokens=LENGTH * size.processes))[0]()  # a small one warms up
    seconds: list[float] = []
    with measure() as found:
        while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
            start = time.process_time()
            step()
            if size.processes > 1:
                for parameter in parameters:
                    torch.distributed.all_reduce(parameter.grad)
            seconds.append(time.process_time() - start)
            for parameter in parameters:
                parameter.grad = None
    return {"seconds": statistics.median(seconds), "peak_mb": round(found.peak_mb, 1)}


def work(rank: int, side: str, size: Size, folder: str) -> None:
    """Be one of several processes; leave a file with the figures."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size.processes)
    (Path(folder) / str(rank)).write_text(json.dumps(time_step(side, size)))
    torch.distributed.destroy_process_group()


def measure_size(side: str, size: Size) -> dict[str, float]:
    """Measure a step of one size, in this process or in as many as it asks for."""
    if size.processes == 1:
        return time_step(side, size)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (side, size, folder), nprocs=size.processes)
        found = [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(size.processes)]
    return {key: max(one[key] for one in found) for key in found[0]}


def fit(sizes: list[float], seconds: list[float]) -> tuple[float, float]:
    """Fit seconds = a * size**b; return b and half of its interval of 95 %."""
    from scipy import stats

    found = stats.linregress(np.log(sizes), np.log(seconds))
    return float(found.slope), float(stats.t.ppf(0.975, len(sizes) - 2) * found.stderr)


def summarise(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per axis and side: sizes, median seconds and memory, exponent, and the ratio to the products."""
    rows = []
    for axis, points in AXES.items():
        sizes = [getattr(point, axis) for point in points]
        for side in (KDKIT, TRL, PRODUCTS):
            runs = [found[side][axis] for found in rounds]
            floors = [found[PRODUCTS][axis] for found in rounds]
            ratios = [
                statistics.median(
                    run[i]["seconds"] / floor[i]["seconds"] for run, floor in zip(runs, floors, strict=True)
                )
                for i in range(len(points))
            ]
            flat = [(size, run[i]["seconds"]) for run in runs for i, size in enumerate(sizes)]
            exponent, half = fit(*map(list, zip(*flat, strict=True))) if len(sizes) > 2 else (None, None)
            medians = {
                key: [statistics.median(run[i][key] for run in runs) for i in range(len(points))]
                for key in ("seconds", "peak_mb")
            }
            row = {"axis": axis, "side": side, "sizes": sizes, **medians, "exponent": exponent, "half_interval": half}
            rows.append(row | {"times the products": ratios})
    return rows


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw seconds over size, both logarithmic, a panel per axis; on white, which a dark page leaves white."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(13, 3.6), facecolor="white")
    colours = {KDKIT: ("#1b6ca8", "o", "-"), TRL: ("#c8553d", "s", "-"), PRODUCTS: ("#666666", "^", "--")}
    for panel, axis in zip(panels, AXES, strict=True):
        for row in (row for row in rows if row["axis"] == axis):
            colour, marker, line = colours[row["side"]]
            power = "" if row["exponent"] is None else f"  {row['exponent']:.2f} ± {row['half_interval']:.2f}"
            label = ("matrix products alone" if row["side"] == PRODUCTS else row["side"]) + power
            panel.loglog(row["sizes"], row["seconds"], line, color=colour, marker=marker, markersize=4, label=label)
        panel.set_xticks(row["sizes"], [f"{size:,}" for size in row["sizes"]], rotation=30, fontsize=8)
        panel.minorticks_off()
        panel.set_title(axis, fontsize=11)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7.5, title="exponent" if row["exponent"] is not None else None, title_fontsize=7.5)
    panels[0].set_ylabel("processor seconds of a step")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measure all sides in turns, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", choices=(KDKIT, TRL, PRODUCTS))
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print_row({axis: [measure_size(options.one, size) for size in AXES[axis]] for axis in options.axes})
        return
    if not options.page:
        rounds = []
        for number in range(options.rounds):
            rounds.append({})
            for side in (KDKIT, TRL, PRODUCTS):
                rounds[-1][side] = call([sys.executable, "-m", "benchmarks.scaling", "--one", side])
                print(f"round {number + 1}: {side}", flush=True)
        write(rounds)
    rows = json.loads(RESULTS.read_text())["rows"]
    draw(rows)


def write(rounds: list[dict[str, Any]]) -> None:
    """Write the results."""
    from datetime import date

    facts = {"date": date.today().isoformat(), "rounds": len(rounds), "versions": versions()}
    RESULTS.write_text(json.dumps(facts | {"rows": summarise(rounds)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
