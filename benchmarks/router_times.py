"""Seconds of a training step under every kind of routing, against one with the teacher's own routing.

    python -m benchmarks.router_times [--config configs/demo.yaml] [-p SECTION.KEY=VALUE ...] [--rounds 8]

The same student, batches and optimizer, in one process; the kinds take turns, so that what else the machine does hits
all of them. The router is trained every `router.update_every` steps, so means count here, not medians. `update share`
is what the router itself adds: a step with it less one of the same kind whose router is never trained.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import versions, write_results
from benchmarks.step_times import DROPPED, time_steps
from kdkit.config.language import Config
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint

RESULTS = Path(__file__).parent / "results" / "router_times.json"
NEVER = 10**9
KINDS = {
    "teacher's own routing": {"kind": "none"},
    "all experts": {"kind": "all_experts"},
    "knowledge augmentation": {"kind": "knowledge_augmentation"},
    "student-aware routing": {"kind": "student_aware_routing"},
    "student-aware": {"kind": "student_aware", "parts": ["capacity", "gap", "importance"], "final_top_k": 2},
    "student-aware, never trained": {
        "kind": "student_aware",
        "parts": ["capacity", "gap", "importance"],
        "final_top_k": 2,
        "update_every": NEVER,
    },
}


def route(session: Session[Config], settings: dict[str, object]) -> Session[Config]:
    """Return a session with another router."""
    router = session.config.router.model_copy(update=settings)
    return replace(session, config=session.config.model_copy(update={"router": router}))


def main() -> None:
    """Time the kinds of routing in turn and print their ratios to the first one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    overrides = [*arguments.overrides, "train.save_every=1000000", "train.log_every=1000000", "train.precision=fp32"]
    session = open_session(arguments.config, overrides, f"benchmark-{fingerprint(arguments.config, overrides)}")
    data = prepare_data(session)
    teacher = open_teacher(plan_training(session, data))
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(arguments.rounds):
        for name, settings in KINDS.items():
            times = time_steps(route(session, settings), data, teacher)
            seconds[name].append(statistics.fmean(times.seconds()[DROPPED:]))
    # the median round, so that one disturbed round does not count
    typical = {name: statistics.median(values) for name, values in seconds.items()}
    base = typical["teacher's own routing"]
    rows = [
        {"name": name, "seconds": value, "/ own routing": value / base, "rounds": arguments.rounds}
        for name, value in typical.items()
    ]
    write_results(
        RESULTS, [values | {"config": Path(arguments.config).name, "versions": versions()} for values in rows]
    )
    added = typical["student-aware"] - typical["student-aware, never trained"]
    print(f"training the router adds {added / typical['student-aware, never trained']:.1%} to a step")


if __name__ == "__main__":
    main()
