"""What helps a small language model to calculate: exact answers to held-out problems after the same steps.

    nice -n 19 python -m benchmarks.maths_students [--seeds 0 1 2] [--steps 200] [--only NAME ...] [--templates KIND ..]

Problems: derivatives of polynomials, or other kinds, levels 1 and 2, made here; 1,600 to train on and 100 to judge on
(other numbers). Model: 0.25 million parameters from random weights, without a teacher; 16 problems a step, Muon. It
writes with the most likely token, and the checker compares what stands in its box. Every variant changes one thing.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import write_results
from kdkit.alignment.templates import Message
from kdkit.config.language import Config, config_from_values
from kdkit.config.maths.settings import CheckerConfig
from kdkit.data.prepare import PreparedData, build_data, open_data
from kdkit.data.problems import HELD_OUT
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.maths.checking.boxes import find_answer
from kdkit.maths.checking.pool import CheckerPool, Job
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import Problem
from kdkit.models.generation import Sampling
from kdkit.models.loading import no_bar
from kdkit.models.writer import Writer, model_writer
from kdkit.runs.folder import Run

RESULTS = Path(__file__).parent / "results" / "maths_students.json"
BASE = "digits apart, short template, Muon"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "digits together": {"digits": "together"},
    "ChatML": {"template": None},
    "AdamW": {"optimizer": "adamw"},
    "curriculum by level": {"curriculum": "level"},
}


def configure(
    seed: int,
    steps: int,
    digits: str = "apart",
    template: str | None = "short",
    optimizer: str = "muon",
    curriculum: str = "none",
    templates: Sequence[str] = ("derivative_polynomial",),
) -> Config:
    """Return the configuration of one training."""
    kinds = {"templates": list(templates), "held_out_templates": [], "levels": [1, 2]}
    return config_from_values(
        {
            "seed": seed,
            "data": {"path": "kdkit-maths", "max_length": 256},
            "maths": {"problems": kinds | {"num_problems": 1600, "num_held_out": 100}},
            "teacher": {"max_length": 256, "chat_template": template, "build": {"vocab_size": 400, "digits": digits}},
            "student": {
                "build": {
                    "tokenizer": "teacher",
                    "hidden_size": 96,
                    "num_layers": 2,
                    "intermediate_size": 256,
                    "qk_norm": True,
                    "tie_embeddings": True,
                }
            },
            "train": {
                "batch_size": 16,
                "gradient_accumulation_steps": 1,
                "learning_rate": 4e-3,
                "adam_betas": [0.9, 0.95],
                "optimizer": optimizer,
                "curriculum": curriculum,
                "max_steps": steps,
                "warmup_steps": max(1, steps // 20),
                "log_every": 10**6,
                "save_every": 10**6,
            },
        }
    )


def mark(writer: Writer, problems: list[Problem], pool: CheckerPool) -> list[bool]:
    """Return for each problem whether the boxed answer, written with the most likely token, is right."""
    prompts = [[Message("user", problem.problem)] for problem in problems]
    written = writer.write(prompts, Sampling(temperature=0.0, max_new_tokens=200))
    found = [find_answer(texts[0].text, pool.settings.policies) for texts in written]
    jobs = [
        Job(each.answer, answer or "", each.answer_kind, each.check_against)
        for each, answer in zip(problems, found, strict=True)
    ]
    return [verdict is Verdict.RIGHT for verdict in pool.check(jobs)]


def tokens_of(data: PreparedData) -> float:
    """Return the mean length of a problem with its solution in tokens."""
    return float((data.train.student_ids >= 0).sum(axis=1).mean())


def train(config: Config, folder: Path, name: str, pool: CheckerPool) -> dict[str, float]:
    """Train once; return the share of right answers and what it took."""
    data = open_data(build_data(config, folder / "cache"))
    run = Run(folder / "runs" / name, folder / "cache")
    run.path.mkdir(parents=True)
    plan = plan_training(Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark")), data)
    student = make_student(config, data)
    trainer = make_trainer(plan, plan.stages[0], student, None, "baseline")
    with no_bar():
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
    writer = model_writer(student, data.student_tokenizer, batch_size=50)
    right = statistics.mean(mark(writer, data.problems(HELD_OUT), pool))
    return {"right": right, "seconds": round(seconds, 1), "tokens": round(tokens_of(data), 1)}


def main() -> None:
    """Train every variant for every seed and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--templates", nargs="+", default=["derivative_polynomial"], help="kinds of problems")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS if name in (BASE, *arguments.only)}
    with tempfile.TemporaryDirectory() as folder, CheckerPool(CheckerConfig(num_workers=1)) as pool:
        for name, results in found.items():
            for seed in arguments.seeds:
                config = configure(seed, arguments.steps, templates=arguments.templates, **VARIANTS[name])
                results.append(train(config, Path(folder), f"{name}-{seed}".replace(" ", "_"), pool))
                print(name, seed, results[-1], flush=True)
    rows = [
        {
            "name": name,
            "right": round(statistics.mean(each["right"] for each in results), 3),
            "by_seed": [each["right"] for each in results],
            "tokens": results[0]["tokens"],
            "seconds": [each["seconds"] for each in results],
        }
        for name, results in found.items()
    ]
    write_results(arguments.results, rows)


if __name__ == "__main__":
    main()
