"""kdkit beside its peers: TRL, Unsloth, DistillKit, Liger, sentence-transformers; one command, one table in the docs.

    python -m benchmarks.peers_table [--peer-python PYTHON] [--distillkit FOLDER] [--rounds 3] [--only GROUP ...]
    python -m benchmarks.peers_table --page           # only writes docs/peers.md, from the results that are there

Every figure is a process of its own; the processes of a group take turns, and a ratio is the median over the rounds of
ratios within a round. Time is processor time of one thread. `--peer-python` names a Python that has liger-kernel==0.8.5
and unsloth==2026.10.9 beside kdkit's packages and trl==1.16.0; `--distillkit` a checkout of
github.com/arcee-ai/DistillKit; needs KDKIT_TEST_DATA. What is not there is left out, and the page says so. Results are
written after every process, and a call goes on where the last one stopped: what was measured on this machine with the
same arguments and versions is kept. `--again` measures all anew, as after a change in the code of kdkit or DistillKit,
which no version tells.
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


OURS = ("kdkit projected_kl", "kdkit gold")
GOLD = ("TRL GOLD, default", "TRL GOLD, hybrid, bayesian")
SECONDS, SEEDS = 15, (0, 1, 2)
GROUPS: dict[str, dict[str, Arm]] = {
    "divergences": divergences(),
    "gkd": {
        "TRL GKDTrainer": Arm(("trl_gkd",)),
        "kdkit": Arm(("kdkit_gkd", "fp32")),
        "kdkit, teacher in bf16": Arm(("kdkit_gkd", "bf16")),
    },
    "tokenizers": {kind: Arm(("two_tokenizers", kind, "--pair", "large")) for kind in (*OURS, *GOLD)},
    "tokenizers, equal time": {
        f"{kind}, seed {seed}": Arm(
            ("two_tokenizers", kind, "--pair", "stories", "--seconds", str(SECONDS), "--seed", str(seed))
        )
        for seed in SEEDS
        for kind in ("no teacher", "kdkit projected_kl, cached", *OURS, *GOLD)
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
    "embeddings, lists": {
        kind: Arm(("embedding_training", kind, "--steps", "10"))
        for kind in (
            "kdkit margin_mse",
            "sentence-transformers MarginMSE",
            "kdkit list_kl",
            "sentence-transformers DistillKLDiv",
        )
    },
}
ONCE = ("tokenizers, equal time",)
"""Groups whose figure is no time: one round."""
SHARED = ("two_tokenizers", "plain_training", "embedding_training")
"""Modules that keep models and data in a folder for those that come after them."""


def environment() -> dict[str, str]:
    """Return the variables of all processes: one thread, no network."""
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


def versions_of(python: str) -> dict[str, Any]:
    """Return the versions that the processes of a Python will report."""
    words = "import json; from benchmarks.measure import versions; print(json.dumps(versions()))"
    found = subprocess.run([python, "-c", words], capture_output=True, text=True, check=True, env=environment())
    return json.loads(found.stdout.strip().splitlines()[-1])


def run(arm: Arm, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run an arm; return its row, or why there is none."""
    missing = [need for need in arm.needs if not {PEER: options.peer_python, DISTILLKIT: options.distillkit}[need]]
    if missing:
        return {"left_out": f"no {' and no '.join(missing)} was named"}
    python = options.peer_python if PEER in arm.needs else sys.executable
    words = [python, "-m", f"benchmarks.peers.{arm.words[0]}", *arm.words[1:]]
    words += ["--folder", str(folder)] if arm.words[0] in SHARED else []
    words += ["--distillkit", str(options.distillkit)] if DISTILLKIT in arm.needs else []
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=environment())
    if result.returncode:
        return {"left_out": result.stderr.strip().splitlines()[-1][-300:]}
    return json.loads(result.stdout.strip().splitlines()[-1]) | {"arguments": list(arm.words)}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": models[0] if models else platform.processor(), "cores": os.cpu_count()}


def read_results() -> dict[str, Any]:
    """Return the groups that have been measured."""
    return json.loads(RESULTS.read_text())["groups"] if RESULTS.is_file() else {}


def kept_rows(
    group: dict[str, Any], name: str, rounds: int, expected: dict[bool, dict[str, Any] | None]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a group that need not be measured again, for every arm from the first round on.

    Args:
        group: the group's results; empty: none.
        name: of the group.
        rounds: how many are wanted; further ones are dropped.
        expected: what versions a row of an arm would have that needs the peer python, and of one that does not;
            None: nobody knows, so that any will do.
    """
    kept: dict[str, list[dict[str, Any]]] = {}
    for label, arm in GROUPS[name].items():
        kept[label] = []
        for row in group["arms"].get(label, [])[:rounds] if group.get("machine") == machine() else []:
            wanted = expected[PEER in arm.needs]
            if row.get("arguments") != list(arm.words) or (wanted and row["versions"] != wanted):
                break  # the rounds stay in step
            kept[label].append(row)
    return kept


def write_group(name: str, arms: dict[str, list[dict[str, Any]]]) -> None:
    """Write the results of a group beside those of the others."""
    groups = read_results()  # another call may have measured something else
    groups[name] = {"date": date.today().isoformat(), "machine": machine(), "arms": arms}
    ordered = {one: groups[one] for one in GROUPS if one in groups}
    RESULTS.write_text(json.dumps({"groups": ordered}, indent=1) + "\n")


def measure_group(
    name: str, options: argparse.Namespace, expected: dict[bool, dict[str, Any] | None], folder: Path
) -> None:
    """Run the arms of a group in turns, but for those that are there, and write the results after every one."""
    rounds = 1 if name in ONCE else options.rounds
    found = {} if options.again else read_results().get(name, {})
    arms = kept_rows(found, name, rounds, expected)
    for number in range(rounds):
        for label, arm in GROUPS[name].items():
            if len(arms[label]) > number:
                continue
            arms[label].append(run(arm, options, folder))
            write_group(name, {one: rows for one, rows in arms.items() if rows})
            row = arms[label][-1]
            print(f"{name}, round {number + 1}: {label}: {row.get('left_out') or row['cpu_seconds']}", flush=True)


def main() -> None:
    """Measure the groups and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--distillkit", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument("--folder", type=Path, help="for models, data and teachers; None: one that is removed")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.page:
        expected = {False: versions_of(sys.executable)}
        expected[True] = versions_of(options.peer_python) if options.peer_python else None
        with tempfile.TemporaryDirectory() as temporary:
            for name in options.only:
                measure_group(name, options, expected, options.folder or Path(temporary))
    write_page()


if __name__ == "__main__":
    main()
