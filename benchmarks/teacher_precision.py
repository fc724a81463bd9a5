"""What a teacher that answers in bf16 costs: its own text, its answers, a cache of them, and the students it teaches.

    python -m benchmarks.teacher_precision [--config configs/demo.yaml] [-p SECTION.KEY=VALUE ...] [--seeds 0]

One teacher, in fp32 and in bf16, on the held-out sequences; then the student of the configuration, trained with either.
Students differ by their seeds alone; the text's split and the teacher are those of the first seed.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import versions, write_results
from kdkit.config.language import Config
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.losses.divergences import forward_kl
from kdkit.machine.hardware import DTYPES
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.training.scoring import score_windows

RESULTS = Path(__file__).parent / "results" / "teacher_precision.json"
PRECISIONS = ("fp32", "bf16")


@torch.no_grad()
def compare_answers(teachers: dict[str, Teacher], data: PreparedData, batch_size: int, top_k: int) -> dict[str, float]:
    """Compare both answers at every held-out position: KL(fp32 || bf16) in nats, and what a cache would keep of them.

    Returns:
        Means over the positions; `largest_kl` is the largest.
    """
    collator, windows = WindowCollator(data.evaluation, "teacher"), data.evaluation
    kl, same, kept, moved = [], [], [], []
    for start in range(0, len(windows), batch_size):
        batch = collator(list(range(start, min(start + batch_size, len(windows)))))
        counted = (batch["labels"][:, 1:] >= 0).flatten()
        exact, half = (
            teachers[name].model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].flatten(0, 1)[counted]
            for name in PRECISIONS
        )
        exact, half = (logits[:, : len(data.teacher_tokenizer)].float() for logits in (exact, half))
        kl.append(forward_kl(half, exact))
        top, other = exact.log_softmax(-1).topk(top_k), half.log_softmax(-1)
        same.append((exact.argmax(-1) == half.argmax(-1)).float())
        kept.append((other.topk(top_k).indices[:, :, None] == top.indices[:, None, :]).any(1).float().mean(1))
        moved.append(((top.values - other.gather(1, top.indices)).abs() * top.values.exp()).sum(1))
    return {
        "kl": torch.cat(kl).mean().item(),
        "largest_kl": torch.cat(kl).max().item(),
        "same_top_token": torch.cat(same).mean().item(),
        f"same_{top_k}_kept": torch.cat(kept).mean().item(),
        "nats_off_at_kept": torch.cat(moved).mean().item(),
    }


def train_student(session: Session[Config], data: PreparedData, teacher: Teacher, seed: int) -> float:
    """Train the student with a teacher and return its bits per byte on held-out text."""
    config = session.config.model_copy(update={"seed": seed})
    plan, student = plan_training(replace(session, config=config), data), make_student(config, data)
    make_trainer(plan, plan.stages[0], student, teacher, "benchmark").train()
    windows = data.evaluation.first(config.evaluate.max_sequences)
    return score_windows(student.eval(), windows, "student", config.evaluate.batch_size).bits_per_byte


def main() -> None:
    """Compare both teachers, then their students."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    overrides = [*arguments.overrides, "train.save_every=1000000"]
    name = f"benchmark-{fingerprint(arguments.config, overrides)}"
    session = open_session(arguments.config, overrides, name, arguments.folder)
    data, config = prepare_data(session), session.config
    teachers = {name: prepare_teacher(session, data, DTYPES[name]) for name in PRECISIONS}
    batch_size, windows = config.evaluate.batch_size, data.evaluation.first(config.evaluate.max_sequences)
    answers = compare_answers(teachers, data, batch_size, config.cache.top_k)
    rows: list[dict[str, Any]] = []
    for name, teacher in teachers.items():
        score = score_windows(teacher.model, windows, "teacher", batch_size)
        students = {f"student, seed {seed}": train_student(session, data, teacher, seed) for seed in arguments.seeds}
        rows.append({"name": name, "teacher": score.bits_per_byte, **students})
    rows[1] |= answers
    write_results(RESULTS, [row | {"versions": versions()} for row in rows])


if __name__ == "__main__":
    main()
