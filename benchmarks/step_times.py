"""Processor seconds of a training step: cross-entropy alone, with a cached teacher, with the teacher in memory.

    python -m benchmarks.step_times [--config configs/demo.yaml] [-p SECTION.KEY=VALUE ...] [--rounds 5] [--steps 25]
    python -m benchmarks.step_times --large [--rounds 5] [--steps 12]       (needs KDKIT_TEST_DATA)

The same student, batches and optimizer, in one process; the kinds take turns, so that what else the machine does hits
all of them. Time is processor time of all threads, which a busy machine changes little; a ratio is the median over the
rounds of ratios within a round. `--large` takes a random Llama student with SmolLM2's tokenizer (49,152 entries) and a
random teacher with Qwen's (151,646), on Tiny Shakespeare, in place of the models and the text of the configuration.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback

from benchmarks.measure import versions, write_results
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import DTYPES
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint
from kdkit.teachers.prepare import Teacher

RESULTS = Path(__file__).parent / "results"
STEPS, DROPPED = 25, 5
LARGE = {
    "student": ("smollm2", {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3}),
    "teacher": ("qwen1.5", {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}),
}
"""Tokenizer and shape of the two models of `--large`: SmolLM2's proportions, smaller."""


class StepTimes(TrainerCallback):
    """When each step ended, by the clock and in processor time."""

    def __init__(self):
        self.ends: list[float] = []
        self.processor_ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the times."""
        self.ends.append(time.perf_counter())
        self.processor_ends.append(time.process_time())

    def seconds(self) -> list[float]:
        """Return the time from the end of each step to the end of the next, which includes making the batch."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]

    def processor_seconds(self) -> list[float]:
        """Return the same in processor time of all threads."""
        return [after - before for before, after in zip(self.processor_ends, self.processor_ends[1:], strict=False)]


def time_steps(session: Session[Config], data: PreparedData, teacher: Any, steps: int = STEPS) -> StepTimes:
    """Train for a few steps and return their times."""
    plan = plan_training(session, data)
    stage = replace(plan.stages[0], steps=steps)
    trainer = make_trainer(plan, stage, make_student(session.config, data), teacher, "benchmark")
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    return times


def make_large_pair(folder: Path) -> list[str]:
    """Write the random models of `--large` with real tokenizers; return the settings that name them and the text."""
    source = os.environ.get("KDKIT_TEST_DATA")
    if not source:
        raise SystemExit("KDKIT_TEST_DATA must name the folder with lm/tinyshakespeare.txt and tokenizers/")
    torch.manual_seed(0)
    for side, (name, shape) in LARGE.items():
        tokenizer = AutoTokenizer.from_pretrained(Path(source) / "tokenizers" / name)
        sizes = shape | {"intermediate_size": 8 * shape["hidden_size"] // 3, "num_key_value_heads": 3}
        tied = {"tie_word_embeddings": True, "max_position_embeddings": 512, "eos_token_id": tokenizer.eos_token_id}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **tied))
        model.save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
    return [
        f"data.path={Path(source) / 'lm' / 'tinyshakespeare.txt'}",
        f"teacher.path={folder / 'teacher'}",
        f"student.path={folder / 'student'}",
    ]


def open_kinds(session: Session[Config], data: PreparedData) -> dict[str, tuple[Session[Config], Any]]:
    """Open what each kind of step needs: its session and its teacher."""
    cache = session.config.cache.model_copy(update={"enabled": True})
    cached = replace(session, config=session.config.model_copy(update={"cache": cache}))
    plan = plan_training(session, data)
    kinds: dict[str, tuple[Session[Config], Any]] = {
        "cross-entropy": (session, None),
        "cached teacher": (cached, open_teacher(plan_training(cached, data))),
    }
    for precision in dict.fromkeys(["fp32", plan.answer_precision]):
        teacher = open_teacher(plan)
        model = teacher.model.to(DTYPES[precision])
        kinds[f"teacher in memory, {precision}"] = session, Teacher(model, teacher.path, teacher.was_built)
    return kinds


def summarise(name: str, rounds: list[StepTimes], base: list[StepTimes]) -> dict[str, Any]:
    """Make the row of a kind: its seconds, and the median and range over the rounds of its ratio to the base's."""
    cpu, base_cpu = (
        [statistics.median(times.processor_seconds()[DROPPED:]) for times in part] for part in (rounds, base)
    )
    ratios = [mine / other for mine, other in zip(cpu, base_cpu, strict=True)]
    return {
        "name": name,
        "cpu_seconds": statistics.median(cpu),
        "/ cross-entropy": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "seconds": statistics.median(value for times in rounds for value in times.seconds()[DROPPED:]),
        "rounds": len(rounds),
        "steps": sum(len(times.seconds()[DROPPED:]) for times in rounds),
    }


def main() -> None:
    """Time the kinds of step and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of a round; the first {DROPPED} are not counted")
    parser.add_argument("--large", action="store_true", help="vocabularies of 49,152 and 151,646")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="for the run and the models of --large")
    arguments = parser.parse_args()
    overrides = [*arguments.overrides, "train.save_every=1000000", "train.log_every=1000000"]
    if arguments.large:
        overrides += make_large_pair(arguments.folder.resolve() / "benchmark-models")
    name = f"benchmark-{fingerprint(arguments.config, overrides)}"
    session = open_session(arguments.config, overrides, name, arguments.folder)
    data = prepare_data(session)
    kinds = open_kinds(session, data)
    rounds: dict[str, list[StepTimes]] = {name: [] for name in kinds}
    for _ in range(arguments.rounds):
        for name, (opened, teacher) in kinds.items():
            rounds[name].append(time_steps(opened, data, teacher, arguments.steps))
    facts = {
        "vocabularies": f"{data.overlap.student_size:,} / {data.overlap.teacher_size:,}",
        "config": Path(arguments.config).name,
        "versions": versions(),
    }
    rows = [summarise(name, found, rounds["cross-entropy"]) | facts for name, found in rounds.items()]
    write_results(RESULTS / ("step_times_large.json" if arguments.large else "step_times.json"), rows)


if __name__ == "__main__":
    main()
