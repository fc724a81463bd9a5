"""One student with several teachers of different domains and tokenizers, beside students with one of them each.

For each seed the teachers are built, each on its own kind of text; then one student learns with all of them, in each
way of combining them, and one with each teacher alone and one with none, on the very same sequences: for equal steps,
and the single-teacher students for the processor time that the committee's student took, its teachers' answers and
opinions included. Figures are bits per byte of the held-out text by kind, and the mean of the kinds.

    python -m benchmarks.many_teachers 0 1 2 --data tinystories,shakespeare
    python -m benchmarks.many_teachers 0 1 2 --config configs/many_teachers.yaml
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import versions
from kdkit.config.language import Config
from kdkit.data.many.kinds import kinds_of_documents
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import TrainingPlan, plan_training, stretch, view_of
from kdkit.distill.student import make_student
from kdkit.distill.train import AnyTeacher, make_trainer
from kdkit.evaluate.kinds import scores_of_kind
from kdkit.evaluate.significance import paired_t_test
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.score import Score
from kdkit.training.scoring import score_windows

FILES = {"tinystories": "lm/tinystories_a.txt", "shakespeare": "lm/tinyshakespeare.txt"}
"""Texts of KDKIT_TEST_DATA."""


def open_seed(arguments: argparse.Namespace, seed: int, overrides: list[str]) -> Session[Config]:
    """Open a run of one seed."""
    settings = [f"seed={seed}", *arguments.p, *overrides]
    settings += [f"train.{name}_every=1000000" for name in ("save", "log", "evaluate")]
    if arguments.data:
        settings += _sources(arguments.data.split(","))
    name = f"many-{Path(arguments.config).stem}-{arguments.data.replace(',', '-')}-{seed}-{fingerprint(settings)}"
    return replace(open_session(arguments.config, settings, name), hardware=find_hardware("cpu"))


def _sources(names: list[str]) -> list[str]:
    """Return the settings that put the test data in the place of the configuration's kinds of text."""
    folder = Path(os.environ["KDKIT_TEST_DATA"])
    paths = {name: str(folder / FILES[name]) for name in names}
    build = {"num_layers": 2, "moe_intermediate_size": 128, "max_steps": 400, "batch_size": 8, "learning_rate": 5e-3}
    members = [
        {"name": f"{name}_teacher", "trained_on": [name], "max_length": 128, "build": build | {"vocab_size": size}}
        for name, size in zip(names, (1024, 1280), strict=True)
    ]
    return [f"data.sources={json.dumps(paths)}", f"teachers.members={json.dumps(members)}"]


def train(plan: TrainingPlan, teacher: AnyTeacher | None, steps: int) -> tuple[float, Score]:
    """Train a student; return the processor seconds of its steps, and its score on the held-out text."""
    config, data = plan.session.config, plan.data
    student = make_student(config, data)
    begin = time.process_time()
    for stage in stretch(plan.stages, steps):
        make_trainer(plan, stage, student, teacher, "many-teachers").train()
    seconds = time.process_time() - begin
    return seconds, score_windows(student, data.evaluation, "student", config.evaluate.batch_size)


def run_seed(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train all students of one seed."""
    session = open_seed(arguments, seed, [])
    data = prepare_data(session)
    names, kinds = data.kinds.names, kinds_of_documents(data.evaluation, data.kinds.evaluation)
    steps = sum(stage.steps for stage in plan_training(session, data).stages)
    rows: dict[str, dict[str, Any]] = {}

    def note(name: str, count: int, seconds: float, score: Score) -> None:
        levels = {kind: scores_of_kind({name: score}, kinds, i)[name].bits_per_byte for i, kind in enumerate(names)}
        rows[name] = {"steps": count, "seconds": round(seconds, 1), **levels, "mean": statistics.mean(levels.values())}
        print(seed, name, json.dumps(rows[name]), flush=True)

    for member in session.config.teachers.members:  # built, if need be, before any clock runs
        view, own = view_of(session, data, member.name)
        model = prepare_teacher(view, own).model
        note(f"teacher {member.name}", 0, 0.0, score_windows(model, own.evaluation, "teacher", 16))
    slowest = 0.0
    for combine in arguments.combine:
        plan = plan_training(open_seed(arguments, seed, [f"teachers.{each}" for each in combine.split("+")]), data)
        begin = time.process_time()
        committee = open_teacher(plan)
        opening = time.process_time() - begin
        seconds, score = train(plan, committee, steps)
        note(combine, steps, opening + seconds, score)
        slowest = max(slowest, opening + seconds)
    for member in session.config.teachers.members:
        plan = plan_training(*view_of(session, data, member.name))
        begin = time.process_time()
        teacher = open_teacher(plan)
        opening = time.process_time() - begin
        seconds, score = train(plan, teacher, steps)
        note(f"only {member.name}", steps, opening + seconds, score)
        longer = round(steps * (slowest - opening) / seconds)
        note(f"only {member.name}, equal time", longer, *_timed(opening, train(plan, teacher, longer)))
    note("no teacher", steps, *train(plan, None, steps))
    return {"seed": seed, "rows": rows}


def _timed(opening: float, result: tuple[float, Score]) -> tuple[float, Score]:
    return opening + result[0], result[1]


def summarise(seeds: list[dict[str, Any]], combine: list[str]) -> list[dict[str, Any]]:
    """Compare every way of combining with the better single-teacher student of each seed: above 0, it is better."""
    found = []
    for name in combine:
        for suffix in ("", ", equal time"):
            differences = []
            for each in seeds:
                rows = each["rows"]
                singles = [
                    row["mean"]
                    for other, row in rows.items()
                    if other.startswith("only ") and other.endswith(", equal time") == bool(suffix)
                ]
                differences.append(min(singles) - rows[name]["mean"])
            test = paired_t_test(differences)
            against = f"the better single teacher{suffix or ', equal steps'}"
            found.append(
                {"combine": name, "against": against, "differences": differences, "mean": test.mean, "p": test.p}
            )
            print(name, against, [round(value, 4) for value in differences], test.mean, test.p, flush=True)
    return found


def main() -> None:
    """Run the seeds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--config", default="configs/many_teachers.yaml")
    parser.add_argument("--data", default="", help="kinds out of KDKIT_TEST_DATA: tinystories,shakespeare")
    parser.add_argument("--combine", nargs="+", default=["combine=sum", "combine=select", "combine=dynamic"])
    parser.add_argument("-p", action="append", default=[], help="a setting, section.key=value")
    parser.add_argument("--out", default="")
    arguments = parser.parse_args()
    seeds = []
    for seed in arguments.seeds:
        seeds.append(run_seed(arguments, seed))
        results = {
            "command": [Path(word).name for word in sys.argv],
            "versions": versions(),
            "seeds": seeds,
            "summary": summarise(seeds, arguments.combine),
        }
        if arguments.out:
            Path(arguments.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
