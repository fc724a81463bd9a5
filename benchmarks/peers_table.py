"""kdkit beside its peers: TRL, Unsloth, DistillKit, Liger, sentence-transformers; one command, one table in the docs.

    python -m benchmarks.peers_table [--peer-python PYTHON] [--distillkit FOLDER] [--rounds 3] [--only GROUP ...]
    python -m benchmarks.peers_table --page           # only writes docs/peers.md, from the results that are there

Every figure is a process of its own; the processes of a group take turns, and a ratio is the median over the rounds of
ratios within a round. Time is processor time of one thread. `--peer-python` names a Python that has liger-kernel==0.8.5
and unsloth==2026.10.9 beside kdkit's packages and trl==1.16.0; `--distillkit` a checkout of
github.com/arcee-ai/DistillKit; needs KDKIT_TEST_DATA. What is not there is left out, and the page says so. Results are
written after every process, so that a stopped call keeps what it has.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.measure import versions
from benchmarks.peers_page import write_page

RESULTS = Path(__file__).parent / "results" / "peers_table.json"
PEER, DISTILLKIT = "peer python", "DistillKit"
"""What an arm may need."""


@dataclass(frozen=True)
class Arm:
    """A process: its words after `python -m benchmarks.peers.`, and what it needs."""

    words: tuple[str, ...]
    needs: tuple[str, ...] = ()


def divergences() -> dict[str, Arm]:
    """Return the arms of losses on the student's head."""
    arms = {"products": Arm(("divergences", "products", "kl"))}
    for loss in ("kl", "jsd"):
        arms |= {f"{loss}, {name}": Arm(("divergences", name, loss)) for name in ("torch", "kdkit", "TRL")}
        liger = ("Liger", "Liger, compiled") if loss == "kl" else ("Liger",)
        arms |= {f"{loss}, {name}": Arm(("divergences", name, loss), (PEER,)) for name in liger}
        arms[f"{loss}, DistillKit"] = Arm(("divergences", "DistillKit", loss), (DISTILLKIT,))
    for loss in ("top64", "top64_renormalised"):
        arms[f"{loss}, kdkit"] = Arm(("divergences", "kdkit", loss))
        arms[f"{loss}, DistillKit"] = Arm(("divergences", "DistillKit", loss), (DISTILLKIT,))
    return arms


def two_tokenizers(*more: str, kinds: tuple[str, ...]) -> dict[str, Arm]:
    """Return the arms of training with a teacher of another tokenizer."""
    return {", ".join([kind, *more[1::2][1:]]): Arm(("two_tokenizers", kind, *more)) for kind in kinds}


OURS = ("kdkit projected_kl", "kdkit gold")
GOLD = ("TRL GOLD, default", "TRL GOLD, hybrid, bayesian")
SECONDS, SEEDS = 12, (0, 1, 2)
GROUPS: dict[str, dict[str, Arm]] = {
    "divergences": divergences(),
    "gkd": {
        "TRL GKDTrainer": Arm(("trl_gkd",)),
        "kdkit": Arm(("kdkit_gkd", "fp32")),
        "kdkit, teacher in bf16": Arm(("kdkit_gkd", "bf16")),
    },
    "tokenizers": two_tokenizers("--pair", "large", kinds=(*OURS, *GOLD)),
    "tokenizers, equal time": {
        f"{kind}, seed {seed}": Arm(
            ("two_tokenizers", kind, "--pair", "small", "--seconds", str(SECONDS), "--seed", str(seed))
        )
        for seed in SEEDS
        for kind in ("no teacher", *OURS, *GOLD)
    },
    "plain": {
        "transformers": Arm(("plain_training", "transformers")),
        "kdkit": Arm(("plain_training", "kdkit")),
        "Unsloth": Arm(("plain_training", "Unsloth"), (PEER,)),
        "Unsloth, its checkpointing": Arm(("plain_training", "Unsloth, its checkpointing"), (PEER,)),
    },
    "records": {
        "kdkit, k = 64": Arm(("records", "kdkit, k = 64")),
        "kdkit, k = 128": Arm(("records", "kdkit, k = 128")),
        **{
            kind: Arm(("records", kind), (DISTILLKIT,))
            for kind in (
                "DistillKit budget, k = 50",
                "DistillKit recommended, k = 128",
                "DistillKit recommended, k = 128, float64",
            )
        },
    },
    "embeddings": {
        kind: Arm(("embedding_training", kind))
        for kind in (
            "kdkit cosine",
            "kdkit cosine, its defaults",
            "sentence-transformers MSE",
            "sentence-transformers EmbedDistill",
        )
    },
}
ONCE = ("tokenizers, equal time",)
"""Groups whose figure is no time: one round."""
SHARED = ("two_tokenizers", "plain_training", "embedding_training")
"""Modules that keep models and data in a folder for those that come after them."""


def run(arm: Arm, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run an arm; return its row, or why there is none."""
    missing = [need for need in arm.needs if not {PEER: options.peer_python, DISTILLKIT: options.distillkit}[need]]
    if missing:
        return {"left_out": f"no {' and no '.join(missing)} was named"}
    python = options.peer_python if PEER in arm.needs else sys.executable
    words = [python, "-m", f"benchmarks.peers.{arm.words[0]}", *arm.words[1:]]
    words += ["--folder", str(folder)] if arm.words[0] in SHARED else []
    words += ["--distillkit", str(options.distillkit)] if DISTILLKIT in arm.needs else []
    given = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=given)
    if result.returncode:
        return {"left_out": result.stderr.strip().splitlines()[-1][-300:]}
    return json.loads(result.stdout.strip().splitlines()[-1])


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": models[0] if models else platform.processor(), "cores": os.cpu_count()}


def read_results() -> dict[str, Any]:
    """Return the groups that have been measured."""
    return json.loads(RESULTS.read_text())["groups"] if RESULTS.is_file() else {}


def measure_group(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Run the arms of a group in turns, and write the results after every one."""
    arms = {label: arm for label, arm in GROUPS[name].items() if options.arms in label}
    begun: set[str] = set()
    for number in range(1 if name in ONCE else options.rounds):
        for label, arm in arms.items():
            row = run(arm, options, folder)
            groups = read_results()  # another call may have measured something else
            rounds = groups.get(name, {}).get("arms", {})
            kept = rounds.get(label, []) if options.add or label in begun else []
            begun.add(label)
            found = rounds | {label: [*(one for one in kept if "left_out" not in one), row]}
            ordered = {one: found[one] for one in GROUPS[name] if one in found}
            groups[name] = {"date": date.today().isoformat(), "machine": machine(), "arms": ordered}
            RESULTS.write_text(json.dumps({"versions": versions(), "groups": groups}, indent=1) + "\n")
            print(f"{name}, round {number + 1}: {label}: {row.get('left_out') or row['cpu_seconds']}", flush=True)


def main() -> None:
    """Measure the groups and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--distillkit", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--arms", default="", help="only those whose name has this in it")
    parser.add_argument("--add", action="store_true", help="keep the rounds that are there")
    parser.add_argument("--folder", type=Path, help="for models, data and teachers; None: one that is removed")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in () if options.page else options.only:
            measure_group(name, options, options.folder or Path(temporary))
    write_page()


if __name__ == "__main__":
    main()
