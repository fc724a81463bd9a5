"""Training with a teacher of another tokenizer, by kdkit and by TRL's `GOLDTrainer`; prints one line of JSON.

    python -m benchmarks.peers.two_tokenizers KIND --folder FOLDER [--pair large|stories] [--steps 4 | --seconds 30]
                                              [--seed 0]                                (trl==1.16.0, KDKIT_TEST_DATA)

`large`: random models with SmolLM2's (49,152) and Qwen's (151,646) tokenizer on Tiny Shakespeare, for time and memory.
`stories`: a teacher (1.8 million parameters) trained on TinyStories, and a random student (0.3 million) with its own
tokenizer on 210 of 300 other stories, read again and again, for bits per byte of the rest after `--seconds` of
processor time; the learning rate is constant after its warm-up, as nobody knows the last step. Start, sequences, batch,
optimizer are the same for all; 0.1 of cross-entropy, 0.9 of the teacher. TRL wants a prompt: the first two tokens of a
window. `cached` asks the teacher once for every sequence, in the same time, and reads its answers in the steps.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from transformers import TrainerCallback, TrainerControl

from benchmarks.measure import measure, print_row, row
from benchmarks.step_times import StepTimes, make_large_pair
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.training.scoring import score_windows

ALONE, CACHED = "no teacher", "kdkit projected_kl, cached"
OURS = {"kdkit projected_kl": "projected_kl", CACHED: "projected_kl", "kdkit gold": "gold", "kdkit uld": "uld"}
PEERS: dict[str, dict[str, Any]] = {
    "TRL GOLD, default": {},
    "TRL GOLD, hybrid, bayesian": {"uld_use_hybrid_loss": True, "uld_token_merge_strategy": "bayesian"},
    "TRL ULD, as in the paper": {"use_extended_uld": False},
}
BETWEEN, STORIES = "<|endoftext|>", 300
KD_RATIO, MANY_STEPS, DROPPED = 0.9, 3000, 1


class StopAfter(TrainerCallback):
    """Ends a training when its processor time is used up."""

    def __init__(self, seconds: float):
        self.seconds, self.begin = seconds, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.begin = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        """Stop, if it is time."""
        control.should_training_stop |= time.process_time() - self.begin > self.seconds


def make_teacher(folder: Path) -> Path:
    """Return a teacher of all stories but the last few, which the students have; it is trained if need be."""
    made = folder / "stories_teacher"
    if made.is_dir():
        return made
    stories = (Path(os.environ["KDKIT_TEST_DATA"]) / "lm/tinystories_a.txt").read_text("utf-8").split(BETWEEN)
    (folder / "much.txt").write_text(BETWEEN.join(stories[:-STORIES]), "utf-8")
    (folder / "little.txt").write_text(BETWEEN.join(stories[-STORIES:]), "utf-8")
    settings = [f"data.path={folder / 'much.txt'}", f"cache_dir={folder / 'cache'}", "teacher.build.max_steps=600"]
    session = open_session("configs/demo.yaml", settings, "teacher", folder / "runs")
    session = replace(session, hardware=find_hardware("cpu"))
    shutil.copytree(prepare_teacher(session, prepare_data(session)).path, made)
    return made


def open_pair(kind: str, arguments: argparse.Namespace) -> tuple[Session[Config], PreparedData]:
    """Open the run of a kind of training and its data, which all kinds of a folder share."""
    loss = OURS.get(kind, "projected_kl")
    shared = [f"seed={arguments.seed}", f"distill.kd_ratio={KD_RATIO}", "distill.equal_time_baseline=false"]
    shared += ["distill.start_from_teacher=false", f"distill.loss={loss}"]
    shared += ["train.lr_schedule=constant_with_warmup", "data.max_length=128"]
    shared += [f"cache_dir={arguments.folder / 'cache'}"]
    shared += [f"train.{name}_every=1000000" for name in ("save", "log", "evaluate")]
    if arguments.pair == "large":
        shared += ["train.per_device_train_batch_size=2", *make_large_pair(arguments.folder / "models")]
    else:
        shared += [f"teacher.path={make_teacher(arguments.folder)}", "teacher.max_length=128"]
        shared += [f"data.path={arguments.folder / 'little.txt'}", "data.evaluation_fraction=0.3"]
    if kind == CACHED:
        file = arguments.folder / f"answers-{arguments.pair}-{arguments.seed}.h5"
        file.unlink(missing_ok=True)  # its making is timed
        shared += ["cache.enabled=true", f"cache.file={file}"]
    answers = "cached" if kind == CACHED else "asked"
    name, runs = f"{arguments.pair}-{loss}-{answers}-{arguments.seed}", arguments.folder / "runs"
    session = replace(open_session("configs/demo.yaml", shared, name, runs), hardware=find_hardware("cpu"))
    return session, prepare_data(session)


def make_ours(
    kind: str, session: Session[Config], data: PreparedData, teacher: Teacher, steps: int
) -> tuple[Any, float]:
    """Make kdkit's trainer; return it and the processor seconds in which `cached` asks the teacher."""
    plan = plan_training(session, data)
    stage = replace(plan.stages[0], steps=steps, num_sequences=None)
    begin, given = time.process_time(), None if kind == ALONE else teacher
    given = open_teacher(plan) if kind == CACHED else given
    seconds = time.process_time() - begin
    return make_trainer(plan, stage, make_student(session.config, data), given, "benchmark"), seconds


def make_peer(
    kind: str, session: Session[Config], data: PreparedData, teacher: Teacher, steps: int, folder: Path
) -> Any:
    """Make TRL's trainer of the same student on the same sequences."""
    from datasets import Dataset
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    data.teacher_tokenizer.save_pretrained(folder / "teacher_tokenizer")
    train = session.config.train
    settings = GOLDConfig(
        output_dir=str(folder),
        use_uld_loss=True,
        teacher_tokenizer_name_or_path=str(folder / "teacher_tokenizer"),
        uld_crossentropy_weight=1 - KD_RATIO,
        uld_distillation_weight=KD_RATIO,
        lmbda=0.0,
        temperature=1.0,
        max_length=2 * data.train.student_ids.shape[1],
        max_completion_length=32,
        per_device_train_batch_size=train.per_device_train_batch_size,
        max_steps=steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=session.config.seed,
        **PEERS[kind],
    )
    tokenizer, texts = data.student_tokenizer, []
    for ids in data.train.student_ids[: 2000 if steps == MANY_STEPS else 64]:  # more than it reads
        ids = ids[ids >= 0]
        texts.append({"prompt": tokenizer.decode(ids[:2]), "completion": tokenizer.decode(ids[2:])})
    return GOLDTrainer(
        model=make_student(session.config, data),
        teacher_model=teacher.model,
        args=settings,
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
    )


def main() -> None:
    """Train a kind and print what it took, or what it has learned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*OURS, *PEERS, ALONE])
    parser.add_argument("--pair", choices=("large", "stories"), default="large")
    parser.add_argument("--folder", type=Path, required=True, help="for models, data and teachers, which are shared")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    torch.set_num_threads(1)
    session, data = open_pair(arguments.kind, arguments)
    teacher = prepare_teacher(session, data)
    teacher.model.float()
    steps, times = MANY_STEPS if arguments.seconds else arguments.steps, StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        answering = 0.0
        if arguments.kind in PEERS:
            trainer = make_peer(arguments.kind, session, data, teacher, steps, Path(folder))
        else:
            trainer, answering = make_ours(arguments.kind, session, data, teacher, steps)
        trainer.add_callback(times)
        if arguments.seconds:
            trainer.add_callback(StopAfter(arguments.seconds - answering))
        with measure() as found:
            trainer.train()
    seconds = times.processor_seconds()[DROPPED:]
    values: dict[str, Any] = {"steps": len(times.ends), "cpu_seconds_per_step": round(statistics.median(seconds), 4)}
    if arguments.seconds:
        size = session.config.evaluate.batch_size
        values |= {"sequences": len(data.train.student_ids), "answering_cpu_seconds": round(answering, 3)}
        values["bits_per_byte"] = score_windows(trainer.model, data.evaluation, "student", size).bits_per_byte
        values["teacher_bits_per_byte"] = score_windows(teacher.model, data.evaluation, "teacher", size).bits_per_byte
    print_row(row(arguments.kind, found, seed=arguments.seed, **values))


if __name__ == "__main__":
    main()
