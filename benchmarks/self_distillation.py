"""Self-distillation beside plain fine-tuning: what is learnt of new answers, and what of the old text is forgotten.

    KDKIT_TEST_DATA=shared/data python -m benchmarks.self_distillation [--seeds 0 1 2] [--steps 40]

Student and teacher: stories260K, which has read TinyStories alone, on short answers of Dolly. Bits per byte of held-out
answers, and of TinyStories. The teacher is the start itself, asked with the answer (`asked`), an average of the
student's weights (`average`), or both; on the data's answers, or on the student's own (SDFT, arXiv:2601.19897).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from benchmarks.measure import versions, write_results
from kdkit.config.language import Config, config_from_values
from kdkit.data.prepare import build_data, open_data
from kdkit.data.windows import Windows
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.runs.folder import Run
from kdkit.training.scoring import score_windows

RESULTS = Path(__file__).parent / "results" / "self_distillation.json"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
ASKED = "{prompt}\nThis is an example of a good answer:\n{answer}\nNow answer in your own words."
OWN = {"name": "own", "loss": "forward_kl", "kd_ratio": 1.0, "on_policy": {"max_new_tokens": 24}}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    "fine-tuning": ({}, {"kd_ratio": 0.0}, None),
    "average, data": ({"average_decay": 0.98}, {"kd_ratio": 0.5}, None),
    "asked, data": ({"privileged_prompt": ASKED}, {"kd_ratio": 0.5}, None),
    "asked, own answers": ({"privileged_prompt": ASKED}, {}, OWN),
    "asked and average, own answers (SDFT)": ({"privileged_prompt": ASKED, "average_decay": 0.98}, {}, OWN),
}
ROWS, LONGEST = 400, 300


def configure(shared: Path, text: Path, seed: int, steps: int, name: str) -> Config:
    """Return the configuration of one variant."""
    teacher, distill, stage = VARIANTS[name]
    side = {"path": str(shared / "models" / "stories260K"), "chat_template": TEMPLATE}
    train = {"batch_size": 8, "gradient_accumulation_steps": 1, "learning_rate": 5e-4, "warmup_steps": 5}
    stages = [] if stage is None else [stage | {"max_steps": steps}]
    return config_from_values(
        {
            "seed": seed,
            "data": {"path": str(text), "max_length": 192, "evaluation_fraction": 0.15},
            "teacher": side | {"max_length": 480} | teacher,
            "student": side,
            "distill": {"loss": "forward_kl"} | distill,
            "train": train | {"max_steps": steps, "log_every": 10**6, "save_every": 10**6, "stages": stages},
        }
    )


def judge(student: PreTrainedModel, parts: dict[str, Windows]) -> dict[str, float]:
    """Return the bits per byte of a student on some windows."""
    return {name: score_windows(student, part, "student", 16).bits_per_byte for name, part in parts.items()}


def main() -> None:
    """Train every variant, seed by seed, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    shared = Path(os.environ["KDKIT_TEST_DATA"])
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        text, stories = Path(folder) / "dolly.jsonl", Path(folder) / "stories.txt"
        lines = (shared / "instruction" / "dolly_train.jsonl").read_text().splitlines()
        text.write_text("\n".join([line for line in lines if len(line) < LONGEST][:ROWS]))
        stories.write_text((shared / "lm" / "tinystories_a.txt").read_text()[:20_000])
        for seed in arguments.seeds:
            for name in VARIANTS:
                config = configure(shared, text, seed, arguments.steps, name)
                run = Run(Path(folder) / "runs" / f"{seed}-{len(found)}-{name[:3]}", Path(folder) / "cache")
                run.path.mkdir(parents=True)
                session = Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark"))
                data = open_data(build_data(config, run.cache_path))
                old = config.model_copy(update={"data": config.data.model_copy(update={"path": str(stories)})})
                old = old.model_copy(update={"teacher": old.teacher.model_copy(update={"privileged_prompt": None})})
                forgotten = open_data(build_data(old, run.cache_path)).train.first(32)
                plan, student = plan_training(session, data), make_student(config, data)
                parts = {"answers": data.evaluation.first(48), "stories": forgotten}
                if name == "fine-tuning":
                    found.setdefault("before", []).append(judge(student, parts) | {"seconds": 0.0})
                stage = plan.stages[0]
                trainer = make_trainer(plan, stage, student, open_teacher(plan) if stage.asks_teacher else None)
                start = time.process_time()
                trainer.train()
                seconds = time.process_time() - start
                found.setdefault(name, []).append(judge(student, parts) | {"seconds": seconds})
                print(seed, name, found[name][-1], flush=True)
    rows = [
        {
            "name": name,
            "answers, bits/byte": round(float(np.mean([value["answers"] for value in values])), 4),
            "stories, bits/byte": round(float(np.mean([value["stories"] for value in values])), 4),
            "processor seconds": round(float(np.mean([value["seconds"] for value in values])), 1),
            "answers, seeds": [round(value["answers"], 4) for value in values],
            "stories, seeds": [round(value["stories"], 4) for value in values],
            "versions": versions(),
        }
        for name, values in found.items()
    ]
    write_results(RESULTS, rows)


if __name__ == "__main__":
    main()
