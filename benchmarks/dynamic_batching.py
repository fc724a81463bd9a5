"""What dynamic batching saves on conversations of unequal lengths, and what transformers' `group_by_length` does.

    python -m benchmarks.dynamic_batching [--rounds 2] [--steps 14]       (needs KDKIT_TEST_DATA)

Dolly's questions and answers of at most 512 tokens, steps of 4 x 8 conversations, random Llamas (student 128 x 4,
teacher 192 x 4, vocabulary 4,096), fp32, CPU; 14 steps are a pass over 480 of them. The kinds take turns in one
process. Seconds are processor time of all threads behind the first step, tokens those that the student reads, padding
aside; `gain` is the median over the rounds of a kind's tokens per second over those of the same trainer with
micro-batches of one size. transformers' `group_by_length` sorts the sequences of 50 steps, so that a step reads other
conversations, all of one length; kdkit sorts within a step, which stays what it was.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from benchmarks.measure import versions, write_results
from kdkit.config.language import Config, config_from_values
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import PreparedData, build_data, open_data
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher

RESULTS = Path(__file__).parent / "results" / "dynamic_batching.json"
BATCH, ACCUMULATION, LENGTH = 4, 8, 512
FIXED, GROUPED = "micro-batches of 4", "micro_batch_tokens=2048"
THEIRS = {"transformers, as it comes": "random", "transformers, group_by_length": "group_by_length"}
KINDS = [(with_teacher, tokens) for with_teacher in (False, True) for tokens in (None, BATCH * LENGTH)]


def main() -> None:
    """Train all kinds in turn, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=14)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(build_data(configure(arguments.steps, None), Path(folder) / "cache"))
        for number in range(arguments.rounds):
            for name, base, values in train_all(data, arguments.steps, Path(folder) / str(number)):
                found.setdefault(name, []).append(values)
                values["gain"] = values["tokens_per_second"] / found[base][-1]["tokens_per_second"]
                print(number, name, values, flush=True)
    rows = [
        {"name": name, **{key: statistics.median(each[key] for each in values) for key in values[0]}}
        for name, values in found.items()
    ]
    write_results(RESULTS, [row | {"rounds": arguments.rounds, "versions": versions()} for row in rows])


def configure(steps: int, tokens: int | None) -> Config:
    """Return the configuration of a training."""
    folder = Path(os.environ["KDKIT_TEST_DATA"])
    sizes = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "intermediate_size": 352}
    return config_from_values(
        {
            "data": {"path": str(folder / "instruction" / "dolly_dev.jsonl"), "subset_size": 480, "max_length": LENGTH},
            "student": {"build": {"tokenizer": "teacher", **sizes}},
            "teacher": {"build": {"vocab_size": 4096}, "max_length": LENGTH},
            "distill": {"overlap_top_k": 0, "start_from_teacher": False},
            "train": {
                "batch_size": BATCH,
                "gradient_accumulation_steps": ACCUMULATION,
                "max_steps": steps,
                "micro_batch_tokens": tokens,
                "log_every": 1000,
                "save_every": 1000,
            },
        }
    )


class Meter(TrainerCallback):
    """Processor time and tokens read at the end of each step."""

    def __init__(self, read: Callable[[], float]):
        self.read, self.ends = read, []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note both."""
        self.ends.append((time.process_time(), self.read()))

    def tokens_per_second(self) -> float:
        """Return the tokens read a second behind the first step."""
        (start, before), (end, after) = self.ends[0], self.ends[-1]
        return (after - before) / (end - start)


def train_all(data: PreparedData, steps: int, folder: Path) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Train every kind; yield its name, the kind that it is compared with, and what was measured."""
    for with_teacher, tokens in KINDS:
        first = "distillation, " if with_teacher else "cross-entropy, "
        found = train_own(data, steps, tokens, with_teacher, folder)
        yield first + (GROUPED if tokens else FIXED), first + FIXED, found
    for name, strategy in THEIRS.items():
        yield name, next(iter(THEIRS)), train_theirs(data, steps, strategy, folder)


def make_llama(size: int, width: int) -> LlamaForCausalLM:
    """Make the same random model every time."""
    set_seed(0)
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 11 * width // 4,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, **sizes))


def train_own(data: PreparedData, steps: int, tokens: int | None, with_teacher: bool, folder: Path) -> dict[str, float]:
    """Train with kdkit."""
    run = Run(folder / f"{with_teacher}-{tokens}", folder / "cache")
    session = Session(configure(steps, tokens), run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark"))
    plan = plan_training(session, data)
    teacher = Teacher(make_llama(len(data.teacher_tokenizer), 192).eval().requires_grad_(False), "random", True)
    stage = replace(plan.stages[0], steps=steps)
    student = make_student(session.config, data)
    trainer = make_trainer(plan, stage, student, teacher if with_teacher else None, "student")
    trainer.add_callback(meter := Meter(lambda: trainer.counts["read"]))
    trainer.train()
    counts = trainer.read_counts()
    return {
        "tokens_per_second": meter.tokens_per_second(),
        "padding_share": 1 - counts["read"] / counts["padded"],
    }


class Peer(Trainer):
    """transformers' own trainer; counts what it reads."""

    read, padded = 0, 0

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *arguments: Any) -> torch.Tensor:
        """Count a micro-batch and train on it."""
        self.read += sum(inputs.pop("lengths"))
        self.padded += inputs["input_ids"].numel()
        return super().training_step(model, inputs, *arguments)


class Lengths(torch.utils.data.Dataset):
    """Rows of the windows, with their lengths, by which transformers groups."""

    def __init__(self, collate: WindowCollator):
        self.collate = collate

    def __len__(self) -> int:
        return len(self.collate.windows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        batch = self.collate([row])
        return {"row": row, "input_ids": batch["input_ids"][0]}

    def batch(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Build a padded batch."""
        found = self.collate([item["row"] for item in items])
        return {name: found[name] for name in ("input_ids", "labels", "lengths")}


def train_theirs(data: PreparedData, steps: int, strategy: str, folder: Path) -> dict[str, float]:
    """Train with transformers."""
    arguments = TrainingArguments(
        output_dir=str(folder / strategy),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATION,
        max_steps=steps,
        train_sampling_strategy=strategy,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    model, rows = make_llama(len(data.student_tokenizer), 128), Lengths(WindowCollator(data.train))
    trainer = Peer(model, arguments, train_dataset=rows, data_collator=rows.batch)
    trainer.add_callback(meter := Meter(lambda: trainer.read))
    trainer.train()
    return {
        "tokens_per_second": meter.tokens_per_second(),
        "padding_share": 1 - trainer.read / trainer.padded,
    }


if __name__ == "__main__":
    main()
