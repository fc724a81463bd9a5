"""What hiding a share of the training text does to a student, with a teacher and without.

    KDKIT_TEST_DATA=shared/data python -m benchmarks.masking [--seeds 0 1 2] [--steps 300]

Teacher: stories260K on TinyStories. Student: a small Llama with its tokenizer. Held-out bits per byte, unmasked.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import versions, write_results
from kdkit.config.language import Config, config_from_values
from kdkit.data.prepare import build_data, open_data
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.scoring import score_windows

RESULTS = Path(__file__).parent / "results" / "masking.json"
VARIANTS: dict[str, dict[str, Any]] = {
    "nothing hidden": {},
    "10 % of the input": {"enabled": True, "share": 0.1},
    "30 % of the input": {"enabled": True},
    "30 % of the loss": {"enabled": True, "dropped_from": "loss"},
}
CHARACTERS = 150_000


def configure(data: Path, text: Path, seed: int, steps: int, masking: dict[str, Any]) -> Config:
    """Return the configuration of one variant."""
    build = {"tokenizer": "teacher", "hidden_size": 48, "num_layers": 2, "intermediate_size": 128}
    train = {"batch_size": 8, "gradient_accumulation_steps": 1, "learning_rate": 5e-3, "warmup_steps": 10}
    return config_from_values(
        {
            "seed": seed,
            "data": {"path": str(text), "max_length": 128},
            "teacher": {"path": str(data / "models" / "stories260K")},
            "student": {"build": build},
            "train": train | {"max_steps": steps, "log_every": 10**6, "save_every": 10**6, "masking": masking},
        }
    )


def main() -> None:
    """Train every variant with a teacher and without, seed by seed, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    shared = Path(os.environ["KDKIT_TEST_DATA"])
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "stories.txt"
        text.write_text((shared / "lm" / "tinystories_a.txt").read_text()[:CHARACTERS])
        for seed in arguments.seeds:
            for name, masking in VARIANTS.items():
                config = configure(shared, text, seed, arguments.steps, masking)
                run = Run(Path(folder) / "runs" / f"{seed}-{name[:4]}-{len(found)}", Path(folder) / "cache")
                run.path.mkdir(parents=True)
                session = Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark"))
                data = open_data(build_data(config, run.cache_path))
                plan, teacher = plan_training(session, data), prepare_teacher(session, data)
                for kind, source in (("distilled", teacher), ("no teacher", None)):
                    student = make_student(config, data)
                    make_trainer(plan, plan.stages[0], student, source, kind[:2]).train()
                    score = score_windows(student, data.evaluation, "student", 16).bits_per_byte
                    found.setdefault((name, kind), []).append(score)
                    print(seed, name, kind, round(score, 4), flush=True)
    rows = [
        {
            "name": f"{name}, {kind}",
            "bits/byte": round(float(np.mean(scores)), 4),
            "seeds": [round(score, 4) for score in scores],
            "versions": versions(),
        }
        for (name, kind), scores in found.items()
    ]
    write_results(RESULTS, rows)


if __name__ == "__main__":
    main()
