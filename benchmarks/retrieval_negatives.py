"""What hard negatives are worth for retrieval, at equal texts read or equal steps, beside sentence-transformers.

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.retrieval_negatives [--texts 2400 | --steps 40] [--seeds 0 1 2]

Teacher: all-MiniLM-L6-v2; student: its layers 0, 2, 5. The set is made of natural-language inference triplets (anchor,
entailed sentence, contradicting sentence): the last 1,000 are queries, whose documents are all entailed and
contradicting sentences of these rows; the others are trained on as pairs, without their contradicting sentence. A row
is a method with settings, or a loss of sentence-transformers, with the negatives that kdkit mined where it takes some.
With --texts every row takes as many steps as read so many texts, documents of lists included: that is
about the same processor time, and `seconds` says what it was (one thread; the teacher's vectors and the mining, the
same for all, are not counted). Results are written after every training, so a stopped call goes on.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.embedding_methods import peer_arguments
from benchmarks.measure import print_table, versions
from kdkit.config.embeddings import PACKAGED, EmbeddingConfig
from kdkit.data.text.corpora import clean_text
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.evaluate.models import score_tasks
from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.lists import open_lists
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.train import distill_all
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_embedding_session
from kdkit.machine.session import Session

RESULTS = Path(__file__).parent / "results" / "retrieval_negatives.json"
CONTROL = "cosine, all sentences"
QUERIES = 1000
FIGURES = ("ndcg", "reciprocal_rank", "recall")
RANDOM = "data.negatives.choose=random"
FEW, SIXTEEN = "train.per_device_train_batch_size=8", "train.per_device_train_batch_size=16"
ONE = "data.negatives.number=1"
ROWS: dict[str, tuple[str, list[str]]] = {
    "untrained": ("untrained", []),
    "teacher": ("teacher", []),
    CONTROL: ("cosine", ["data.positives=dropout"]),
    "cosine, first sentences": ("cosine", []),
    "cosine and in-batch contrast": ("{name: cosine, task_weight: 1}", []),
    "cosine and weak in-batch contrast": ("{name: cosine, task_weight: 0.1}", []),
    "list_kl": ("list_kl", []),
    "margin_mse": ("margin_mse", []),
    "list_kl, 8 queries": ("list_kl", [FEW]),
    "list_kl, 8 queries, weight 0": ("{name: list_kl, list_weight: 0}", [FEW]),
    "list_kl, 8 queries, weight 0.1": ("{name: list_kl, list_weight: 0.1}", [FEW]),
    "list_kl, 8 queries, weight 1": ("{name: list_kl, list_weight: 1}", [FEW]),
    "list_kl, 8 queries, weight 1, temperature 0.2": ("{name: list_kl, list_weight: 1, temperature: 0.2}", [FEW]),
    "list_kl, 8 queries, random negatives": ("list_kl", [FEW, RANDOM]),
    "list_kl, 16 queries, 1 negative, weight 0.1": ("{name: list_kl, list_weight: 0.1}", [SIXTEEN, ONE]),
    "margin_mse, 8 queries": ("margin_mse", [FEW]),
    "margin_mse, 8 queries, weight 1": ("{name: margin_mse, list_weight: 1}", [FEW]),
    "margin_mse, 8 queries, weight 10, cosine of the query": (
        "{name: margin_mse, list_weight: 10, cosine_of: query}",
        [FEW],
    ),
    "margin_mse, 8 queries, random negatives": ("margin_mse", [FEW, RANDOM]),
    "margin_mse, 8 queries, no margin": ("margin_mse", [FEW, "data.negatives.margin=0"]),
    "margin_mse, 16 queries, 1 negative, weight 10": ("{name: margin_mse, list_weight: 10}", [SIXTEEN, ONE]),
    "sentence-transformers MSE": ("MSELoss", ["data.positives=dropout"]),
    "sentence-transformers MarginMSE": ("MarginMSELoss", []),
    "sentence-transformers MarginMSE, 8 queries": ("MarginMSELoss", [FEW]),
    "sentence-transformers contrast": ("MultipleNegativesRankingLoss", []),
    "sentence-transformers contrast, 8 queries": ("MultipleNegativesRankingLoss", [FEW]),
}
PEERS = ("MSELoss", "MarginMSELoss", "MultipleNegativesRankingLoss")
UNTRAINED = ("untrained", "teacher")


def write_set(file: Path, folder: Path) -> None:
    """Write the training pairs, `pairs.csv`, and the retrieval folder `set`."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    train, test = rows[:-QUERIES], rows[-QUERIES:]
    (folder / "set/qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as stream:
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


def write_vectors(folder: Path) -> None:
    """Write the teacher's vectors of all training texts once, `teacher.npy` beside `teacher.jsonl`, for all seeds."""
    if (folder / "teacher.npy").is_file():
        return
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        texts = list(dict.fromkeys(clean_text(text).strip() for row in csv.reader(stream) for text in row))
    model = load_embedding_model(resolve_embedding_path(PACKAGED, "teacher.path"), "teacher.path", max_length=64)
    (folder / "teacher.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    np.save(folder / "teacher.npy", encode(model, texts, 64))


def open_session(row: str, seed: int, steps: int, folder: Path) -> Session[EmbeddingConfig]:
    """Open the run of one training."""
    method, settings = ROWS[row]
    shutil.rmtree(folder / "runs", ignore_errors=True)  # of a stopped call
    entry = {"name": "nli", "kind": "retrieval", "path": str(folder / "set")}
    file = folder / "config.yaml"
    file.write_text("method: cosine\n")
    given = [
        f"method={method if method not in (*PEERS, *UNTRAINED) else 'cosine'}",
        f"seed={seed}",
        f"data.path={folder / 'pairs.csv'}",
        "data.positives=second",
        "data.max_length=64",
        f"teacher.vectors={folder / 'teacher.npy'}",
        f"student.path={PACKAGED}",
        "student.layers=[0,2,5]",
        "train.word_embeddings=freeze",
        f"cache_dir={folder / 'cache'}",
        f"train.max_steps={steps}",
        f"train.warmup_steps={max(1, steps // 10)}",
        "evaluate.every_epoch=false",
        f"evaluate.tasks={json.dumps([entry])}",
        *settings,
    ]
    return replace(
        open_embedding_session(str(file), given, f"run-{seed}", str(folder / "runs")), hardware=find_hardware("cpu")
    )


def train_by_peer(loss_name: str, session: Session[EmbeddingConfig], data: SentenceData) -> None:
    """Train the same start by a loss of sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers.training_args import SentenceTransformerTrainingArguments

    config, run = session.config, session.run
    save_embedding_model(make_embedding_student(config, data), run.path / "start")
    model = SentenceTransformer(str(run.path / "start"), device="cpu")
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    if loss_name == "MSELoss":
        examples = {"sentence": data.texts, "label": np.asarray(teacher.vectors).tolist()}
    else:
        lists, _ = open_lists(session, data, teacher)
        whole = np.flatnonzero(~np.isnan(lists.scores).any(axis=1))  # it takes no rows with fewer negatives
        texts, scores = lists.texts[whole], lists.scores[whole]
        names = ["positive", *(f"negative_{n}" for n in range(1, texts.shape[1]))]
        examples = {"anchor": [data.texts[n] for n in data.rows[whole]]}
        examples |= {name: [data.texts[n] for n in texts[:, place]] for place, name in enumerate(names)}
        if loss_name == "MarginMSELoss":
            examples["label"] = (scores[:, :1] - scores[:, 1:]).tolist()
    arguments = SentenceTransformerTrainingArguments(output_dir=str(run.path / "peer"), **peer_arguments(config))
    loss = getattr(losses, loss_name)(model)
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(examples), loss=loss
    ).train()
    model.save(str(run.path / "student"))


def run(row: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train a row for so many steps; return its processor seconds and its figures."""
    method, _ = ROWS[row]
    session = open_session(row, seed, steps, folder)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    start = time.process_time()
    mined = open_lists(session, data, teacher)[1] if needs_lists(method) else {}
    mining, start = time.process_time() - start, time.process_time()
    if method in PEERS:
        train_by_peer(method, session, data)
    elif method not in UNTRAINED:
        distill_all(session, data)
    found: dict[str, Any] = {"seconds": max(time.process_time() - start - mining, 0.0)}
    if method == "untrained":
        model = make_embedding_student(session.config, data)
    elif method == "teacher":
        model = load_embedding_model(resolve_embedding_path(PACKAGED, "teacher.path"), "teacher.path", max_length=64)
    else:
        model = load_embedding_model(str(session.run.path / "student"), "student.path", max_length=64)
    tasks = load_tasks(session.config, session.run.cache_path)
    numbers = score_tasks(model, tasks, batch_size=64, bootstrap_samples=100, seed=0)["nli"]
    found |= {name: numbers[name] for name in FIGURES} | {"negatives": mined.get("negatives_per_row")}
    shutil.rmtree(session.run.path)
    return found


def texts_per_step(row: str) -> int:
    """Return how many texts a row's student reads in a step."""
    method, settings = ROWS[row]
    values = dict(setting.split("=", 1) for setting in settings)
    listed = int(values.get("data.negatives.number", 4)) + 1
    batch = int(values.get("train.per_device_train_batch_size", 32))
    contrast = "task_weight" in method
    return batch * (1 + (listed if needs_lists(method) else contrast))


def needs_lists(method: str) -> bool:
    """Return whether a row's method reads lists of documents."""
    return method in PEERS[1:] or "list_kl" in method or "margin_mse" in method


def budget_of(given: argparse.Namespace) -> str:
    """Return what all rows have in common, in words."""
    return f"{given.steps} steps" if given.steps else f"{given.texts} texts"


def summarise(
    rows: list[dict[str, Any]], control: str = CONTROL, figures: tuple[str, ...] = FIGURES
) -> list[dict[str, Any]]:
    """Average figures over the seeds, and compare each row with `control` at the same seed and budget."""
    level = {(row["budget"], row["seed"]): row["ndcg"] for row in rows if row["row"] == control}
    table = []
    for budget, name in dict.fromkeys((row["budget"], row["row"]) for row in rows):
        trials = [row for row in rows if (row["budget"], row["row"]) == (budget, name)]
        gains = [t["ndcg"] - level[budget, t["seed"]] for t in trials if (budget, t["seed"]) in level]
        means = {key: round(statistics.fmean(trial[key] for trial in trials), 2) for key in (*figures, "seconds")}
        steps = round(statistics.fmean(trial["steps"] for trial in trials))
        gained = ", ".join(f"{gain:+.2f}" for gain in gains)
        table.append({"budget": budget, "row": name, **means, "steps": steps, f"over {control}": gained})
    return sorted(table, key=lambda line: (line["budget"], -line["ndcg"]))


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--texts", type=int, default=2400)
    parser.add_argument("--steps", type=int, help="in place of --texts")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, help="folder that keeps the teacher's answers for the next call")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(given.results.read_text())["rows"] if given.results.is_file() else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_set(Path(os.environ["KDKIT_TEST_DATA"]).resolve() / "nli/triplets.csv", folder)
        write_vectors(folder)
        for seed in given.seeds:
            for name in given.rows:
                if any((row["row"], row["seed"], row["budget"]) == (name, seed, budget_of(given)) for row in rows):
                    continue
                steps = given.steps or max(1, given.texts // texts_per_step(name))
                found = {"row": name, "seed": seed, "budget": budget_of(given), "steps": steps}
                rows.append(found | run(name, seed, steps, folder))
                print(rows[-1], flush=True)
                content = {"versions": versions(), "table": summarise(rows), "rows": rows}
                given.results.write_text(json.dumps(content, indent=1) + "\n")
    print_table(summarise(rows))


if __name__ == "__main__":
    main()
