"""What each part of an embedding distillation earns over the recipe of sentence-transformers at equal processor time.

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.embedding_gain [--seeds 0 1 2] [--seconds 75] [--rows ...]

Pair, sentences and tasks are those of benchmarks/embedding_methods.py. A row is a method with settings; the recipe is
`losses.MSELoss` under SentenceTransformerTrainer, at two learning rates. Every row gets as many steps as fit into the
same processor seconds of one thread, measured on the first steps of each; the teacher's vectors, the same for all,
are made before and not counted. Results are written after every training, so a stopped call goes on.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.embedding_methods import RECIPES, open_cpu_session, score, train_by_recipe, write_sentences
from benchmarks.measure import print_table, versions
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.machine.session import Session

RESULTS = Path(__file__).parent / "results" / "embedding_gain.json"
RECIPE = RECIPES[0]
NEW = ["train.learning_rate=4e-4", "train.dropout=auto", "train.word_embeddings=auto"]
"""kdkit's defaults, which the demo's configuration replaces: no dropout, word embeddings frozen."""
ROWS: dict[str, tuple[str, list[str]]] = {
    "recipe, learning rate 1e-4": (RECIPE, ["train.learning_rate=1e-4"]),
    "recipe, learning rate 4e-4": (RECIPE, NEW),
    "cosine": ("cosine", NEW),
    "cosine, with dropout": ("cosine", [*NEW, "train.dropout=always"]),
    "cosine, word embeddings trained": ("cosine", [*NEW, "train.word_embeddings=train"]),
    "cosine, learning rate 1e-4": ("cosine", [*NEW, "train.learning_rate=1e-4"]),
    "cosine, lengths mixed": ("cosine", [*NEW, "train.group_by_length=false"]),
    "dskd": ("dskd", NEW),
    "dskd without contrast": ("dskd", [*NEW, "method.task_weight=0"]),
    "rkd": ("rkd", NEW),
    "stella": ("stella", NEW),
    "similarity_kl": ("similarity_kl", NEW),
    "talas": ("talas", NEW),
}
PILOT = (4, 16)
"""Steps of two short trainings: what they differ by is the time of a step, without loading and saving."""


def trainer_of(method: str, session: Session[EmbeddingConfig], data: SentenceData) -> Callable[[], Any]:
    """Return what trains a row."""
    if method == RECIPE:
        return lambda: train_by_recipe(method, session, data)
    return lambda: distill_all(session, data)


def run(row: str, seed: int, steps: int, folder: Path, file: Path, judge: bool) -> dict[str, Any]:
    """Train a row for so many steps; return its processor seconds and, where it is judged, its scores."""
    method, settings = ROWS[row]
    session = open_cpu_session(method, seed, steps, folder, file, settings)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    open_embedding_teacher(session, data, tokens=method == "dskd", attention_layers=[])
    start = time.process_time()
    trainer_of(method, session, data)()
    found: dict[str, Any] = {"seconds": time.process_time() - start}
    if judge:
        found |= score(method, session, data, load_tasks(session.config, session.run.cache_path))
    shutil.rmtree(session.run.path)
    return found


def train_for(row: str, seed: int, seconds: float, folder: Path, file: Path) -> dict[str, Any]:
    """Train a row for so many processor seconds and judge it."""
    few, more = (run(row, seed, steps, folder, file, judge=False)["seconds"] for steps in PILOT)
    step = (more - few) / (PILOT[1] - PILOT[0])
    steps = max(PILOT[1], int(seconds / step))
    found = run(row, seed, steps, folder, file, judge=True)
    return {"row": row, "seed": seed, "budget": seconds, "steps": steps, "s/step": round(step, 4), **found}


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the seeds and compare each with both recipes at the same seed."""
    averages = {(row["row"], row["seed"]): row["average"] for row in rows}
    table = []
    for name in dict.fromkeys(row["row"] for row in rows):
        trials = [row for row in rows if row["row"] == name]
        line = {"row": name, "average": round(statistics.fmean(row["average"] for row in trials), 2)}
        for recipe in list(ROWS)[:2]:
            gains = [t["average"] - averages[recipe, t["seed"]] for t in trials if (recipe, t["seed"]) in averages]
            line[f"over {recipe}"] = ", ".join(f"{gain:+.2f}" for gain in gains)
        seconds = statistics.fmean(row["seconds"] for row in trials)
        steps = round(statistics.fmean(row["steps"] for row in trials))
        table.append(line | {"steps": steps, "s/step": round(seconds / steps, 3), "STS-B dev": trials[0]["STS-B dev"]})
    return sorted(table, key=lambda line: -line["average"])


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ["KDKIT_TEST_DATA"]).resolve()
    rows = json.loads(arguments.results.read_text())["rows"] if arguments.results.is_file() else []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "sentences.csv"
        write_sentences(folder, file)
        for seed in arguments.seeds:
            for name in arguments.rows:
                if any((row["row"], row["seed"], row["budget"]) == (name, seed, arguments.seconds) for row in rows):
                    continue
                rows.append(train_for(name, seed, arguments.seconds, folder, file))
                print(rows[-1], flush=True)
                content = {"versions": versions(), "table": summarise(rows), "rows": rows}
                arguments.results.write_text(json.dumps(content, indent=1) + "\n")
    print_table(summarise(rows))


if __name__ == "__main__":
    main()
