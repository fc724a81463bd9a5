"""Seconds of a training step with all five parts of the teacher's signal, against one with the logits alone.

    python -m benchmarks.five_losses [--config configs/demo.yaml] [-p SECTION.KEY=VALUE ...] [--rounds 8] [--parts]

The same student, batches and optimizer, in one process; the kinds take turns, so that what else the machine does hits
all of them. The medians over all rounds count; processor time (all threads) is nearly the same on a busy machine,
where wall time is not, so the goal is held against it. `--parts` also times every part by itself, beside the logits.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from benchmarks.measure import versions, write_results
from kdkit.config.language import Config
from kdkit.config.losses import TermWeights
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint

RESULTS = Path(__file__).parent / "results" / "five_losses.json"
GOAL = 1.8
SEED_001 = {"logits": 0.7, "feature": 0.1, "attention": 0.1, "layerwise": 0.05, "contrastive": 0.05}
STEPS, DROPPED = 15, 3


class StepTimes(TrainerCallback):
    """Wall and processor time at the end of each step."""

    def __init__(self):
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note both times."""
        self.ends.append((time.perf_counter(), time.process_time()))


def time_steps(session: Session[Config], data: PreparedData, teacher: Any) -> list[tuple[float, float]]:
    """Train for a few steps; return the wall and the processor seconds of each, from end to end."""
    plan = plan_training(session, data)
    stage = replace(plan.stages[0], steps=STEPS)
    trainer = make_trainer(plan, stage, make_student(session.config, data), teacher, "benchmark")
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    steps = zip(times.ends, times.ends[1:], strict=False)
    return [(after[0] - before[0], after[1] - before[1]) for before, after in steps][DROPPED:]


def weigh(session: Session[Config], weights: dict[str, float]) -> Session[Config]:
    """Return a session with other weights of the parts."""
    distill = session.config.distill.model_copy(update={"weights": TermWeights(**weights)})
    return replace(session, config=session.config.model_copy(update={"distill": distill}))


def main() -> None:
    """Time the kinds of step in turn and print their ratios to the first one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--parts", action="store_true")
    arguments = parser.parse_args()
    overrides = [*arguments.overrides, "train.save_every=1000000", "train.log_every=1000000"]
    session = open_session(arguments.config, overrides, f"benchmark-{fingerprint(arguments.config, overrides)}")
    data = prepare_data(session)
    teacher = open_teacher(plan_training(session, data))
    kinds = {"logits": {"logits": 1.0}, "five parts": SEED_001}
    if arguments.parts:
        kinds |= {f"logits, {name}": {"logits": 1.0, name: 0.1} for name in SEED_001 if name != "logits"}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(arguments.rounds):
        for name, weights in kinds.items():
            seconds[name] += time_steps(weigh(session, weights), data, teacher)
    medians = {
        name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in seconds.items()
    }
    rows = [
        {
            "name": name,
            "seconds": wall,
            "cpu_seconds": cpu,
            "/ logits": wall / medians["logits"][0],
            "cpu / logits": cpu / medians["logits"][1],
            "steps": len(seconds[name]),
        }
        for name, (wall, cpu) in medians.items()
    ]
    write_results(
        RESULTS, [values | {"config": Path(arguments.config).name, "versions": versions()} for values in rows]
    )
    ratio = rows[1]["cpu / logits"]
    verdict = "within" if ratio <= GOAL else "above"
    print(f"five parts / logits: {ratio:.2f} in processor time, {verdict} the goal of {GOAL}")


if __name__ == "__main__":
    main()
