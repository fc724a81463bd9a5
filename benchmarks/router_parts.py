"""What each part of the student-aware router is good for: the demo with all of them, and without one at a time.

    python -m benchmarks.router_parts [--seeds 0 1 2] [--only NAME ...] [--runs-dir runs] [-p SECTION.KEY=VALUE ...]

Trains one student per variant and seed (a finished run is taken as it is) and reads its held-out bits per byte; `by the
part` is what the student loses without it. The other columns are those of `router_effects.json`: the part's effect on
the teacher's mixture at the end of the training with all parts.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.measure import versions, write_results
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.train import STUDENT, distill
from kdkit.machine.open_session import open_session
from kdkit.models.loading import load_causal_lm
from kdkit.training.scoring import score_windows
from kdkit.workflow.several.variants import as_override, load_sweep

RESULTS = Path(__file__).parent / "results" / "router_parts.json"
SWEEP = "configs/ablation_router.yaml"
NONE, ALL = "teacher's own routing", "student-aware"
WITHOUT = f"{ALL} without "


def train(variant: dict[str, Any], name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a student under a variant, or take it up; return its bits per byte and the effects of the parts."""
    overrides = ["distill.start_from_teacher=false", *arguments.overrides, f"seed={seed}"]
    overrides += [as_override(*item) for item in variant.items()]
    session = open_session("configs/demo.yaml", overrides, name, arguments.runs_dir)
    data = prepare_data(session)
    plan = plan_training(session, data)
    result = distill(plan, open_teacher(plan), resume=True)
    model = load_causal_lm(str(session.run.path / STUDENT), "student")
    score = score_windows(model, data.evaluation, "student", session.config.evaluate.batch_size)
    effects = session.run.path / "router_effects.json"
    return {
        "bits_per_byte": score.bits_per_byte,
        "seconds": result.seconds,
        "effects": session.run.read_json(effects.name)["parts"] if effects.exists() else [],
    }


def main() -> None:
    """Train all variants and write what each part changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    variants = {name: v for name, v in load_sweep(SWEEP).variants.items() if name == NONE or name.startswith(ALL)}
    variants = {name: v for name, v in variants.items() if "routing" not in name or name == NONE}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, variant in variants.items():
        if not arguments.only or name in arguments.only:
            folder = f"router-parts-{name.replace(' ', '-').replace(chr(39), '')}"
            found[name] = [train(variant, f"{folder}-{seed}", seed, arguments) for seed in arguments.seeds]
    rows = [row_of(name, found) | {"seeds": arguments.seeds, "versions": versions()} for name in found]
    write_results(RESULTS, rows)


def row_of(name: str, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Put together a line: the student of one variant, and the effect of the part that it lacks."""
    values = [result["bits_per_byte"] for result in found[name]]
    row: dict[str, Any] = {"name": name, "bits_per_byte": statistics.mean(values), "each": values}
    if ALL in found and name.startswith(WITHOUT):
        part = name.removeprefix(WITHOUT)
        whole = [result["bits_per_byte"] for result in found[ALL]]
        row["by the part"] = statistics.mean(mine - other for mine, other in zip(values, whole, strict=True))
        of_part = [row for result in found[ALL] for row in result["effects"] if row["part"] == part]
        for key in ("mixture_kl", "tokens_rerouted", "signal_moved"):
            row[key] = statistics.mean(row[key] for row in of_part)
        differences = [row["bits_per_byte_without"] - row["bits_per_byte"] for row in of_part]
        row["teacher by the part"] = statistics.mean(differences)
    return row


if __name__ == "__main__":
    main()
