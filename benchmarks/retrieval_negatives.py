"""What hard negatives are worth for retrieval: students of all-MiniLM-L6-v2 with and without them, three seeds.

The set is made of natural-language inference triplets (anchor, entailed sentence, contradicting sentence): the first
rows are trained on as pairs, in which the contradicting sentence does not occur; the last 1,000 are queries, whose
documents are all entailed and contradicting sentences of these rows.

    KDKIT_TEST_DATA=FOLDER python benchmarks/retrieval_negatives.py OUT [--steps 60] [--seeds 0,1,2] [-p KEY=VALUE]

FOLDER holds nli/triplets.csv. Every training sees the same pairs for the same steps; milliseconds are per step.
"""

import argparse
import csv
import json
import os
from pathlib import Path

import numpy as np

from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.data.tasks import TaskData, load_tasks
from kdkit.embeddings.evaluate.models import score_tasks
from kdkit.embeddings.models.embedder import EmbeddingModel, load_embedding_model
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.train import distill_all, student_folder
from kdkit.machine.open_session import open_embedding_session

QUERIES = 1000
FIGURES = ("ndcg", "reciprocal_rank", "recall")
METHODS = {
    "nearest": [
        "cosine",
        {"name": "cosine", "task_weight": 1.0, "label": "cosine+in-batch"},
        "margin_mse",
        "list_kl",
    ],
    "random": ["margin_mse", "list_kl"],
}
"""Methods by the choice of their negatives; the first two have none."""


def write_set(file: Path, folder: Path) -> tuple[Path, Path]:
    """Write the training pairs and the retrieval folder; return both paths."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    train, test = rows[:-QUERIES], rows[-QUERIES:]
    (folder / "set/qrels").mkdir(parents=True, exist_ok=True)
    pairs = folder / "pairs.csv"
    with pairs.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("anchor", "positive"), *((row["anchor"], row["positive"]) for row in train)])
    documents = list(dict.fromkeys(row[column] for row in test for column in ("positive", "negative")))
    numbers = {text: number for number, text in enumerate(documents)}
    lines = {
        "corpus.jsonl": [json.dumps({"_id": f"d{number}", "text": text}) for text, number in numbers.items()],
        "queries.jsonl": [json.dumps({"_id": f"q{n}", "text": row["anchor"]}) for n, row in enumerate(test)],
        "qrels/test.tsv": ["query-id\tcorpus-id\tscore"]
        + [f"q{n}\td{numbers[row['positive']]}\t1" for n, row in enumerate(test)],
    }
    for name, content in lines.items():
        (folder / "set" / name).write_text("\n".join(content) + "\n", encoding="utf-8")
    return pairs, folder / "set"


def run(pairs: Path, task: Path, choose: str, seed: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train by all methods with one choice of negatives; return their figures by name."""
    (first, *others), folder = METHODS[choose], given.out
    settings = {
        "method": first,
        "compare": others,
        "data.path": str(pairs),
        "data.positives": "second",
        "data.max_length": 64,
        "data.negatives.choose": choose,
        "train.max_steps": given.steps,
        "train.warmup_steps": given.steps // 10,
        "cache_dir": str(folder / "cache"),
        "seed": seed,
    }
    file = folder / "config.yaml"
    file.write_text("method: cosine\n")
    entry = {"name": "nli", "kind": "retrieval", "path": str(task), "max_rows": given.queries}
    session = open_embedding_session(
        str(file), given.parameter, f"{choose}-{seed}", str(folder / "runs"), settings | {"evaluate.tasks": [entry]}
    )
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    trainings = distill_all(session, data)
    tasks = load_tasks(session.config, session.run.cache_path)
    results = {}
    for method in (session.config.method, *session.config.compare):
        model = load_embedding_model(str(student_folder(session, method)), "student.path")
        label = f"{method}, {choose}" if choose == "random" or "_" in str(method) else str(method)
        milliseconds = {"milliseconds": trainings[str(method)]["milliseconds_per_step"]}
        results[label] = figures(model, tasks) | milliseconds
    if choose == "random":  # the same for every seed
        results["untrained"] = figures(make_embedding_student(session.config, data), tasks)
    print(session.run.read_json("teacher/probe.json").get("negatives"), flush=True)
    return results


def figures(model: EmbeddingModel, tasks: list[TaskData]) -> dict[str, float]:
    """Return nDCG@10, MRR@10 and recall@100."""
    numbers = score_tasks(model, tasks, batch_size=64, bootstrap_samples=100, seed=0)["nli"]
    return {name: numbers[name] for name in FIGURES}


def main() -> None:
    """Train, and print a table of means and single seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--queries", type=int, help="score the first so many; default: all")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pairs, task = write_set(Path(os.environ["KDKIT_TEST_DATA"]) / "nli/triplets.csv", given.out)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in map(int, given.seeds.split(",")):
        for choose in METHODS:
            for name, numbers in run(pairs, task, choose, seed, given).items():
                found.setdefault(name, []).append(numbers)
                print(seed, name, numbers, flush=True)
        (given.out / "results.json").write_text(json.dumps(found, indent=1))
        for name, rows in found.items():
            means = "  ".join(f"{key} {np.mean([row[key] for row in rows]):.2f}" for key in rows[0])
            print(f"{name:<24} {means}  nDCG@10 by seed {[round(row['ndcg'], 2) for row in rows]}", flush=True)


if __name__ == "__main__":
    main()
