"""What the penalty on verbatim copies does to a student that has learned its text by heart, and what it costs.

    KDKIT_TEST_DATA=shared/data python -m benchmarks.anti_copy [--seeds 0 1 2] [--memorise 300] [--steps 40]

Teacher: stories260K. Student: the same model, trained on 20 stories until it writes them down. Then one more stage from
the same weights: on the data, on its own text, and on its own text with the penalty at several weights.
Copy rate: share of the 5-grams of words that a student writes after an opening, at temperature 0.5, which stand in the
training text.
"""

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import versions, write_results
from kdkit.alignment.tokenizers import end_token_id
from kdkit.config.language import Config, config_from_values
from kdkit.data.prepare import PreparedData, build_data, open_data
from kdkit.data.text.duplicates import copy_rate, ngrams
from kdkit.data.windows import Windows
from kdkit.distill.plan import TrainingPlan, plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.models.generation import Sampling, generate_ids
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.training.scoring import score_windows

RESULTS = Path(__file__).parent / "results" / "anti_copy.json"
VARIANTS: dict[str, dict[str, Any] | None] = {
    "on the data": None,
    "own text": {},
    "own text, penalty 1": {"anti_copy": 1.0},
    "own text, penalty 4": {"anti_copy": 4.0},
}
STORIES, HELD_OUT, PROMPTS, PROMPT, NEW, TEMPERATURE = 20, 40, 32, 17, 32, 0.5


def configure(data: Path, text: Path, seed: int, memorise: int, steps: int) -> Config:
    """Return the configuration: a stage that learns by heart, then one per variant."""
    shared = {"max_steps": steps, "loss": "reverse_kl", "kd_ratio": 1.0, "learning_rate": 5e-4}
    stages: list[dict[str, Any]] = [{"name": "memorise", "max_steps": memorise, "kd_ratio": 0.0}]
    for number, options in enumerate(VARIANTS.values()):
        own = None if options is None else {"max_new_tokens": NEW, **options}
        stages.append({"name": f"variant-{number}", **shared, "on_policy": own})
    model = str(data / "models" / "stories260K")
    return config_from_values(
        {
            "seed": seed,
            "data": {"path": str(text), "max_length": 128, "evaluation_fraction": HELD_OUT / (STORIES + HELD_OUT)},
            "teacher": {"path": model},
            "student": {"path": model},
            "train": {
                "batch_size": 8,
                "gradient_accumulation_steps": 1,
                "learning_rate": 2e-3,
                "warmup_steps": 10,
                "log_every": 10**6,
                "save_every": 10**6,
                "stages": stages,
            },
        }
    )


def copied(student: torch.nn.Module, windows: Windows, data: PreparedData, known: np.ndarray) -> float:
    """Return the mean copy rate of what a student writes after the first tokens of some windows."""
    lengths = (windows.student_ids >= 0).sum(axis=1)
    rows = windows.student_ids[np.flatnonzero(lengths >= PROMPT)[:PROMPTS], :PROMPT].tolist()
    tokenizer = data.student_tokenizer
    sampling = Sampling(TEMPERATURE, max_new_tokens=NEW)
    options = {"vocab_size": len(tokenizer), "batch_size": PROMPTS}
    written = generate_ids(student, rows, sampling, [end_token_id(tokenizer)], **options)
    return float(np.mean([copy_rate(tokenizer.decode(each.ids), known) for (each,) in written]))


def judge(student: torch.nn.Module, data: PreparedData, known: np.ndarray) -> dict[str, float]:
    """Measure how much a student copies, and how well it reads training and held-out text."""
    return {
        "copied after openings of the training text": copied(student, data.train, data, known),
        "copied after held-out openings": copied(student, data.evaluation, data, known),
        "bits/byte, held out": score_windows(student, data.evaluation, "student", 16).bits_per_byte,
        "bits/byte, training text": score_windows(student, data.train, "student", 16).bits_per_byte,
    }


def train_stage(plan: TrainingPlan, number: int, student: torch.nn.Module, teacher: Teacher) -> float:
    """Train one stage in place; return its seconds."""
    stage = plan.stages[number]
    trainer = make_trainer(plan, stage, student, teacher if stage.asks_teacher else None, f"stage-{number}")
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def main() -> None:
    """Train every variant from the same weights, seed by seed, and write means and ranges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--memorise", type=int, default=300)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    shared = Path(os.environ["KDKIT_TEST_DATA"])
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "stories.txt"
        stories = (shared / "lm" / "tinystories_a.txt").read_text().split("<|endoftext|>")[: STORIES + HELD_OUT]
        text.write_text("<|endoftext|>".join(stories))
        for seed in arguments.seeds:
            config = configure(shared, text, seed, arguments.memorise, arguments.steps)
            run = Run(Path(folder) / "runs" / str(seed), Path(folder) / "cache")
            run.path.mkdir(parents=True)
            session = Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark"))
            data = open_data(build_data(config, run.cache_path))
            known = ngrams([data.student_tokenizer.decode(row[row >= 0]) for row in data.train.student_ids])
            teacher, plan = prepare_teacher(session, data), plan_training(session, data)
            start = make_student(config, data)
            found.setdefault("the teacher", []).append(judge(start, data, known) | {"seconds": 0.0})
            seconds = train_stage(plan, 0, start, teacher)
            found.setdefault("learned by heart", []).append(judge(start, data, known) | {"seconds": seconds})
            for number, name in enumerate(VARIANTS, start=1):
                student = copy.deepcopy(start)
                seconds = train_stage(plan, number, student, teacher)
                found.setdefault(name, []).append(judge(student, data, known) | {"seconds": seconds})
                print(seed, name, found[name][-1], flush=True)
    rows = []
    for name, values in found.items():
        means = {key: round(float(np.mean([value[key] for value in values])), 4) for key in values[0]}
        spread = {f"{key}, seeds": [round(value[key], 4) for value in values] for key in values[0] if key != "seconds"}
        rows.append({"name": name, **means, **spread, "versions": versions()})
        print(name, means)
    write_results(RESULTS, rows)


if __name__ == "__main__":
    main()
