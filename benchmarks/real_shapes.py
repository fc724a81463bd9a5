"""Seed 001's pair in its real shapes, with random weights, on a CPU: tokens per second, and peak memory by the planner.

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.real_shapes [--turns 8] [--kinds cached ...] [-p KEY=VALUE]

Huihui-MoE-1B-A0.6B (1.28 billion parameters) teaches SmolLM-135M, as configs/p100.yaml says, in fp32, sequences of 512
tokens, micro-batches of one. FOLDER holds `tokenizers/qwen1.5`, `tokenizers/smollm2` and
`lm/tinyshakespeare.txt`. Kinds: cross-entropy alone; cached answers; the teacher in memory, its predictions alone
(`logits`) or with its layers (`layers`, as p100.yaml has them).

The kinds take turns, a sequence at a time: reading it, its cached answers too, forward and backward pass. The step of
the optimizer after eight of them is the same for all and left out. A ratio is of processor seconds of one sequence, its
interval that of a t test over sequences. Memory is of a training of a few steps of two micro-batches, each kind in a
process of its own in which every tensor is a mapping of its own (see `benchmarks.planner`), above what it was before
the models existed.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy.stats import t as student_t
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.measure import versions, write_results
from benchmarks.planner import BASE, CPU, MB, THRESHOLD, warm_up
from benchmarks.step_times import time_steps
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.curriculum import cached_rows
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.machine.memory import memory_in_use, read_peak, start_peak
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.planning import shapes
from kdkit.planning.plan import plan_run
from kdkit.training.trainer import LanguageModelTrainer

RESULTS = Path(__file__).parent / "results" / "real_shapes.json"
CONFIG = Path(__file__).parent.parent / "configs" / "p100.yaml"
PAIR = {
    "teacher": ("huihui-ai/Huihui-MoE-1B-A0.6B", "qwen1.5"),
    "student": ("HuggingFaceTB/SmolLM-135M", "smollm2"),
}
"""Published shapes (`kdkit/planning/shapes.yaml`) and tokenizer of both models."""
PARTS = ("feature", "attention", "layerwise", "contrastive")
NO_LAYERS = [f"distill.weights.{part}=0.0" for part in PARTS]
KINDS: dict[str, list[str]] = {
    "cross-entropy": ["distill.kd_ratio=0.0", *NO_LAYERS],
    "cached": ["cache.enabled=true", *NO_LAYERS],
    "logits": NO_LAYERS,
    "layers": [],
}
"""Settings of each kind."""
LIVE = ("logits", "layers")
"""Kinds with the teacher in memory, which take several times as long."""


def source() -> Path:
    """Return the folder of real texts and tokenizers."""
    if "KDKIT_TEST_DATA" not in os.environ:
        sys.exit("KDKIT_TEST_DATA must name the folder with lm/tinyshakespeare.txt and tokenizers/")
    return Path(os.environ["KDKIT_TEST_DATA"])


def make_pair(folder: Path) -> None:
    """Write both models with random weights, and their tokenizers; the teacher in 16 bits, as it is published."""
    published = yaml.safe_load(Path(shapes.__file__).with_name(shapes.KNOWN).read_text(encoding="utf-8"))
    torch.manual_seed(0)
    for side, (name, tokenizer) in PAIR.items():
        if (folder / side / "config.json").is_file():
            continue
        read = AutoTokenizer.from_pretrained(source() / "tokenizers" / tokenizer)
        architecture = AutoConfig.for_model(**published[name] | {"eos_token_id": read.eos_token_id})
        model = AutoModelForCausalLM.from_config(architecture)
        (model.half() if side == "teacher" else model).save_pretrained(folder / side)
        read.save_pretrained(folder / side)


def settings_of(kind: str, folder: Path, more: list[str]) -> list[str]:
    """Return the settings of a kind, for a CPU and as few sequences as are read."""
    shared = [
        f"teacher.path={folder / 'teacher'}",
        f"student.path={folder / 'student'}",
        f"data.path={source() / 'lm' / 'tinyshakespeare.txt'}",
        f"cache_dir={folder / 'cache'}",
        "train.device=cpu",
        "train.precision=fp32",
        "train.per_device_train_batch_size=1",
        "train.gradient_accumulation_steps=2",
        "train.warmup_steps=1",
        "train.save_every=1000000",
        "train.log_every=1000000",
        "evaluate.batch_size=1",
    ]
    return [*shared, *more, *KINDS[kind]]


def open_kind(kind: str, folder: Path, steps: int, more: list[str]) -> tuple[Session[Config], PreparedData]:
    """Open the run of a kind and its text."""
    settings = [*settings_of(kind, folder, more), f"train.max_steps={steps}"]
    session = open_session(str(CONFIG), settings, f"real-shapes-{kind}", folder / "runs")
    return session, prepare_data(session)


def open_source(kind: str, session: Session[Config], data: PreparedData) -> Any:
    """Open the teacher of a kind, or its answers, which are made where they are missing."""
    return None if kind == "cross-entropy" else open_teacher(plan_training(session, data))


def peak_of(kind: str, folder: Path, steps: int, more: list[str]) -> dict[str, Any]:
    """Train a few steps in this process; set the most memory beside what the planner says."""
    session, data = open_kind(kind, folder, steps, more)
    plan_training(session, data)  # reads the tokenizers
    base = memory_in_use(CPU)
    start_peak(CPU)
    time_steps(session, data, open_source(kind, session, data), steps)
    measured = read_peak(CPU) - base
    phase = next(phase for phase in plan_run(session.config, "cpu").phases if phase.name == "the student is trained")
    items = {item.name: round(item.bytes / MB, 1) for item in phase.items if item.counted and item.name != BASE}
    planned = sum(items.values())
    row = {"kind": kind, "planned_mb": round(planned, 1), "measured_mb": round(measured / MB, 1)}
    return row | {"ratio": round(planned * MB / measured, 3), "items": items}


def peaks(kinds: list[str], folder: Path, steps: int, more: list[str]) -> list[dict[str, Any]]:
    """Measure the memory of every kind in a process of its own."""
    rows = []
    for kind in kinds:
        command = [
            sys.executable,
            "-m",
            "benchmarks.real_shapes",
            "--peak-of",
            kind,
            "--folder",
            str(folder),
            "--steps",
            str(steps),
        ]
        command += [word for setting in more for word in ("-p", setting)]
        done = subprocess.run(command, env=os.environ | {THRESHOLD: "131072"}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{kind} failed:\n{done.stderr}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print({name: value for name, value in rows[-1].items() if name != "items"}, flush=True)
    return rows


def times(kinds: list[str], folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Let the kinds take turns, micro-batch by micro-batch; return a row for each."""
    opened = {kind: open_kind(kind, folder, arguments.steps, arguments.overrides) for kind in kinds}
    rows, sources, trainers = cached_rows(plan_training(*opened["cached"])), {}, {}
    found: dict[str, list[Turn]] = {kind: [] for kind in kinds}
    for number in range(arguments.turns + 1):
        for kind in kinds:
            if kind in LIVE and number < arguments.turns - arguments.live_turns:
                continue
            if kind not in trainers:
                name = LIVE[0] if kind in LIVE else kind  # both have one teacher
                if name not in sources:
                    sources[name] = open_source(kind, *opened[kind])
                trainers[kind] = trainer_of(*opened[kind], sources[name])
            turn = take_turn(trainers[kind], rows[number % len(rows)])
            print(f"turn {number}, {kind}: {turn.cpu:.2f} s, {turn.tokens} tokens", flush=True)
            found[kind].append(turn)
    return [row_of(kind, found[kind][1:], found["cross-entropy"][1:]) for kind in kinds]


def trainer_of(session: Session[Config], data: PreparedData, teacher: Any) -> LanguageModelTrainer:
    """Make the trainer of a kind, with a student of its own."""
    plan = plan_training(session, data)
    return make_trainer(plan, plan.stages[0], make_student(session.config, data), teacher, "benchmark")


@dataclass(frozen=True)
class Turn:
    """One micro-batch, read and differentiated."""

    cpu: float
    """Processor seconds."""
    clock: float
    tokens: int
    """The student's."""


def take_turn(trainer: LanguageModelTrainer, row: int) -> Turn:
    """Read one sequence, with its cached answers where they are, and differentiate its loss."""
    start, start_cpu = time.perf_counter(), time.process_time()
    batch = trainer.data_collator([row])
    tokens = int((batch["labels"] != IGNORE_INDEX).sum())
    trainer.training_step(trainer.model, batch, torch.tensor(tokens))
    return Turn(time.process_time() - start_cpu, time.perf_counter() - start, tokens)


def row_of(kind: str, turns: list[Turn], base: list[Turn]) -> dict[str, Any]:
    """Make the row of a kind: student tokens per second, and the ratio of its time to that of cross-entropy alone."""
    tokens = sum(turn.tokens for turn in turns)
    ratios = [mine.cpu / other.cpu for mine, other in zip(turns, base[-len(turns) :], strict=True)]
    row = {
        "kind": kind,
        "cpu_seconds": statistics.mean(turn.cpu for turn in turns),
        "tokens/s": tokens / sum(turn.cpu for turn in turns),
        "tokens/s by the clock": tokens / sum(turn.clock for turn in turns),
        "/ cross-entropy": statistics.mean(ratios),
    }
    if len(ratios) > 1 and kind != "cross-entropy":
        half = student_t.ppf(0.975, len(ratios) - 1) * statistics.stdev(ratios) / math.sqrt(len(ratios))
        row |= {"from": row["/ cross-entropy"] - half, "to": row["/ cross-entropy"] + half}
    return row | {"turns": len(turns), "versions": versions()}


def main() -> None:
    """Measure memory, then times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="the first two always are")
    parser.add_argument("--turns", type=int, default=8, help="micro-batches of each kind, and one that is not counted")
    parser.add_argument("--live-turns", type=int, default=2, help="the last ones, with a teacher in memory")
    parser.add_argument("--steps", type=int, default=3, help="of which memory is measured")
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "real-shapes", help="3 GB of models, kept")
    parser.add_argument("--peak-of", choices=KINDS, help="only the memory of one kind, in this process")
    parser.add_argument("--no-peaks", action="store_true", help="times only")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.peak_of:
        warm_up(folder)
        print(json.dumps(peak_of(arguments.peak_of, folder, arguments.steps, arguments.overrides)))
        return
    kinds = list(dict.fromkeys(["cross-entropy", "cached", *arguments.kinds]))
    make_pair(folder)
    session, data = open_kind("cached", folder, arguments.steps, arguments.overrides)
    open_source("cached", session, data)  # its answers are made before memory is looked at
    memory = [] if arguments.no_peaks else peaks(kinds, folder, arguments.steps, arguments.overrides)
    write_results(RESULTS, [*times(kinds, folder, arguments), *memory])


if __name__ == "__main__":
    main()
