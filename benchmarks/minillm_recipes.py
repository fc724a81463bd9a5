"""What each option of a training is worth to a small language model at equal time, and the best of them together.

    nice -n 19 python -m benchmarks.minillm_recipes [--seeds 0 1 2] [--steps 300] [--only NAME ...]

Text: the demo's (`python-docs`). Model: the demo's student, without a teacher. Every variant gets the processor time of
the plain recipe (AdamW, cosine, its learning rate tuned): its steps follow from the time of a step, measured in turns
with the plain recipe's. Score: bits per byte of the same held-out text. The best recipe is also trained for less than
0.6 of that time, by a schedule that ends there. It was chosen on seeds 1 and 2, so others confirm it:

    nice -n 19 python -m benchmarks.minillm_recipes --only best --seeds 3 4 5 0 1 2 --results FILE
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import write_results
from kdkit.config.language import Config, config_from_values
from kdkit.data.prepare import PreparedData, build_data, open_data
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.models.loading import no_bar
from kdkit.runs.folder import Run
from kdkit.training.options.bundle import make_options
from kdkit.training.scoring import score_windows

RESULTS = Path(__file__).parent / "results" / "minillm_recipes.json"
PLAIN = "plain"
BEST = "best"
EARLY = 0.55
"""Part of the plain recipe's steps, in the time of its own: what begins a training counts, too, so that 0.6 is kept."""
CALIBRATION_STEPS, CALIBRATION_ROUNDS = 30, 2
EMBEDDINGS = {"parameter_lr_multipliers": [{"pattern": "embed", "lr_multiplier": 20.0}]}
TABLES = {
    "parameter_lr_multipliers": [
        {"pattern": "embed", "lr_multiplier": 50.0},
        {"pattern": "lm_head", "lr_multiplier": 2.0},
    ]
}
STABLE = {
    "lr_schedule": "warmup_stable_decay",
    "lr_schedule_options": {"decay_share": 0.7, "decay_type": "linear"},
    "warmup_steps": 5,
}
CONSTANT = {"lr_schedule": "constant_with_warmup"}
LENGTHS = {"length_schedule": {0: 32, 0.4: 64, 0.7: 128}}
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    BEST: STABLE | TABLES | LENGTHS,
    "Muon": {"optimizer": "muon"},
    "Muon, twice the rate": {"optimizer": "muon", "learning_rate": 2e-2},
    "embeddings 20 x faster": EMBEDDINGS,
    "betas 0.9, 0.95": {"adam_betas": [0.9, 0.95]},
    "linear": {"lr_schedule": "linear"},
    "warm-up, stable, decay": STABLE,
    "weight decay 0.1 to 0": {"weight_decay": 0.1, "weight_decay_end": 0.0},
    "moving average": {"average": {"kind": "ema", "decay": 0.98}},
    "constant, moving average": CONSTANT | {"average": {"kind": "ema", "decay": 0.98}},
    "constant, mean of a fifth": CONSTANT | {"average": {"kind": "uniform", "start": 0.8}},
    "aligned documents": {"align": "documents"},
    "one further token": {"multi_token": {"num_tokens": 1}},
    "batch 4 to 16": {"batch_schedule": {0: 4, 0.4: 8, 0.8: 16}},
    "length 32 to 128": LENGTHS,
}
"""Settings of `train`, but for `align`, which is one of `data`."""
ALIKE = {"lr_schedule", "lr_schedule_options", "warmup_steps", "weight_decay", "weight_decay_end", "adam_betas"}
ALIKE |= {"learning_rate", "parameter_lr_multipliers"}
"""Settings that leave the work of a step as it is; what differs in others has the time of its steps measured."""


def configure(seed: int, steps: int, changes: dict[str, Any]) -> Config:
    """Return the configuration of one training."""
    train = {"batch_size": 8, "gradient_accumulation_steps": 1, "learning_rate": 1e-2, "max_steps": steps}
    train |= {"warmup_steps": max(1, steps // 15), "log_every": 10**6, "save_every": 10**6}
    own = {name: value for name, value in changes.items() if name != "align"}
    if "per_device_train_batch_size" in own:
        del train["batch_size"]
    return config_from_values(
        {
            "seed": seed,
            "data": {"max_length": 128} | {name: changes[name] for name in ("align",) if name in changes},
            "student": {"build": {"vocab_size": 1536, "num_layers": 2}},
            "train": train | own,
        }
    )


class Bench:
    """Trains variants on data that all of a seed share."""

    def __init__(self, folder: Path):
        """Keep runs and data in a folder."""
        self.folder, self.count = folder, 0

    def data(self, config: Config) -> PreparedData:
        """Return the prepared data of a configuration."""
        return open_data(build_data(config, self.folder / "cache"))

    def train(self, seed: int, steps: int, changes: dict[str, Any], scores: bool = True) -> dict[str, float]:
        """Train once; return the processor time of the steps, and the score of what would be saved."""
        config = configure(seed, steps, changes)
        data = self.data(config)
        run = Run(self.folder / "runs" / str(self.count), self.folder / "cache")
        run.path.mkdir(parents=True)
        self.count += 1
        plan = plan_training(Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark")), data)
        student = make_student(config, data)
        options = make_options(config.train, student)
        trainer = make_trainer(plan, plan.stages[0], student, None, "baseline", options=options)
        with no_bar():
            start = time.process_time()
            trainer.train()
            seconds = time.process_time() - start
        if not scores:
            return {"steps": steps, "seconds": seconds}
        score = score_windows(options.averaged or student, data.evaluation, "student", 16)
        return {"steps": steps, "seconds": seconds, "bits_per_byte": score.bits_per_byte}

    def step_cost(self, changes: dict[str, Any]) -> float:
        """Return the processor time of a variant's step in that of the plain recipe, both measured in turns."""
        if changes.keys() <= ALIKE:
            return 1.0
        ratios = []
        for _ in range(CALIBRATION_ROUNDS):
            plain, own = (self.train(0, CALIBRATION_STEPS, each, scores=False)["seconds"] for each in ({}, changes))
            ratios.append(own / plain)
        return statistics.median(ratios)


def summarise(name: str, trained: list[dict[str, float]], plain: list[dict[str, float]], cost: float) -> dict[str, Any]:
    """Return a row of the table: scores, and differences to the plain recipe seed by seed."""
    scores = [each["bits_per_byte"] for each in trained]
    gains = [a["bits_per_byte"] - b["bits_per_byte"] for a, b in zip(trained, plain, strict=True)]
    times = [a["seconds"] / b["seconds"] for a, b in zip(trained, plain, strict=True)]
    return {
        "name": name,
        "steps": trained[0]["steps"],
        "step_cost": round(cost, 3),
        "time_to_plain": round(statistics.mean(times), 3),
        "bits_per_byte": round(statistics.mean(scores), 4),
        "by_seed": [round(score, 4) for score in scores],
        "difference": round(statistics.mean(gains), 4),
        "differences": [round(gain, 4) for gain in gains],
        "seconds": [round(each["seconds"], 1) for each in trained],
    }


def main() -> None:
    """Train every variant for every seed and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of the plain recipe")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), help="variants beside the plain recipe")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.train(0, CALIBRATION_STEPS, {}, scores=False)  # what is made once is made here
        wanted = [(name, 1.0) for name in VARIANTS if name in (PLAIN, *arguments.only)]
        wanted += [(BEST, EARLY)] if BEST in arguments.only else []
        costs = {name: bench.step_cost(VARIANTS[name]) for name, _ in wanted}
        trained: dict[tuple[str, float], list[dict[str, float]]] = {each: [] for each in wanted}
        for seed in arguments.seeds:  # one after the other, so that what else the machine does is about the same
            for name, part in wanted:
                steps = round(part * arguments.steps / costs[name])
                trained[name, part].append(bench.train(seed, steps, VARIANTS[name]))
                print(seed, name, part, trained[name, part][-1], flush=True)
            plain = trained[PLAIN, 1.0]
            rows = [
                summarise(name if part == 1.0 else f"{name}, {part:g} of the time", found, plain, costs[name])
                for (name, part), found in trained.items()
            ]
            write_results(arguments.results, rows)


if __name__ == "__main__":
    main()
