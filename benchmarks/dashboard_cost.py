"""What the dashboard costs a training: processor seconds of the demo pair's steps with it and with nothing shown.

    python -m benchmarks.dashboard_cost [--config FILE] [-p SECTION.KEY=VALUE ...] [--rounds 5] [--steps 60]

Both train in one Jupyter kernel, in turns, so that what else the machine does hits both. Time is processor time of all
threads, the kernel's that send among them; the ratio is of sums over a round's steps, median over the rounds. `updates`
is the share of the wall time of the same steps that the dashboard measured of itself, on which it decides when the next
update may come. A line is logged every step, more often than any configuration does. The teacher is not trained: one
step makes it as large.
"""

import argparse
import io
import json
import statistics
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

from benchmarks.measure import versions, write_results
from benchmarks.step_times import DROPPED, StepTimes
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.interrupt import StopRequest
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.training import progress as module
from kdkit.training.progress import Curve, Progress

RESULTS = Path(__file__).parent / "results"
MARK = "RESULT "


class Watched(Progress):
    """Remembers what its dashboard cost until the last step."""

    updates = 0.0

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Read the cost before the widgets go."""
        self.updates = self.dashboard.cost if self.dashboard is not None else 0.0


def train(session: Session[Config], data: PreparedData, teacher: Any, steps: int, watched: bool) -> dict[str, float]:
    """Train for a few steps; returns their seconds, `processor` and `wall`, and those of `updates`."""
    module.is_watched = lambda: watched
    plan = plan_training(session, data)
    trainer = make_trainer(
        plan, replace(plan.stages[0], steps=steps), make_student(session.config, data), teacher, "benchmark"
    )
    curve = Curve(data.evaluation.first(2), "student", 2, 10 * steps)
    followed, times = Watched(session.run, "benchmark", curve), StepTimes()
    trainer.add_callback(followed)
    trainer.add_callback(times)
    with followed.shown(StopRequest()), nullcontext() if watched else redirect_stdout(io.StringIO()):
        trainer.train()
    seconds = sum(times.processor_seconds()[DROPPED:]), sum(times.seconds()[DROPPED:])
    return {"processor": seconds[0], "wall": seconds[1], "updates": followed.updates}


def take_turns(config: str, overrides: list[str], folder: str, rounds: int, steps: int) -> None:
    """Train in turns, in a kernel, and print the results as JSON."""
    overrides = [*overrides, "train.save_every=1000000", "train.log_every=1", "teacher.build.max_steps=1"]
    session = open_session(config, overrides, "benchmark-dashboard", folder)
    data = prepare_data(session)
    teacher = open_teacher(plan_training(session, data))
    pairs = [
        [train(session, data, teacher, steps, watched) for watched in ((True, False) if turn % 2 else (False, True))]
        for turn in range(rounds + 1)
    ]
    ordered = [pair if turn % 2 else pair[::-1] for turn, pair in enumerate(pairs)]
    print(MARK + json.dumps(ordered[1:]))  # the first round warms up


def main() -> None:
    """Start the kernel and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help=f"of a round; the first {DROPPED} are not counted")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="for the run")
    arguments = parser.parse_args()
    manager, client = start_new_kernel(kernel_name="python3")
    printed: list[str] = []

    def collect(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])
        elif message["msg_type"] == "error":
            printed.extend(message["content"]["traceback"])

    call = arguments.config, arguments.overrides, str(arguments.folder.resolve()), arguments.rounds, arguments.steps
    code = f"from benchmarks.dashboard_cost import take_turns; take_turns(*{call!r})"
    try:
        client.execute_interactive(code, allow_stdin=True, output_hook=collect, timeout=None)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    text = "".join(printed)
    if MARK not in text:
        raise SystemExit(text)
    rounds = json.loads(text.partition(MARK)[2].splitlines()[0])
    ratios = [shown["processor"] / nothing["processor"] for shown, nothing in rounds]
    row = {
        "config": Path(arguments.config).name,
        "seconds per step": statistics.median(shown["wall"] for shown, _ in rounds) / (arguments.steps - 1 - DROPPED),
        "dashboard / nothing": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "updates": sum(shown["updates"] for shown, _ in rounds) / sum(shown["wall"] for shown, _ in rounds),
        "rounds": len(rounds),
        "steps": arguments.steps,
        "versions": versions(),
    }
    write_results(RESULTS / "dashboard_cost.json", [row])


if __name__ == "__main__":
    main()
