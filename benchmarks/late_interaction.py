"""What late interaction is worth for retrieval at equal processor time, beside single vectors and a peer.

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.late_interaction [--seconds 60] [--seeds 0 1 2] [--rows ...]

Teacher: all-MiniLM-L6-v2, a vector for each text; student: its layers 0, 2, 5. The set is that of
benchmarks/retrieval_negatives.py. A row is a method with settings, or MultiVectorDistillKLDivLoss under
MultiVectorEncoderTrainer on the lists that kdkit mined, with the same teacher's scores and the same start of the head.
Every row gets as many steps as fit into the same processor seconds of one thread, measured on its first steps; the
teacher's vectors and the mining, the same for all, are not counted. Results are written after every training.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.embedding_methods import peer_arguments
from benchmarks.measure import print_table, versions
from benchmarks.retrieval_negatives import summarise, write_set
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.evaluate.models import score_tasks
from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.lists import open_lists
from kdkit.embeddings.teacher.probe import load_teacher, probe_embedding_teacher
from kdkit.embeddings.training.begin import start_method
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.train import distill_all, plan_embedding_training
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_embedding_session
from kdkit.machine.session import Session

RESULTS = Path(__file__).parent / "results" / "late_interaction.json"
FIGURES = ("ndcg", "reciprocal_rank", "recall", "bytes_per_document")
CONTROL = "cosine, one vector"
LATE, PEER, UNTRAINED, TEACHER = "late_interaction", "peer", "untrained", "teacher"
ROWS: dict[str, tuple[str, list[str]]] = {
    "teacher, one vector": (TEACHER, []),
    "student untrained, one vector": (UNTRAINED, []),
    "student untrained, token vectors": (UNTRAINED, ["method={name: late_interaction}"]),
    CONTROL: ("cosine", ["data.positives=dropout"]),
    "list_kl, one vector": ("list_kl", []),
    "late_interaction": (LATE, []),
    "late_interaction, hard negatives": (LATE, ["method.hard_negatives=true"]),
    "late_interaction, contrast beside it": (LATE, ["method.task_weight=1"]),
    "late_interaction, contrast alone": (LATE, ["method.task_weight=1", "method.score_weight=0"]),
    "late_interaction, no expansion": (LATE, ["method.query_expansion=false"]),
    "late_interaction, sums": (LATE, ["method.score=sum", "method.temperature=1"]),
    "late_interaction, temperature 0.02": (LATE, ["method.temperature=0.02"]),
    "late_interaction, temperature 0.1": (LATE, ["method.temperature=0.1"]),
    "late_interaction, scores alone": (LATE, ["method.cosine_weight=0"]),
    "late_interaction, prompts": (LATE, ["method.query_prompt=query: ", "method.document_prompt=document: "]),
    "late_interaction, width 384": (LATE, ["method.width=384"]),
    "late_interaction, batches of 64": (LATE, ["train.per_device_train_batch_size=64"]),
    "sentence-transformers, means": (PEER, []),
    "sentence-transformers, its defaults": (PEER, ["method.score=sum", "method.temperature=1"]),
}
PILOT = (4, 12)
"""Steps of two short trainings: what they differ by is the time of a step, without loading and saving."""


def open_session(row: str, seed: int, steps: int, folder: Path) -> Session[EmbeddingConfig]:
    """Open the run of one training."""
    method, settings = ROWS[row]
    file = folder / "config.yaml"
    file.write_text("method: cosine\n")
    task = {"name": "nli", "kind": "retrieval", "path": str(folder / "set")}
    given = [
        f"method={{name: {LATE if method == PEER else 'cosine' if method in (TEACHER, UNTRAINED) else method}}}",
        f"seed={seed}",
        f"data.path={folder / 'pairs.csv'}",
        "data.positives=second",
        "data.max_length=64",
        f"cache_dir={folder / 'cache'}",
        f"train.max_steps={steps}",
        f"train.warmup_steps={max(1, steps // 10)}",
        "evaluate.every_epoch=false",
        f"evaluate.tasks={json.dumps([task])}",
        *settings,
    ]
    session = open_embedding_session(str(file), given, f"run-{seed}", str(folder / "runs"))
    return replace(session, hardware=find_hardware("cpu"))


def start_student(session: Session[EmbeddingConfig], data: SentenceData, folder: Path) -> Path:
    """Save the student before its first step, with the head that the method starts from."""
    student = make_embedding_student(session.config, data)
    method = plan_embedding_training(session, data).methods[str(session.config.method)]
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    start_method(method, student, data, teacher, session.config)
    method.dress(student)
    return save_embedding_model(student, folder)


def train_by_peer(session: Session[EmbeddingConfig], data: SentenceData) -> None:
    """Train the same start by sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
    from sentence_transformers.multi_vector_encoder import losses, scoring

    config, run = session.config, session.run
    model = MultiVectorEncoder(str(start_student(session, data, run.path / "start")), device="cpu")
    lists, _ = open_lists(session, data, open_embedding_teacher(session, data, tokens=False, attention_layers=[])[0])
    whole = np.flatnonzero(~np.isnan(lists.scores).any(axis=1))  # it takes no rows with fewer negatives
    examples = {"query": [data.texts[number] for number in data.rows[whole]]}
    for place, numbers in enumerate(lists.texts[whole].T):
        examples[f"document_{place}"] = [data.texts[number] for number in numbers]
    examples["label"] = lists.scores[whole].tolist()
    arguments = MultiVectorEncoderTrainingArguments(output_dir=str(run.path / "peer"), **peer_arguments(config))
    score = scoring.mean_colbert_kd_scores if config.method.score == "mean" else scoring.colbert_kd_scores
    loss = losses.MultiVectorDistillKLDivLoss(model, similarity_fct=score, temperature=config.method.temperature)
    data_set = Dataset.from_dict(examples)
    MultiVectorEncoderTrainer(model=model, args=arguments, train_dataset=data_set, loss=loss).train()
    model.save_pretrained(str(run.path / "student"))


def run(row: str, seed: int, steps: int, folder: Path, judge: bool = True) -> dict[str, Any]:
    """Train a row for so many steps; return its processor seconds and, where it is judged, its figures."""
    kind, _ = ROWS[row]
    session = open_session(row, seed, steps, folder)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    needs_lists = kind in (PEER, "list_kl") or "method.hard_negatives=true" in ROWS[row][1]
    start = time.process_time()
    if needs_lists:
        open_lists(session, data, teacher)
    mining, start = time.process_time() - start, time.process_time()
    student = session.run.path / "student"
    if kind == PEER:
        train_by_peer(session, data)
    elif kind == UNTRAINED:
        start_student(session, data, student)
    elif kind != TEACHER:
        distill_all(session, data)
    found: dict[str, Any] = {"seconds": max(time.process_time() - start - mining, 0.0)}
    if judge:
        is_teacher = kind == TEACHER
        model = load_teacher(session.config, session.hardware) if is_teacher else None
        model = model or load_embedding_model(str(student), "student.path", max_length=64)
        tasks = load_tasks(session.config, session.run.cache_path)
        numbers = score_tasks(model, tasks, batch_size=64, bootstrap_samples=100, seed=0)["nli"]
        found |= {name: numbers[name] for name in FIGURES}
    shutil.rmtree(session.run.path)
    return found


def train_for(row: str, seed: int, seconds: float, folder: Path, known: dict[str, float]) -> dict[str, Any]:
    """Train a row for some processor seconds and judge it."""
    steps = 1
    if ROWS[row][0] not in (TEACHER, UNTRAINED):
        if row not in known:
            few, more = (run(row, seed, count, folder, judge=False)["seconds"] for count in PILOT)
            known[row] = (more - few) / (PILOT[1] - PILOT[0])
        steps = max(PILOT[1], int(seconds / known[row]))
    return {"row": row, "seed": seed, "budget": seconds, "steps": steps, **run(row, seed, steps, folder)}


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="keeps the set and the teacher's vectors; default: a temporary one")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(given.results.read_text())["rows"] if given.results.is_file() else []
    done, known = {(row["row"], row["seed"], row["budget"]) for row in found}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        write_set(Path(os.environ["KDKIT_TEST_DATA"]) / "nli/triplets.csv", folder)
        for seed in given.seeds:
            for row in given.rows:
                if (row, seed, given.seconds) in done:
                    continue
                found.append(train_for(row, seed, given.seconds, folder, known))
                given.results.write_text(json.dumps({"versions": versions(), "rows": found}, indent=1) + "\n")
                print_table(summarise(found, CONTROL, FIGURES))


if __name__ == "__main__":
    main()
