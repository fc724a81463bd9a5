"""Learning from teachers with little data: 1 MB of text, read again and again, in BabyLM's setting.

For every seed, which also decides the documents that are held out: one student on cross-entropy, for several numbers of
epochs; teachers of the student's own size that read the same text, each with a seed of its own; then students that
learn from one of them, from their mean distribution, and in a chain in which generation k
learns from generation k - 1. All are judged on the same held-out documents; what the teachers took is counted beside
it. The number of epochs of the student without a teacher is the best one of its seed *by the held-out text itself*;
those of the others are set.

    python -m benchmarks.little_data --seeds 0 1 2

The mean of an ensemble is computed once for every sequence and kept, since it is read many times over; `--in-memory`
asks all teachers in every step instead, which is what `teachers.combine=averaged` does.

Writes `benchmarks/results/little_data.json` after every training, and trains nothing again that it holds.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.measure import print_table, versions
from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import TrainingPlan, plan_training, stretch
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.evaluate.language import resample_text
from kdkit.evaluate.significance import paired_t_test
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.models.loading import load_causal_lm, no_bar
from kdkit.models.reading import ModelReader, Reader, Rows
from kdkit.runs.folder import fingerprint, fingerprint_files
from kdkit.teachers.interface import TextTeacher
from kdkit.training.score import Score
from kdkit.training.scoring import score_windows

RESULTS = Path(__file__).parent / "results" / "little_data.json"
SETTINGS = [
    "data.subset_size=335",
    "data.evaluation_fraction=0.2",
    "teacher.build.vocab_size=2048",
    "student.build={tokenizer: teacher, hidden_size: 96, num_layers: 2, intermediate_size: 256}",
    "train.learning_rate=4e-3",
    *(f"train.{name}_every=1000000" for name in ("save", "log", "evaluate")),
]
"""Beside those of the demo: its text, 1 MB of it for training, and a student that can learn it by heart."""
REGULARISED = {
    "dropout 0.1": ["student.build.dropout=0.1"],
    "weight decay 0.3": ["train.weight_decay=0.3"],
    "weight decay 1": ["train.weight_decay=1.0"],
}
"""Ways to learn a text less by heart (`--with`), for everybody: beside AdamW's weight decay of 0.01."""
FOLDERS = "LITTLE_DATA_TEACHERS"
"""Variable of the environment that holds the folders of `MeanTeacher`."""
DISTILL = ["distill.start_from_teacher=false", "distill.kd_ratio=1.0", "distill.loss=forward_kl"]


class MeanReader(Reader):
    """The mean distribution of several models, to score it as one."""

    def __init__(self, models: Sequence[PreTrainedModel]):
        """Read with all of them."""
        self.readers = [ModelReader(model.eval()) for model in models]
        super().__init__("mean", self.readers[0].vocab_size, self.readers[0].device)

    def read(self, input_ids: torch.Tensor) -> Rows:
        """See `Reader.read`."""
        parts = [reader.read(input_ids) for reader in self.readers]
        return lambda rows: self.mean([part(rows) for part in parts])

    @staticmethod
    def mean(logits: list[torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities of the mean distribution."""
        total = logits[0].log_softmax(-1)
        for other in logits[1:]:
            total = torch.logaddexp(total, other.log_softmax(-1))
        return total - math.log(len(logits))


class KeptReader(MeanReader):
    """The same, which reads every sequence once and keeps all log-probabilities, in fp16: epochs are many, memory is
    1.3 GB for 1 MB of text and 2,048 tokens.
    """

    def __init__(self, models: Sequence[PreTrainedModel]):
        """Keep nothing yet."""
        super().__init__(models)
        self.kept: dict[bytes, torch.Tensor] = {}

    def read(self, input_ids: torch.Tensor) -> Rows:
        """See `Reader.read`."""
        keys = [row.numpy().tobytes() for row in input_ids]
        if new := [number for number, key in enumerate(keys) if key not in self.kept]:
            size, width = len(new), input_ids.shape[1]
            made = super().read(input_ids[new])(torch.arange(size * width)).half().view(size, width, -1)
            self.kept.update(zip([keys[number] for number in new], made, strict=True))
        rows_of = [self.kept[key] for key in keys]
        return lambda rows: torch.stack(rows_of).flatten(0, 1)[rows].float()


class MeanTeacher(TextTeacher):
    """The mean distribution of the students in the folders that `FOLDERS` names, as one teacher."""

    @cached_property
    def models(self) -> list[PreTrainedModel]:
        """The students."""
        return [load_causal_lm(folder, "teacher.path") for folder in os.environ[FOLDERS].split(os.pathsep)]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See `TextTeacher.tokenizer`."""
        return load_tokenizer(os.environ[FOLDERS].split(os.pathsep)[0], "teacher.path")

    def reader(self, autocast_dtype: torch.dtype | None = None) -> Reader:
        """See `TextTeacher.reader`; every sequence once."""
        return KeptReader(self.models)

    def identify(self) -> dict[str, str]:
        """See `TextTeacher.identify`."""
        folders = os.environ[FOLDERS].split(os.pathsep)
        return {"weights": fingerprint([fingerprint_files(Path(each) / "model.safetensors") for each in folders])}


class Bench:
    """What has been trained so far, by seed and name, in a file."""

    def __init__(self, out: Path, settings: list[str], precision: str):
        """Open the file, if it was made with the same settings."""
        self.out, self.settings, self.precision = out, settings, precision
        self.rows: list[dict[str, Any]] = []
        if out.is_file():
            held = json.loads(out.read_text())
            assert held["settings"] == settings, f"{out}: made with other settings; delete it, or name another --out"
            self.rows = held["rows"]

    def find(self, seed: int, name: str) -> dict[str, Any] | None:
        """Return a training that is done."""
        return next((row for row in self.rows if (row["seed"], row["name"]) == (seed, name)), None)

    def folder(self, seed: int, name: str) -> Path:
        """Return where a student lies."""
        key = fingerprint(self.settings, self.precision)
        return Path("runs", f"little-data-{key}", f"{seed}-{name.replace(' ', '-').replace(',', '')}").absolute()

    def plan(self, seed: int, own: list[str]) -> TrainingPlan:
        """Prepare a training."""
        settings = [f"seed={seed}", *self.settings, *own]
        session = open_session("configs/demo.yaml", settings, f"little-data-{seed}-{fingerprint(settings)}")
        session = replace(session, hardware=find_hardware("cpu", self.precision))
        return plan_training(session, prepare_data(session))

    def train(self, seed: int, name: str, epochs: float, own: list[str], teachers: Sequence[str] = ()) -> None:
        """Train a student, if it is not there, and keep its scores.

        Args:
            own: settings beside those of all.
            teachers: names of trainings that must have been done before, whose time is the student's too.
        """
        if self.find(seed, name) is not None:
            return
        plan = self.plan(seed, own)
        size = plan.session.config.train.per_device_train_batch_size
        steps = round(epochs * len(plan.data.train) / size)
        student, begin = make_student(plan.session.config, plan.data), time.process_time()
        teacher = open_teacher(plan) if teachers else None
        for stage in stretch(plan.stages, steps):
            make_trainer(plan, stage, student, teacher, "little-data").train()
        seconds = time.process_time() - begin
        score = score_windows(student, plan.data.evaluation, "student", 16)
        with no_bar():
            student.save_pretrained(self.folder(seed, name))
        plan.data.student_tokenizer.save_pretrained(self.folder(seed, name))
        before = sum(self.total_seconds(seed, each) for each in teachers)
        counts = {"epochs": epochs, "steps": steps, "parameters": student.num_parameters()}
        self.keep(seed, name, score, counts, seconds, before, plan.data.manifest["train"]["num_bytes"])

    def total_seconds(self, seed: int, name: str) -> float:
        """Return the processor seconds of a training and of the teachers below it."""
        row = self.find(seed, name)
        assert row is not None
        return row["seconds"] + row["teachers_seconds"]

    def keep(
        self, seed: int, name: str, score: Score, counts: dict[str, Any], seconds: float, before: float, size: int
    ) -> None:
        """Add a training and write the file."""
        assert score.document_nats is not None and score.document_bytes is not None
        row = {"seed": seed, "name": name, "bits_per_byte": score.bits_per_byte, **counts}
        row |= {"seconds": round(seconds, 1), "teachers_seconds": round(before, 1), "training_bytes": size}
        print(json.dumps(row), flush=True)
        row |= {"document_nats": [round(float(nats), 1) for nats in score.document_nats]}
        self.rows.append(row | {"document_bytes": score.document_bytes.tolist()})
        self.write()

    def write(self) -> None:
        """Write what is there, with the comparisons."""
        command = [Path(word).name for word in sys.argv]
        facts = {"command": command, "versions": versions(), "settings": self.settings, "precision": self.precision}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(facts | {"summary": summarise(self.rows), "rows": self.rows}))

    def score_mean(self, seed: int, name: str, names: Sequence[str]) -> None:
        """Score the mean distribution of some students."""
        if self.find(seed, name) is not None:
            return
        models = [load_causal_lm(str(self.folder(seed, each)), "teacher.path") for each in names]
        plan = self.plan(seed, [])
        score = score_windows(MeanReader(models), plan.data.evaluation, "student", 16)
        counts = {"epochs": 0, "steps": 0, "parameters": sum(model.num_parameters() for model in models)}
        before = sum(self.total_seconds(seed, each) for each in names)
        self.keep(seed, name, score, counts, 0.0, before, 0)


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare every training with the best one without a teacher of its seed: above 0, it is better.

    Returns:
        Per name `levels`, by how much it is `better` (a value per seed), the intervals over documents of each seed, and
        the mean over the seeds with its interval, which has both in it: every seed holds out other documents.
    """
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        entry: dict[str, Any] = {"name": name, "levels": [row["bits_per_byte"] for row in own]}
        differences, intervals = [], []
        for row in own:
            plain = [each for each in rows if each["seed"] == row["seed"] and each["name"].startswith("plain")]
            best = min(plain, key=lambda each: each["bits_per_byte"])
            differences.append(best["bits_per_byte"] - row["bits_per_byte"])
            drawn = resample_text({"best": _score(best), "own": _score(row)}, row["seed"])
            intervals.append(drawn.difference("best", "own"))
        entry |= {"better": differences, "over_documents": intervals, "mean": statistics.mean(differences)}
        entry["interval_95"] = paired_t_test(differences).interval if len(differences) > 1 else None
        totals = [row["seconds"] + row["teachers_seconds"] for row in own]
        found.append(entry | {"seconds": statistics.mean(totals)})
    return found


def _score(row: dict[str, Any]) -> Score:
    """Return a row's scores by document."""
    nats, sizes = np.array(row["document_nats"]), np.array(row["document_bytes"])
    return Score(nats, sizes, 1, nats, sizes)


def run_seed(bench: Bench, seed: int, arguments: argparse.Namespace) -> None:
    """Train all students of a seed."""
    everybody = REGULARISED.get(arguments.regularised, [])
    alone, suffix = [*everybody, "distill.kd_ratio=0"], f", {arguments.regularised}" * bool(everybody)
    for epochs in arguments.epochs:
        bench.train(seed, f"plain, {epochs:g} epochs{suffix}", epochs, alone)
    if not arguments.teachers:
        return
    teachers = [f"plain, {arguments.teacher_epochs:g} epochs{suffix}"]
    for number in range(2, arguments.teachers + 1):
        teachers.append(f"teacher {number}, {arguments.teacher_epochs:g} epochs{suffix}")
        bench.train(seed, teachers[-1], arguments.teacher_epochs, [*alone, f"train.seed={1000 * number + seed}"])
    learn = [*DISTILL, *everybody, *arguments.distill]
    ending = f", {arguments.student_epochs:g} epochs" + "".join(f", {each}" for each in arguments.distill) + suffix
    if len(teachers) > 1:
        each = f"{len(teachers)} x {arguments.teacher_epochs:g} epochs"
        bench.score_mean(seed, f"mean of {each}{suffix}", teachers)
        folders = [str(bench.folder(seed, name)) for name in teachers]
        os.environ[FOLDERS] = os.pathsep.join(folders)
        own = ["teacher.path=python:benchmarks.little_data:MeanTeacher", f"teacher.tokenizer={folders[0]}"]
        if arguments.in_memory:
            members = [{"name": f"t{number}", "path": folder} for number, folder in enumerate(folders, 1)]
            own = ["teachers.combine=averaged", f"teachers.members={json.dumps(members)}"]
        name = f"ensemble of {each}{ending}{', in memory' * arguments.in_memory}"
        bench.train(seed, name, arguments.student_epochs, [*learn, *own], teachers)
    below = teachers[0]
    for generation in range(1, arguments.generations + 1):
        name = f"chain, generation {generation}, {arguments.chain_epochs:g} epochs{suffix}"
        path = [f"teacher.path={bench.folder(seed, below)}", f"train.seed={100 * generation + seed}"]
        bench.train(seed, name, arguments.chain_epochs, [*learn, *path], [below])
        below = name


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, nargs="+", default=[3, 4, 5, 6], help="without a teacher")
    parser.add_argument("--with", dest="regularised", choices=REGULARISED, default="")
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--teacher-epochs", type=float, default=5)
    parser.add_argument("--student-epochs", type=float, default=10)
    parser.add_argument("--chain-epochs", type=float, default=5)
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("-p", dest="settings", action="append", default=[], help="a setting of all, section.key=value")
    parser.add_argument("-d", dest="distill", action="append", default=[], help="one of those that have a teacher")
    parser.add_argument("--in-memory", action="store_true", help="ask all teachers in every step")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bench = Bench(arguments.out, [*SETTINGS, *arguments.settings], arguments.precision)
    for seed in arguments.seeds:
        run_seed(bench, seed, arguments)
    print_table(
        [
            {
                "name": entry["name"],
                "bits per byte": f"{statistics.mean(entry['levels']):.3f}",
                "better by": f"{entry['mean']:+.3f}",
                "interval": entry["interval_95"] and "{:+.3f} to {:+.3f}".format(*entry["interval_95"]),
                "seconds": round(entry["seconds"]),
            }
            for entry in summarise(bench.rows)
        ]
    )


if __name__ == "__main__":
    main()
