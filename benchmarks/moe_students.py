"""Students made of a mixture of experts: dense ones, smaller mixtures, shared cores; without training, and taught.

    python -m benchmarks.moe_students [--seeds 0 1 2] [--steps 100] [--only PART] [-p KEY=VALUE ...]

The teacher of `configs/moe_students.yaml` (its own training apart, in the cache), a teacher and a split per seed. First
all students as they start, in bits per byte of the held-out text; then some of about equal size, taught by the teacher
for equal processor time: as long as `--steps` steps of the dense one take, the teacher's answers apart, as all read as
many. The time of a step is measured in rounds in which all take turns. Prints tables and writes
`benchmarks/results/moe_students.json` after every seed; seeds that it holds are not run again. Parts (`starts`, `steps`
or a student) are kept in the run's folder, so `--only` lets several processes make them.
"""

import argparse
import json
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from benchmarks.equal_time import ProcessorTimes, summary
from kdkit.config.built.from_teacher import AnyStart, DropLayers, MoeToDense, MoeToMoe, ShareCore, StartFromTeacher
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.plan import TrainingPlan, plan_training, stretch
from kdkit.distill.train import make_trainer
from kdkit.evaluate.language import resample_text
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.models.built.dense import build_model
from kdkit.models.from_teacher.start import make_start, start_architecture
from kdkit.models.from_teacher.text import calibration_text
from kdkit.runs.folder import fingerprint
from kdkit.teachers.online import OnlineTeacher
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.training.score import Score
from kdkit.training.scoring import score_windows

FILE = Path(__file__).parent / "results" / "moe_students.json"
CONFIG = "configs/moe_students.yaml"
JOINED = 3
"""Experts of a dense student, with which it is as large as half of the teacher's layers."""
CHOSEN, RANDOM = "chosen experts, fitted", "random start"
LAYERS, DENSE_LAYERS = "layers dropped", "layers dropped, all experts joined"
TRAINED: dict[str, AnyStart] = {
    CHOSEN: MoeToDense(num_experts=JOINED, scale="fitted"),
    "chosen experts": MoeToDense(num_experts=JOINED),
    LAYERS: DropLayers(num_layers=2),
}
"""Students that are also taught; and a dense one of half of the layers, as large, and one from random weights."""
NAMES = [*TRAINED, DENSE_LAYERS, RANDOM]
ROUNDS, STEPS, DROPPED = 2, 8, 2
WINDOWS = 60
"""Held-out windows on which students are scored as they start."""


def starts() -> dict[str, AnyStart]:
    """Return all students that are looked at as they start."""
    found: dict[str, AnyStart] = {
        f"dense, {JOINED} experts, {score}, {scale}": MoeToDense(num_experts=JOINED, score=score, scale=scale)
        for scale in ("routing", "fitted")
        for score in ("load", "contribution", "saliency", "activation", "diverse", "fitted")
    }
    found |= {"dense, average": MoeToDense(join="average"), "layers dropped, 2": DropLayers(num_layers=2)}
    for number in (4, 2):
        for others in ("drop", "merge"):
            for score in ("saliency", "diverse"):
                name = f"mixture, {number} experts, {score}, {others}"
                found[name] = MoeToMoe(num_experts=number, score=score, others=others)
    found |= {f"shared core, rank {rank}": ShareCore(wrapper_rank=rank) for rank in (4, 8, 16, 32)}
    return found | {"shared core, rank 16, nearest": ShareCore(wrapper_rank=16, core="nearest")}


class Class:
    """One seed's teacher, and the students that it teaches."""

    def __init__(self, seed: int, overrides: list[str]):
        quiet = (f"train.{name}_every=1000000" for name in ("save", "log", "evaluate"))
        name = f"moe-students-{fingerprint(overrides)}-{seed}"
        session = open_session(CONFIG, [f"seed={seed}", *overrides, *quiet], name)
        self.seed, self.session = seed, replace(session, hardware=find_hardware("cpu"))
        self.data: PreparedData = prepare_data(self.session)
        self.plan: TrainingPlan = plan_training(self.session, self.data)
        self.teacher: Teacher = prepare_teacher(self.session, self.data)
        self.text = calibration_text(self.data.train, StartFromTeacher.model_fields["calibration_sequences"].default)

    def start(self, name: str) -> PreTrainedModel:
        """Make a student that is to be taught, always alike."""
        set_seed(self.seed)
        if name == RANDOM:
            return build_model(start_architecture(TRAINED[CHOSEN], self.teacher.model.config))
        if name == DENSE_LAYERS:
            half = make_start(TRAINED[LAYERS], self.teacher.model, self.text).model
            joined = MoeToDense(num_experts=half.config.num_experts, scale="fitted")
            return make_start(joined, half, self.text).model.train()
        return make_start(TRAINED[name], self.teacher.model, self.text).model.train()

    def score(self, model: PreTrainedModel, num_windows: int = sys.maxsize) -> Score:
        """Score a model on held-out text."""
        return score_windows(model, self.data.evaluation.first(num_windows), "student", 16)

    def step_seconds(self, name: str) -> float:
        """Return the processor seconds of a step, teacher included: the median of a few."""
        stage = replace(self.plan.stages[0], steps=STEPS, num_sequences=None)
        trainer = make_trainer(self.plan, stage, self.start(name), self.teacher, "moe-students")
        trainer.add_callback(times := ProcessorTimes())
        trainer.train()
        return statistics.median(after - before for before, after in pairwise(times.ends[DROPPED:]))

    def answer_seconds(self) -> float:
        """Return the processor seconds in which the teacher answers for a step."""
        trainer = make_trainer(self.plan, self.plan.stages[0], self.start(CHOSEN), self.teacher, "moe-students")
        online, times = OnlineTeacher(self.teacher.model, self.data.overlap.teacher_size), []
        for _ in range(STEPS):
            batch = trainer.data_collator(list(range(self.session.config.train.per_device_train_batch_size)))
            begin = time.process_time()
            signals = online.answer(batch, trainer.args.device)
            signals.columns(batch["spans"].teacher_starts[:-1], trainer.objective.events.teacher)
            times.append(time.process_time() - begin)
        return statistics.median(times)

    def teach(self, name: str, steps: int) -> tuple[PreTrainedModel, float]:
        """Teach a student and return it, with the processor seconds that it took."""
        student, begin = self.start(name), time.process_time()
        for stage in stretch(self.plan.stages, steps):
            make_trainer(self.plan, stage, student, self.teacher, "moe-students").train()
        return student.eval(), time.process_time() - begin

    def kept(self, part: str, make: Callable[[], Any]) -> Any:
        """Return a part of the comparison from the run's folder; it is made if it is not there yet."""
        file = self.session.run.path / f"{part.replace(', ', '-').replace(' ', '_')}.pkl"
        if not file.is_file():
            file.write_bytes(pickle.dumps(make()))
        return pickle.loads(file.read_bytes())

    def look_at_starts(self) -> dict[str, tuple[int, float]]:
        """Return parameters and bits per byte of all students as they start."""
        found = {"teacher": (self.teacher.parameters, self.score(self.teacher.model, WINDOWS).bits_per_byte)}
        for name, settings in starts().items():
            model = make_start(settings, self.teacher.model, self.text).model
            found[name] = model.num_parameters(), self.score(model, WINDOWS).bits_per_byte
            print(f"{found[name][1]:.4f} {found[name][0]:>9,} {name}", flush=True)
        return found

    def time_steps(self) -> dict[str, float]:
        """Return the processor seconds of a step of each student, the teacher's answers apart."""
        rounds = [({name: self.step_seconds(name) for name in NAMES}, self.answer_seconds()) for _ in range(ROUNDS)]
        return {name: statistics.median(times[name] - answer for times, answer in rounds) for name in NAMES}

    def result(self, name: str, steps: int) -> tuple[dict[str, Any], Score]:
        """Teach a student for as long as some steps of the dense one take; return what that was, and its score."""
        own = self.kept("steps", self.time_steps)
        count = round(steps * own[CHOSEN] / own[name])
        model, seconds = self.teach(name, count)
        score = self.score(model)
        facts = {"parameters": model.num_parameters(), "steps": count, "step_seconds": own[name], "seconds": seconds}
        print(f"seed {self.seed}: {score.bits_per_byte:.4f} {name} {facts}", flush=True)
        return facts, score


def compare(school: Class, steps: int) -> dict[str, Any]:
    """Look at a seed's students as they start, teach some, and compare them."""
    started = school.kept("starts", school.look_at_starts)
    results = {name: school.kept(name, lambda name=name: school.result(name, steps)) for name in NAMES}
    scores = {"teacher": school.score(school.teacher.model)} | {name: score for name, (_, score) in results.items()}
    levels, resampled = (
        {name: score.bits_per_byte for name, score in scores.items()},
        resample_text(scores, school.seed),
    )
    return {
        "seed": school.seed,
        "started": started,
        "taught": {name: facts for name, (facts, _) in results.items()},
        "bits_per_byte": levels,
        "chosen_better_than": {
            name: [levels[name] - levels[CHOSEN], *resampled.difference(name, CHOSEN)]
            for name in NAMES
            if name != CHOSEN
        },
        "interval_over": f"{resampled.num_units} {resampled.over}",
    }


def main() -> None:
    """Compare the seeds that the file of results lacks, add them to it, and print what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", choices=["starts", "steps", *NAMES])
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    rows = json.loads(FILE.read_text())["rows"] if FILE.is_file() else []
    for seed in arguments.seeds:
        if any(row["seed"] == seed for row in rows):
            continue
        school = Class(seed, arguments.overrides)
        if arguments.only:
            parts = {"starts": school.look_at_starts, "steps": school.time_steps}
            make = parts.get(arguments.only, lambda school=school: school.result(arguments.only, arguments.steps))
            school.kept(arguments.only, make)
            continue
        rows.append(compare(school, arguments.steps))
        FILE.write_text(json.dumps(summary([Path(word).name for word in sys.argv], rows), indent=1))
    for row in rows:
        for name, (figure, low, high) in row["chosen_better_than"].items():
            print(f"seed {row['seed']}: {CHOSEN} better than {name} by {figure:+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
