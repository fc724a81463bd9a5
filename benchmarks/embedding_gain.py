"""What each method, and each part of the defaults, earns at equal processor time and at equal steps.

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.embedding_gain [--seeds 0 1 2] [--seconds 75] [--rows ...]
    ... --steps 120                           # equal steps: what does a method give that costs more?
    ... --like 120                            # the processor time that so many steps of `cosine` take
    ... --start random --like 2000            # or `layers`: students far from their teacher

Sentences, tasks and, with `--start near`, the pair are those of benchmarks/embedding_methods.py. A row is a method with
settings beside kdkit's defaults; the recipe is `losses.MSELoss` under SentenceTransformerTrainer. A row's steps follow
from processor seconds of one thread, measured on its first steps (with `--like` in the same call as those of `cosine`);
the teacher's vectors are made before and not counted. Results are written after every training, so a stopped call goes
on.
"""

import re
import shutil
import statistics
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.embedding_methods import RECIPES, open_cpu_session, read_options, score, train_by_recipe, train_missing
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData, prepare_sentences
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.train import distill_all, plan_embedding_training
from kdkit.machine.session import Session

RESULTS = Path(__file__).parent / "results" / "embedding_gain.json"
RECIPE, UNTRAINED, CHEAPEST = RECIPES[0], "untrained", "cosine"
NEW = ["train.learning_rate=4e-4", "train.dropout=auto", "train.word_embeddings=auto"]
"""kdkit's defaults, whatever the demo's configuration says."""
HELD = ["method.projection_lr_multiplier=0"]
ROWS: dict[str, tuple[str, list[str]]] = {
    "recipe, learning rate 1e-4": (RECIPE, ["train.learning_rate=1e-4"]),
    "recipe, learning rate 4e-4": (RECIPE, ["train.learning_rate=4e-4"]),
    "cosine": ("cosine", []),
    "cosine, with dropout": ("cosine", ["train.dropout=always"]),
    "cosine, word embeddings trained": ("cosine", ["train.word_embeddings=train"]),
    "cosine, learning rate 1e-4": ("cosine", ["train.learning_rate=1e-4"]),
    "cosine, lengths mixed": ("cosine", ["train.group_by_length=false"]),
    "layer_reduction": ("layer_reduction", []),
    "leaf": ("leaf", []),
    "rkd": ("rkd", []),
    "similarity_kl": ("similarity_kl", []),
    "stella": ("stella", []),
    "talas": ("talas", []),
    "talas without sharpness": ("talas", ["method.sharpness=none"]),
    "dskd": ("dskd", []),
    "dskd without contrast": ("dskd", ["method.task_weight=0"]),
    "cdm": ("cdm", []),
    "emo": ("emo", []),
    "simcse": ("simcse", []),
    UNTRAINED: (UNTRAINED, []),
    # of far students
    "recipe": (RECIPE, []),
    "recipe, learning rate 1e-3": (RECIPE, ["train.learning_rate=1e-3"]),
    "cosine, projection trained": ("cosine", ["method.projection_lr_multiplier=5"]),
    "dskd, projection held": ("dskd", HELD),
    "talas, projection held": ("talas", HELD),
    "cosine, learning rate 1e-3": ("cosine", ["train.learning_rate=1e-3"]),
    "cosine, projection trained, learning rate 1e-3": (
        "cosine",
        ["method.projection_lr_multiplier=5", "train.learning_rate=1e-3"],
    ),
}
STARTS = {
    "near": [],
    "random": ["student.path=build", "train.learning_rate=3e-3"],
    "layers": ["train.word_embeddings=freeze", "train.learning_rate=1e-3"],
}
"""Students: layers 0, 2, 5 of the teacher; a new BERT (2 layers of width 128); the teacher's embeddings below three
layers of random weights."""
PILOTS = {"near": (4, 16), "random": (8, 104), "layers": (4, 16)}
"""Steps of two short trainings: what they differ by is the time of a step, without loading and saving."""


def renew_layers(session: Session[EmbeddingConfig], data: SentenceData, folder: Path) -> str:
    """Save the near student with layers of random weights, and return the setting that starts from it."""
    start = folder / f"layers-{session.config.seed}"
    if not start.is_dir():
        student = make_embedding_student(session.config, data)
        torch.manual_seed(session.config.seed)
        new = type(student.backbone)(student.backbone.config)
        student.backbone.encoder.load_state_dict(new.encoder.state_dict())
        save_embedding_model(student, start)
    return f"student.path={start}"


def open_training(
    row: str, start: str, seed: int, steps: int, folder: Path, file: Path
) -> tuple[Session[EmbeddingConfig], SentenceData]:
    """Prepare the training of a row; everything that the teacher is asked for is in the cache after that."""
    method, settings = ROWS[row]
    more = [*NEW, *STARTS[start]]
    if start == "layers":
        near = open_cpu_session("near", seed, steps, folder, file, NEW)
        more += ["student.layers=null", renew_layers(near, prepare_sentences(near, None), file.parent)]
        shutil.rmtree(near.run.path)
    session = open_cpu_session(method, seed, steps, folder, file, [*more, *settings])
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    plan = plan_embedding_training(session, data)
    open_embedding_teacher(session, data, tokens=plan.needs.tokens, attention_layers=plan.teacher_layers)
    for alignment in {made.alignment for made in plan.methods.values()}:
        prepare_sentences(session, alignment)
    return session, data


def trainer_of(method: str, session: Session[EmbeddingConfig], data: SentenceData) -> Callable[[], Any]:
    """Return what trains a row."""
    if method == UNTRAINED:
        return lambda: None
    if method == RECIPE:
        return lambda: train_by_recipe(method, session, data)
    return lambda: distill_all(session, data)


def run(row: str, start: str, seed: int, steps: int, folder: Path, file: Path, judge: bool) -> dict[str, Any]:
    """Train a row for so many steps; return its processor seconds and, where it is judged, its scores."""
    method = ROWS[row][0]
    session, data = open_training(row, start, seed, steps, folder, file)
    begin = time.process_time()
    trainer_of(method, session, data)()
    found: dict[str, Any] = {"steps": steps, "seconds": time.process_time() - begin}
    if judge:
        found |= score(method, session, data, load_tasks(session.config, session.run.cache_path))
    shutil.rmtree(session.run.path)
    return found


@cache
def step_seconds(row: str, start: str, seed: int, folder: Path, file: Path) -> float:
    """Return the processor seconds of a step."""
    few, more = PILOTS[start]
    less, longer = (run(row, start, seed, steps, folder, file, judge=False)["seconds"] for steps in (few, more))
    return (longer - less) / (more - few)


def train_row(key: dict[str, Any], folder: Path, file: Path) -> dict[str, Any]:
    """Train a row within its budget, `N s`, `N steps` or `like N`, and judge it."""
    row, start, seed = key["row"], key["start"], key["seed"]
    number = float(re.sub("[a-z ]", "", key["budget"]))
    costs_the_same = row in (CHEAPEST, UNTRAINED) or row.startswith(
        (f"{CHEAPEST}, learning rate", f"{CHEAPEST}, projection")
    )
    steps = int(number)
    if key["budget"].endswith(" s") and row != UNTRAINED:
        steps = int(number / step_seconds(row, start, seed, folder, file))
    elif key["budget"].startswith("like") and not costs_the_same:
        seconds = number * step_seconds(CHEAPEST, start, seed, folder, file)
        steps = int(seconds / step_seconds(row, start, seed, folder, file))
    steps = 0 if row == UNTRAINED else max(steps, PILOTS[start][1])
    return run(row, start, seed, steps, folder, file, judge=True)


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the seeds, and compare each with `cosine` and the recipes of the same seed, start and budget."""
    table = []
    for start, budget in dict.fromkeys((row["start"], row["budget"]) for row in rows):
        group = [row for row in rows if (row["start"], row["budget"]) == (start, budget)]
        averages = {(row["row"], row["seed"]): row["average"] for row in group}
        lines = []
        for name in dict.fromkeys(row["row"] for row in group):
            trials = [row for row in group if row["row"] == name]
            line = {"start": start, "budget": budget, "row": name}
            line["average"] = round(statistics.fmean(row["average"] for row in trials), 2)
            for other in (CHEAPEST, *(row for row in ROWS if row.startswith("recipe"))):
                gains = [t["average"] - averages[other, t["seed"]] for t in trials if (other, t["seed"]) in averages]
                line[f"over {other}"] = ", ".join(f"{gain:+.2f}" for gain in gains)
            seconds = statistics.fmean(row["seconds"] for row in trials)
            steps = round(statistics.fmean(row["steps"] for row in trials))
            line |= {
                "steps": steps,
                "seconds": round(seconds, 1),
                "s/step": round(seconds / steps, 3) if steps else 0.0,
            }
            lines.append(line | {"STS-B dev": round(trials[0]["STS-B dev"], 2)})
        table += sorted(lines, key=lambda line: -line["average"])
    return table


def main() -> None:
    """Train what is missing and print the table."""
    parser = read_options(__doc__, RESULTS, "rows", list(ROWS))
    parser.add_argument("--start", choices=list(STARTS), default="near")
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--like", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    budget = f"{arguments.seconds:g} s"
    if arguments.steps or arguments.like:
        budget = f"{arguments.steps} steps" if arguments.steps else f"like {arguments.like}"
    wanted = [
        {"row": row, "start": arguments.start, "seed": seed, "budget": budget}
        for seed, row in product(arguments.seeds, arguments.names)
    ]
    train_missing(wanted, train_row, summarise, arguments.results)


if __name__ == "__main__":
    main()
