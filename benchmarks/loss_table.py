"""Quality of every loss on the demo pair, at equal steps and seeds: bits per byte, gap closed, seconds.

    python -m benchmarks.loss_table [--seeds 0 1 2] [--losses projected_kl alm] [-p SECTION.KEY=VALUE ...]

Losses for two tokenizers train the demo's student; divergences that need one tokenizer train a student of the same
shape that shares the teacher's, beside a baseline of its own. `gap closed` is (baseline - student) / (baseline -
teacher) on all held-out text. Results are written after every training, so a stopped call keeps what it has.
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from benchmarks.measure import print_table, versions
from kdkit.config.language import Config
from kdkit.config.losses import loss_options
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.train import distill, train_baseline
from kdkit.losses.closed_forms import MEASURES
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.teachers.prepare import Teacher
from kdkit.training.scoring import score_windows

RESULTS = Path(__file__).parent / "results" / "loss_table.json"
BASELINES = ("baseline", "baseline, one tokenizer")


def train(name: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Train one student and score it."""
    same = name in MEASURES or name == BASELINES[1]
    settings = [f"seed={seed}", "distill.equal_time_baseline=false", "distill.start_from_teacher=false", *overrides]
    settings += ["student.build.tokenizer=teacher"] if same else []
    settings += [] if name in BASELINES else [f"distill.loss={name}"]
    folder = f"benchmark-loss-{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    session = replace(open_session("configs/demo.yaml", settings, folder), hardware=find_hardware("cpu"))
    data = prepare_data(session)
    plan = plan_training(session, data)
    teacher = open_teacher(plan)
    if name in BASELINES:
        result = train_baseline(plan)
    else:
        result = distill(plan, teacher)
    row = {
        "name": name,
        "seed": seed,
        "seconds": result.seconds,
        **score(session, data, teacher, result.phase),
    }
    shutil.rmtree(session.run.path)
    return row


def score(session: Session[Config], data: PreparedData, teacher: Teacher, phase: str) -> dict[str, float]:
    """Return the bits per byte of the student and of the teacher on all held-out text."""
    student = AutoModelForCausalLM.from_pretrained(session.run.path / phase)
    size = session.config.evaluate.batch_size
    return {
        "bits_per_byte": score_windows(student, data.evaluation, "student", size).bits_per_byte,
        "teacher": score_windows(
            teacher.model, data.evaluation, "teacher", size, session.hardware.autocast_dtype
        ).bits_per_byte,
    }


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--losses", nargs="+", default=[name for name in loss_options() if name != "auto"])
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for seed in arguments.seeds:
        for name in [*BASELINES, *arguments.losses]:
            if not any(row["name"] == name and row["seed"] == seed for row in rows):
                rows.append(train(name, seed, arguments.overrides))
                RESULTS.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1))
    print_table(summarise(rows))


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the gap closed to every row, against the baseline of its seed and tokenizer."""
    baselines = {(row["name"], row["seed"]): row["bits_per_byte"] for row in rows if row["name"] in BASELINES}
    table = []
    for row in rows:
        own = BASELINES[1] if row["name"] in (*MEASURES, BASELINES[1]) else BASELINES[0]
        base = baselines[own, row["seed"]]
        table.append(row | {"gap closed": (base - row["bits_per_byte"]) / (base - row["teacher"])})
    return table


if __name__ == "__main__":
    main()
