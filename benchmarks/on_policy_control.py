"""What an on-policy stage gains, beside a control in which the teacher has no part.

    KDKIT_TEST_DATA=shared/data python -m benchmarks.on_policy_control [--seeds 0 1] [--steps 50] [--warm-up 300]

Teacher: stories260K on TinyStories. Students: a small Llama with its tokenizer, first trained on the text alone, then
one more stage from the same weights: on the data (reverse KL), or on its own text: all tokens, their first 30 %
(arXiv:2606.22600), early tokens weighed up (the same), and a constant advantage without a teacher, at three learning
rates (arXiv:2608.31046).
A claim for on-policy distillation is what lies beyond that control and beyond the same divergence on the data.
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
from transformers import PreTrainedModel

from benchmarks.measure import versions, write_results
from kdkit.alignment.tokenizers import end_token_id
from kdkit.config.language import Config, config_from_values
from kdkit.data.prepare import PreparedData, build_data, open_data
from kdkit.distill.plan import TrainingPlan, plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.models.generation import Sampling, generate_ids
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.training.scoring import score_windows

RESULTS = Path(__file__).parent / "results" / "on_policy_control.json"
VARIANTS: dict[str, dict[str, Any] | None] = {
    "on the data": None,
    "own text": {},
    "own text, first 30 %": {"first_share": 0.3},
    "own text, importance 0.5": {"importance": 0.5},
    "constant advantage, no teacher": {"advantage": "constant"},
    "the same, a tenth of the rate": {"advantage": "constant"},
    "the same, a hundredth": {"advantage": "constant"},
}
RATES = {"the same, a tenth of the rate": 0.1, "the same, a hundredth": 0.01}
"""Factors of the learning rate: at the full one the control makes a small student say nearly always the same."""
CHARACTERS, PROMPTS, PROMPT, NEW = 600_000, 64, 17, 48


def configure(data: Path, text: Path, seed: int, warm_up: int, steps: int) -> Config:
    """Return the configuration: a stage on the text alone, then one per variant."""
    shared = {"max_steps": steps, "loss": "reverse_kl", "kd_ratio": 1.0}
    stages: list[dict[str, Any]] = [{"name": "warm-up", "max_steps": warm_up, "kd_ratio": 0.0}]
    for number, (name, options) in enumerate(VARIANTS.items()):
        rate = 2e-3 * RATES.get(name, 1.0)
        stages.append({"name": f"variant-{number}", **shared, "learning_rate": rate, "on_policy": options})
    return config_from_values(
        {
            "seed": seed,
            "data": {"path": str(text), "max_length": 128},
            "teacher": {"path": str(data / "models" / "stories260K")},
            "student": {
                "build": {"tokenizer": "teacher", "hidden_size": 48, "num_layers": 2, "intermediate_size": 128}
            },
            "train": {
                "batch_size": 8,
                "gradient_accumulation_steps": 1,
                "learning_rate": 5e-3,
                "warmup_steps": 10,
                "log_every": 10**6,
                "save_every": 10**6,
                "stages": stages,
            },
        }
    )


@torch.no_grad()
def judge(student: PreTrainedModel, teacher: PreTrainedModel, data: PreparedData) -> dict[str, float]:
    """Measure a student on held-out text, and on what it writes to held-out prompts."""
    student.eval()
    lengths = (data.evaluation.student_ids >= 0).sum(axis=1)
    rows = data.evaluation.student_ids[np.flatnonzero(lengths >= PROMPT)[:PROMPTS], :PROMPT]
    end, size = end_token_id(data.student_tokenizer), len(data.student_tokenizer)
    sampling = Sampling(max_new_tokens=NEW, seed=0)
    written = generate_ids(student, rows.tolist(), sampling, [end], vocab_size=size, batch_size=len(rows))
    new = [generated.ids + [end] * generated.stopped for (generated,) in written]
    lengths = torch.tensor([len(row) for row in new])
    width = int(lengths.max())
    filled = torch.tensor([row + [end] * (width - len(row)) for row in new])
    is_own = torch.arange(width) < lengths[:, None]
    text = torch.cat([torch.from_numpy(rows.astype(np.int64)), filled], dim=1)
    q, p = (model(input_ids=text).logits[:, PROMPT - 1 : -1].log_softmax(dim=-1) for model in (student, teacher))
    entropy = -(q.exp() * q).sum(dim=-1)[is_own].mean()
    return {
        "bits/byte": score_windows(student, data.evaluation.first(64), "student", 16).bits_per_byte,
        "own-text KL": (q.exp() * (q - p)).sum(dim=-1)[is_own].mean().item(),
        "teacher's nats on it": -p.gather(-1, new[..., None])[..., 0][is_own].mean().item(),
        "student's entropy": entropy.item(),
    }


def train_stage(plan: TrainingPlan, number: int, student: PreTrainedModel, teacher: Teacher) -> float:
    """Train one stage in place; return its seconds."""
    stage = plan.stages[number]
    trainer = make_trainer(plan, stage, student, teacher if stage.asks_teacher else None, f"stage-{number}")
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def _ends(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def main() -> None:
    """Train every variant from the same weights, seed by seed, and print means and ranges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=300)
    arguments = parser.parse_args()
    shared = Path(os.environ["KDKIT_TEST_DATA"])
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "stories.txt"
        text.write_text((shared / "lm" / "tinystories_a.txt").read_text()[:CHARACTERS])
        for seed in arguments.seeds:
            config = configure(shared, text, seed, arguments.warm_up, arguments.steps)
            run = Run(Path(folder) / "runs" / str(seed), Path(folder) / "cache")
            run.path.mkdir(parents=True)
            session = Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark"))
            data = open_data(build_data(config, run.cache_path))
            teacher, plan = prepare_teacher(session, data), plan_training(session, data)
            start = make_student(config, data)
            train_stage(plan, 0, start, teacher)
            found.setdefault("before", []).append(judge(start, teacher.model, data) | {"seconds": 0.0})
            for number, name in enumerate(VARIANTS, start=1):
                student = copy.deepcopy(start)
                seconds = train_stage(plan, number, student, teacher)
                found.setdefault(name, []).append(judge(student, teacher.model, data) | {"seconds": seconds})
                print(seed, name, found[name][-1], flush=True)
    rows = []
    for name, values in found.items():
        means = {key: round(sum(value[key] for value in values) / len(values), 4) for key in values[0]}
        ends = {f"{key}, seeds": _ends([value[key] for value in values]) for key in ("bits/byte", "own-text KL")}
        rows.append({"name": name, **means, **ends, "versions": versions()})
    write_results(RESULTS, rows)


if __name__ == "__main__":
    main()
