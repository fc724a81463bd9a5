"""Students that start from the teacher against random weights of the same sizes, at equal processor time.

    python -m benchmarks.student_starts [--seeds 0 1 2] [--arms layers prune ...] [--shares 0.1 0.2 0.4 1.0]

The teacher, text and loss of configs/demo.yaml, several seeds of the student. Every arm is one architecture with one
tokenizer, so its random start (the demo's 250 steps) and its start from the teacher cost the same a step. The latter is
trained for shares of that time, each with a schedule of its own, from which the steps that fit into the making of the
student are taken. Both are taught with the demo's loss. Differences are random minus started, with 95 % intervals over
documents. Writes `benchmarks/results/student_starts.json` after every arm; what it holds is not run again.
"""

import argparse
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
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.scoring import Score, score_windows

RESULTS = Path(__file__).parent / "results" / "student_starts.json"
TEACHERS, OWN = "student.build.tokenizer=teacher", "student.build.tokenizer=own"
PRUNED = "hidden_size: 64, num_heads: 2, intermediate_size: 96"
ARMS = {
    "embeddings": ["distill.start_from_teacher=true", OWN],
    "layers": ["student.from_teacher={kind: layers, num_layers: 1}"],
    "prune": [f"student.from_teacher={{kind: prune, {PRUNED}}}"],
    "prune, own tokenizer": [f"student.from_teacher={{kind: prune, {PRUNED}, tokenizer: own}}"],
    "layers, LoRA": ["student.from_teacher={kind: layers, num_layers: 1}", "student.lora={rank: 16, alpha: 32}"],
}
RATES = (1.0e-2, 5.0e-3)
"""The demo's learning rate, and half of it: of each start the better one on the first seed is taken."""
STARTS = ("random", "started")


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
        """Train a student with the teacher; return its score and the processor seconds of the steps."""
        student = self.begin(taught)
        (stage,) = stretch(self.plan.stages, steps)
        began = time.process_time()
        make_trainer(self.plan, replace(stage, learning_rate=rate), student, self.teacher, "starts").train()
        seconds = time.process_time() - began
        return self.score(student), seconds

    def score(self, student: PreTrainedModel) -> Score:
        """Score a student on all held-out text."""
        return score_windows(student, self.data.evaluation, "student", self.session.config.evaluate.batch_size)


def open_arm(name: str, seed: int, more: list[str]) -> Arm:
    """Prepare data, plan and teacher of an arm; the seed is the student's, text and teacher are the same for all."""
    settings = [f"train.seed={seed}", "distill.start_from_teacher=false", "distill.overlap_top_k=0", *ARMS[name], *more]
    settings += [f"train.{each}_every=1000000" for each in ("save", "log", "evaluate")]
    run = f"starts-{seed}-{name.replace(' ', '-').replace(',', '')}"
    session = replace(open_session("configs/demo.yaml", settings, run), hardware=find_hardware("cpu", "fp32"))
    data = prepare_data(session)
    return Arm(session, data, plan_training(session, data), prepare_teacher(session, data))


def compare(name: str, seed: int, shares: list[float], rates: dict[str, float], more: list[str]) -> dict[str, Any]:
    """Train an arm's students and compare them.

    Args:
        rates: learning rates of both starts, where they are settled.
    """
    arm = open_arm(name, seed, more)
    steps = sum(stage.steps for stage in arm.plan.stages)
    fresh = {start: arm.score(arm.begin(start == "started")) for start in STARTS}
    lengths = {"random": steps, "started": round(0.4 * steps)}
    tried, seconds = {}, []
    settled = [("random", rates["random"])] if rates else [(each, rate) for each in STARTS for rate in RATES]
    for start, rate in settled:
        tried[start, rate], took = arm.train(start == "started", lengths[start], rate)
        seconds.append(took / lengths[start])
        print(f"{name}, seed {seed}: {start}, {rate:g}: {tried[start, rate].bits_per_byte:.4f}", flush=True)
    chosen = rates or {
        start: min((pair for pair in tried if pair[0] == start), key=lambda pair: tried[pair].bits_per_byte)[1]
        for start in STARTS
    }
    step, making = statistics.median(seconds), arm.making_seconds()
    final, rows = tried["random", chosen["random"]], []
    for share in shares:
        length = max(1, round(share * steps - making / step))
        got, _ = arm.train(True, length, chosen["started"])
        better = [final.bits_per_byte - got.bits_per_byte]
        better += resample_text({"random": final, "started": got}, seed).difference("random", "started")
        rows.append({"share": share, "steps": length, "bits_per_byte": got.bits_per_byte, "better_by": better})
        print(f"    {share}: {got.bits_per_byte:.4f}, better by {better}", flush=True)
    return {
        "arm": name,
        "seed": seed,
        "parameters": arm.begin(False).num_parameters(),
        "teacher_bits_per_byte": score_windows(arm.teacher.reader(), arm.data.evaluation, "teacher", 16).bits_per_byte,
        "learning_rates": chosen,
        "fresh": {start: score.bits_per_byte for start, score in fresh.items()},
        "random": {"steps": steps, "bits_per_byte": final.bits_per_byte},
        "step_seconds": step,
        "making_seconds": making,
        "started": rows,
        "tried": {f"{start}, {rate:g}": score.bits_per_byte for (start, rate), score in tried.items()},
    }


def main() -> None:
    """Run every arm and seed that is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.4, 1.0])
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for seed in arguments.seeds:
        for name in arguments.arms:
            if any((row["arm"], row["seed"]) == (name, seed) for row in rows):
                continue
            rates: dict[str, float] = next((row["learning_rates"] for row in rows if row["arm"] == name), {})
            rows.append(compare(name, seed, arguments.shares, rates, arguments.overrides))
            command = [Path(word).name for word in sys.argv]
            RESULTS.write_text(json.dumps({"command": command, "versions": versions(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
