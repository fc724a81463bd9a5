"""Students that start from the teacher against random weights of the same sizes, at equal processor time.

    python -m benchmarks.student_starts [--seeds 0 1 2] [--teacher-seeds 0] [--arms layers prune ...] [--shares 0.1 0.4]
        [--rates 0.01 0.005]

The teacher, text and loss of configs/demo.yaml, several seeds of the student and of the teacher (with its tokenizer
and the held-out documents). Every arm is one architecture with one tokenizer, so its random start (the demo's 250
steps) and its start from the teacher cost the same a step. The latter is trained for shares of that time, each with a
schedule of its own, from which the steps that fit into the making of the student are taken. Both are taught with the
demo's loss. Differences are random minus started, with 95 % intervals over documents. Adapters cost less a step, and
are also compared with all weights of the same start (`RIVALS`) after the same time. Writes
`benchmarks/results/student_starts.json` after every arm; what it holds is not run again.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from benchmarks.measure import versions
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.plan import TrainingPlan, plan_training, stretch
from kdkit.distill.student import begin_student
from kdkit.distill.train import make_trainer
from kdkit.evaluate.language import resample_text
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.models.from_teacher.embeddings import change_vocabulary
from kdkit.models.from_teacher.start import make_start
from kdkit.models.from_teacher.text import calibration_text
from kdkit.models.lora import has_adapters, merged
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.scoring import Score, score_windows

RESULTS = Path(__file__).parent / "results" / "student_starts.json"
TEACHERS, OWN = "student.build.tokenizer=teacher", "student.build.tokenizer=own"
PRUNED = "hidden_size: 64, num_heads: 2, intermediate_size: 96"
ADAPTERS = "student.lora={rank: 16, alpha: 32}"
ARMS = {
    "embeddings": ["distill.start_from_teacher=true", OWN],
    "layers": ["student.from_teacher={kind: layers, num_layers: 1}"],
    "prune": [f"student.from_teacher={{kind: prune, {PRUNED}}}"],
    "prune, own tokenizer": [f"student.from_teacher={{kind: prune, {PRUNED}, tokenizer: own}}"],
    "layers, own tokenizer": ["student.from_teacher={kind: layers, num_layers: 1, tokenizer: own}"],
    "layers, LoRA": ["student.from_teacher={kind: layers, num_layers: 1}", ADAPTERS],
    "dense": ["student.from_teacher=moe_to_dense"],
    "dense, LoRA": ["student.from_teacher=moe_to_dense", ADAPTERS],
}
RIVALS = {"layers, LoRA": "layers", "dense, LoRA": "dense"}
"""Arms with adapters, and the arm that trains all weights of the same start, which runs before. The adapters of a
mixture are in its attention alone, those of a dense model in all its layers."""
RATES = (1.0e-2, 5.0e-3)
"""The demo's learning rate, and half of it: of each start the better one on the first seed is taken."""
ADAPTER_RATES = (2.0e-2, 1.0e-2)
"""The same for adapters."""
STARTS = ("random", "started")
Rates = dict[str, float]
"""A learning rate for each of the two starts."""


@dataclass
class Arm:
    """One kind of start on one seed."""

    session: Session[Config]
    data: PreparedData
    plan: TrainingPlan
    teacher: TextTeacher

    def begin(self, taught: bool) -> PreTrainedModel:
        """Make a student before its first step: from the teacher, or from random weights."""
        return begin_student(self.session, self.data, self.teacher if taught else None, "student")[0]

    def making_seconds(self) -> float:
        """Return the processor seconds of making a student from the teacher."""
        settings = self.session.config.student.from_teacher
        if settings is None:
            return 0.0
        began = time.process_time()
        start = make_start(
            settings, self.teacher.model, calibration_text(self.data.train, settings.calibration_sequences)
        )
        if settings.tokenizer != "teacher":
            change_vocabulary(start.model, self.data.student_tokenizer, self.data.teacher_tokenizer)
        return time.process_time() - began

    def train(self, taught: bool, steps: int, rate: float) -> tuple[Score, float]:
        """Train a student with the teacher; return its score and the processor seconds of a step."""
        student = self.begin(taught)
        (stage,) = stretch(self.plan.stages, steps)
        began = time.process_time()
        make_trainer(self.plan, replace(stage, learning_rate=rate), student, self.teacher, "starts").train()
        seconds = time.process_time() - began
        return self.score(merged(student) if has_adapters(student) else student), seconds / steps

    def score(self, student: PreTrainedModel) -> Score:
        """Score a student on all held-out text."""
        return score_windows(student, self.data.evaluation, "student", self.session.config.evaluate.batch_size)


def open_arm(name: str, seed: int, teacher_seed: int) -> Arm:
    """Prepare data, plan and teacher of an arm; text and held-out documents are the same for all seeds."""
    settings = [f"train.seed={seed}", "distill.start_from_teacher=false", "distill.overlap_top_k=0", *ARMS[name]]
    settings += [f"train.{each}_every=1000000" for each in ("save", "log", "evaluate")]
    settings += [f"teacher.build.seed={teacher_seed}"] * (teacher_seed > 0)
    run = f"starts-{seed}-{teacher_seed}-{name.replace(' ', '-').replace(',', '')}"
    session = replace(open_session("configs/demo.yaml", settings, run), hardware=find_hardware("cpu", "fp32"))
    data = prepare_data(session)
    return Arm(session, data, plan_training(session, data), prepare_teacher(session, data))


def try_rates(arm: Arm, name: str, steps: dict[str, int], rates: Rates) -> tuple[dict[str, Any], Rates]:
    """Train both starts with every learning rate, or with those that are settled.

    Args:
        steps: of both starts.

    Returns:
        Of every start and rate the score and the seconds of a step, and the better rate of each start.
    """
    tries = {"random": RATES, "started": ADAPTER_RATES if name in RIVALS else RATES}
    tries |= {start: (rate,) for start, rate in rates.items() if start == "random" or name in RIVALS}
    if "started" in rates and name not in RIVALS:
        del tries["started"]  # its seconds are those of the other start
    tried = {}
    for start, rate in [(start, rate) for start, several in tries.items() for rate in several]:
        tried[start, rate] = arm.train(start == "started", steps[start], rate)
        print(f"{name}: {start}, {rate:g}: {tried[start, rate][0].bits_per_byte:.4f}", flush=True)
    best = {s: min(tries[s], key=lambda rate: tried[s, rate][0].bits_per_byte) for s in tries}
    return tried, rates | best


def step_seconds(tried: dict[str, Any], name: str) -> dict[str, float]:
    """Return the seconds of a step of both starts: the same ones, unless one has adapters."""
    seconds = {}
    for start in STARTS:
        mine = [took for (each, _), (_, took) in tried.items() if each == start or name not in RIVALS]
        seconds[start] = statistics.median(mine)
    return seconds


def better_by(first: Score, second: Score, seed: int) -> list[float]:
    """Return first - second, bits per byte, and its interval."""
    gap = resample_text({"first": first, "second": second}, seed).difference("first", "second")
    return [first.bits_per_byte - second.bits_per_byte, *gap]


def compare(
    name: str, seeds: tuple[int, int], shares: list[float], rates: Rates, rival_rate: float | None
) -> dict[str, Any]:
    """Train an arm's students and compare them.

    Args:
        seeds: of the student and of its teacher.
        rates: learning rates of both starts, where they are settled.
        rival_rate: learning rate of the arm that this one is compared with, too.
    """
    arm = open_arm(name, *seeds)
    steps = sum(stage.steps for stage in arm.plan.stages)
    fresh = {start: arm.score(arm.begin(start == "started")).bits_per_byte for start in STARTS}
    tried, chosen = try_rates(arm, name, {"random": steps, "started": round(0.4 * steps)}, rates)
    seconds, making = step_seconds(tried, name), arm.making_seconds()
    final, rows = tried["random", chosen["random"]][0], []
    rival = open_arm(RIVALS[name], *seeds) if rival_rate else None
    for share in shares:
        left = share * steps * seconds["random"] - making
        length = max(1, round(left / seconds["started"]))
        got, _ = arm.train(True, length, chosen["started"])
        row = {"share": share, "steps": length, "bits_per_byte": got.bits_per_byte}
        row["better_by"] = better_by(final, got, seeds[0])
        if rival and rival_rate:
            other, _ = rival.train(True, max(1, round(left / seconds["random"])), rival_rate)
            row |= {"rival_bits_per_byte": other.bits_per_byte, "rival_better_by": better_by(got, other, seeds[0])}
        rows.append(row)
        print(f"    {row}", flush=True)
    teacher = score_windows(arm.teacher.reader(), arm.data.evaluation, "teacher", 16)
    return {
        "arm": name,
        "seed": seeds[0],
        "teacher_seed": seeds[1],
        "parameters": arm.begin(False).num_parameters(),
        "teacher_bits_per_byte": teacher.bits_per_byte,
        "learning_rates": chosen,
        "fresh": fresh,
        "random": {"steps": steps, "bits_per_byte": final.bits_per_byte},
        "step_seconds": seconds,
        "making_seconds": making,
        "started": rows,
        "tried": {f"{start}, {rate:g}": score.bits_per_byte for (start, rate), (score, _) in tried.items()},
    }


def main() -> None:
    """Run every arm and seed that is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--teacher-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.4, 1.0])
    parser.add_argument("--rates", type=float, nargs=2, help="of random and started, known; else two of each are tried")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for seeds in itertools.product(arguments.seeds, arguments.teacher_seeds):
        for name in arguments.arms:
            if any((row["arm"], row["seed"], row["teacher_seed"]) == (name, *seeds) for row in rows):
                continue
            rates: dict[str, Rates] = {row["arm"]: row["learning_rates"] for row in reversed(rows)}
            rival = rates.get(RIVALS.get(name, ""), {})
            known = dict(zip(STARTS, arguments.rates or [], strict=False)) or rates.get(name)
            settled = known or {start: rate for start, rate in rival.items() if start == "random"}
            rows.append(compare(name, seeds, arguments.shares, settled, rival.get("started")))
            command = [Path(word).name for word in sys.argv]
            RESULTS.write_text(json.dumps({"command": command, "versions": versions(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
