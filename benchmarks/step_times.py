"""Seconds of a training step: cross-entropy alone, with a cached teacher, with the teacher in memory.

    python -m benchmarks.step_times [--config configs/demo.yaml] [-p SECTION.KEY=VALUE ...] [--rounds 5]

The same student, batches and optimizer, in one process; the three take turns, so that what else the machine does hits
all of them. The medians over all rounds count.
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
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint

RESULTS = Path(__file__).parent / "results" / "step_times.json"
STEPS, DROPPED = 25, 5


class StepTimes(TrainerCallback):
    """When each step began and ended; making the batch is not in it."""

    def __init__(self):
        self.begins: list[float] = []
        self.ends: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.begins.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the time from the end of each step to the end of the next, which includes making the batch."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


def time_steps(session: Session[Config], data: PreparedData, teacher: Any) -> list[float]:
    """Train for a few steps and return the seconds of each."""
    plan = plan_training(session, data)
    stage = replace(plan.stages[0], steps=STEPS)
    trainer = make_trainer(plan, stage, make_student(session.config, data), teacher, "benchmark")
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    return times.seconds()[DROPPED:]


def main() -> None:
    """Time the three kinds of step and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    overrides = [*arguments.overrides, "train.save_every=1000000", "train.log_every=1000000"]
    session = open_session(arguments.config, overrides, f"benchmark-{fingerprint(arguments.config, overrides)}")
    data, config = prepare_data(session), session.config
    cache = config.cache.model_copy(update={"enabled": True})
    cached = replace(session, config=config.model_copy(update={"cache": cache}))
    kinds = {
        "cross-entropy": (session, None),
        "cached teacher": (cached, open_teacher(plan_training(cached, data))),
        "online teacher": (session, open_teacher(plan_training(session, data))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(arguments.rounds):
        for name, (opened, teacher) in kinds.items():
            seconds[name] += time_steps(opened, data, teacher)
    base = statistics.median(seconds["cross-entropy"])
    rows = [
        {
            "name": name,
            "seconds": statistics.median(values),
            "quartiles": [round(value, 4) for value in statistics.quantiles(values, n=4)[::2]],
            "/ cross-entropy": statistics.median(values) / base,
            "steps": len(values),
        }
        for name, values in seconds.items()
    ]
    write_results(
        RESULTS, [values | {"config": Path(arguments.config).name, "versions": versions()} for values in rows]
    )


if __name__ == "__main__":
    main()
