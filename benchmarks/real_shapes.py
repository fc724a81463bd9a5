"""Seed 001's pair in its real shapes, with random weights, on a CPU: tokens per second, and peak memory by the planner.

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.real_shapes [--rounds 3] [--steps 3] [--kinds cached ...] [-p KEY=VALUE]

Huihui-MoE-1B-A0.6B (1.28 billion parameters) teaches SmolLM-135M, as configs/p100.yaml says, in fp32, sequences of 512
tokens, two micro-batches of one in a step. FOLDER holds `tokenizers/qwen1.5`, `tokenizers/smollm2` and
`lm/tinyshakespeare.txt`. Kinds: cross-entropy alone; cached answers; the teacher in memory, its predictions alone
(`logits`) or with its layers (`layers`, as p100.yaml has them).

The kinds take turns, a new student in every round, whose first step is not counted; a ratio is of processor seconds
within a round, its interval that of a t test over rounds. Memory is of a process of its own each, in which every tensor
is a mapping of its own (see `benchmarks.planner`), above what it was before the models existed.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy.stats import t as student_t
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.measure import versions, write_results
from benchmarks.planner import BASE, CPU, MB, THRESHOLD, warm_up
from benchmarks.step_times import StepTimes, time_steps
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.data.windows import PAD
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.machine.memory import memory_in_use, read_peak, start_peak
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.planning import shapes
from kdkit.planning.plan import plan_run

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
LIVE_ROUNDS = 1
"""Rounds of the kinds with the teacher in memory, which take several times as long; the last ones."""


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
    """Let the kinds take turns; return a row for each."""
    opened = {kind: open_kind(kind, folder, arguments.steps, arguments.overrides) for kind in kinds}
    rounds: dict[str, list[StepTimes]] = {kind: [] for kind in kinds}
    sources: dict[str, Any] = {}
    for number in range(arguments.rounds):
        for kind, (session, data) in opened.items():
            if kind in LIVE and number < arguments.rounds - LIVE_ROUNDS:
                continue
            name = LIVE[0] if kind in LIVE else kind  # both have one teacher
            if name not in sources:
                sources[name] = open_source(kind, session, data)
            rounds[kind].append(time_steps(session, data, sources[name], arguments.steps))
            seconds = rounds[kind][-1].processor_seconds()
            print(f"round {number + 1}, {kind}: {' '.join(f'{value:.2f}' for value in seconds)} s", flush=True)
    return [row_of(kind, rounds[kind], rounds["cross-entropy"], *opened[kind]) for kind in kinds]


def row_of(
    kind: str, rounds: list[StepTimes], base: list[StepTimes], session: Session[Config], data: PreparedData
) -> dict[str, Any]:
    """Make the row of a kind: student tokens per second, and the ratio of its time to that of cross-entropy alone."""
    cpu, base_cpu = ([statistics.mean(times.processor_seconds()) for times in part] for part in (rounds, base))
    clock = statistics.mean(statistics.mean(times.seconds()) for times in rounds)
    train = session.config.train
    windows = train.per_device_train_batch_size * train.gradient_accumulation_steps
    tokens = windows * float((data.train.student_ids != PAD).sum(axis=1).mean())
    ratios = [mine / other for mine, other in zip(cpu, base_cpu[-len(cpu) :], strict=True)]
    row = {
        "kind": kind,
        "step_cpu_seconds": statistics.mean(cpu),
        "tokens/s": tokens / statistics.mean(cpu),
        "tokens/s by the clock": tokens / clock,
        "/ cross-entropy": statistics.mean(ratios),
    }
    if len(ratios) > 1 and kind != "cross-entropy":
        half = student_t.ppf(0.975, len(ratios) - 1) * statistics.stdev(ratios) / math.sqrt(len(ratios))
        row |= {"from": row["/ cross-entropy"] - half, "to": row["/ cross-entropy"] + half}
    steps = sum(len(times.seconds()) for times in rounds)
    return row | {"rounds": len(rounds), "steps": steps, "tokens a step": round(tokens), "versions": versions()}


def main() -> None:
    """Measure memory, then times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="cross-entropy always is one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="of a round; the first one is not counted")
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
    kinds = list(dict.fromkeys(["cross-entropy", *arguments.kinds]))
    make_pair(folder)
    for kind in [kind for kind in kinds if kind == "cached"]:  # its answers are made before memory is looked at
        session, data = open_kind(kind, folder, arguments.steps, arguments.overrides)
        open_source(kind, session, data)
    memory = [] if arguments.no_peaks else peaks(kinds, folder, arguments.steps, arguments.overrides)
    rows = times(kinds, folder, arguments)
    write_results(RESULTS, rows + memory)


if __name__ == "__main__":
    main()
