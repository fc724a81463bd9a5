"""Dynamic batching: the same steps with less padding, whatever teaches, and after a stop, a lack of memory, in two."""

import json
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from kdkit.config.language import Config
from kdkit.data.windows import PAD
from kdkit.distill import train
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.student import make_student
from kdkit.errors import UserError
from kdkit.machine.interrupt import Stopped
from kdkit.training.trainer import LanguageModelTrainer
from tests.committees import committee_config
from tests.distill.test_out_of_memory import lack_memory
from tests.distill.test_stop import press_at
from tests.processes import join_group, run_two
from tests.tiny import WORDS, make_config, make_data, make_plan, make_run, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 96
TOKENS = 4 * LENGTH
TRAIN = {"max_steps": 4, "batch_size": 4, "gradient_accumulation_steps": 3, "log_every": 1, "save_every": 100}
CACHE = {"cache": {"enabled": True, "top_k": 16}}
PARTS = {"distill": {"weights": {"feature": 0.2, "attention": 0.1, "contrastive": 0.1}}}
LEVELS = {"train": {"curriculum": "teacher_loss"}}
MASKED = {"train": {"masking": {"enabled": True}}}
HEADS = {"train": {"multi_token": {"num_tokens": 2}, "average": {"kind": "ema", "decay": 0.5}}}
PASSES = {"train": {"max_steps": None, "num_train_epochs": 1.3}}


def write_chat(path: Path, count: int = 60) -> None:
    """Write questions with answers of very different lengths, all distinct."""
    rows = []
    for number in range(count):
        words = [WORDS[(number * 5 + i * (1 + number % 3)) % len(WORDS)] for i in range(2 + (number * 11) % 19)]
        talk = [{"role": "user", "content": f"{words[0]} {number}?"}, {"role": "assistant", "content": " ".join(words)}]
        rows.append(json.dumps({"messages": talk}))
    path.write_text("\n".join(rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Conversations, and a folder with a teacher that reads them."""
    folder = tmp_path_factory.mktemp("grouped")
    data = make_data(configure(folder, None), folder)
    lengths = (data.train.student_ids != PAD).sum(axis=1)
    assert data.is_chat and lengths.max() > 2.5 * lengths.min()
    return folder, save_teacher(data, folder / "teacher")


def configure(folder: Path, tokens: int | None, teacher: Path | None = None, **changes: dict) -> Config:
    """Return a configuration of conversations; with `tokens` grouped."""
    settings = TRAIN | changes.pop("train", {}) | {"micro_batch_tokens": tokens}
    chat = folder / "chat.jsonl"
    if not chat.is_file():  # another process may read it
        write_chat(chat)
    sections = {"data": {"path": str(chat), "max_length": LENGTH, "evaluation_fraction": 0.2}}
    sections |= {"teacher": {"path": str(teacher)}} if teacher else {}
    return make_config(folder, train=settings, **(sections | changes))


class Gradients(TrainerCallback):
    """Keeps the gradient of every step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None]))


def train_whole(config: Config, folder: Path, run, phase: str = "student"):
    """Train the first stage of a configuration; return the trainer and the gradients of its steps."""
    plan = make_plan(config, run, make_data(config, folder))
    teacher = open_teacher(plan) if phase == "student" else None
    trainer = train.make_trainer(plan, plan.stages[0], make_student(config, plan.data), teacher, phase)
    trainer.add_callback(gradients := Gradients())
    trainer.train()
    return trainer, gradients.steps


def logged(trainer, name):
    return [line[name] for line in trainer.state.log_history if name in line]


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({}, "baseline"),
        ({}, "student"),
        ({"distill": {"loss": "uld"}}, "student"),
        (CACHE, "student"),
        (PARTS, "student"),
        (LEVELS, "student"),
        (MASKED, "student"),
        (HEADS, "baseline"),
        (PASSES, "student"),
    ],
    ids=["baseline", "teacher", "spans", "cache", "layers", "curriculum", "masking", "heads", "passes"],
)
def test_the_gradient_of_a_step_is_that_of_micro_batches_of_one_size(place, tmp_path, changes, phase):
    folder, teacher = place
    made = [
        train_whole(configure(folder, tokens, teacher, **changes), folder, make_run(tmp_path, str(tokens)), phase)
        for tokens in (None, TOKENS)
    ]
    (fixed, gradients), (grouped, others) = made
    assert (gradients[0] - others[0]).norm() < 1e-6 * gradients[0].norm()
    assert len(gradients) == len(others) >= 2
    for name in ("loss", "ce_loss", "kd_loss", "grad_norm"):
        assert logged(grouped, name) == pytest.approx(logged(fixed, name), rel=1e-4)
    counts, kept = fixed.read_counts(), grouped.read_counts()
    assert {name: kept[name] for name in ("tokens", "read")} == {name: counts[name] for name in ("tokens", "read")}
    # the padding is gone, and what it would have been is known
    assert kept["padded_ungrouped"] == counts["padded"] > 1.1 * kept["padded"]
    assert logged(grouped, "padding_share_ungrouped") == pytest.approx(logged(fixed, "padding_share"))
    shares = zip(logged(grouped, "padding_share"), logged(fixed, "padding_share"), strict=True)
    assert all(mine <= theirs for mine, theirs in shares)


def test_several_teachers_teach_the_same(tmp_path):
    trained = []
    for tokens in (None, 4 * 24):
        config = committee_config(tmp_path, train=TRAIN | {"micro_batch_tokens": tokens, "max_steps": 2})
        trained.append(train_whole(config, tmp_path, make_run(tmp_path, str(tokens))))
    (fixed, gradients), (grouped, others) = trained
    assert (gradients[0] - others[0]).norm() < 1e-6 * gradients[0].norm()
    assert logged(grouped, "sailor_loss") == pytest.approx(logged(fixed, "sailor_loss"), rel=1e-4)


def test_no_micro_batch_is_over_the_budget_and_short_sequences_stand_together(place, tmp_path, monkeypatch):
    folder, _ = place
    config, shapes = configure(folder, TOKENS, train={"batch_size": 12, "gradient_accumulation_steps": 1}), []
    compute_step = LanguageModelTrainer.compute_step

    def watch(self, model, inputs, num_items_in_batch):
        shapes.append(tuple(inputs["input_ids"].shape))
        return compute_step(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(LanguageModelTrainer, "compute_step", watch)
    train_whole(config, folder, make_run(tmp_path), "baseline")
    assert 4 < len(shapes) <= 4 * 4 and sum(rows for rows, _ in shapes) == 4 * 12
    assert max(rows * width for rows, width in shapes) <= TOKENS and max(shapes)[0] > TOKENS // LENGTH


def test_a_cache_holds_the_steps_that_are_made_ahead(place, tmp_path):
    folder, teacher = place
    short = {"batch_size": 1, "gradient_accumulation_steps": 12, "max_steps": 1}
    trainer, _ = train_whole(configure(folder, TOKENS, teacher, train=short, **CACHE), folder, make_run(tmp_path))
    assert trainer.state.global_step == 1 and trainer.read_counts()["padded_ungrouped"] == trainer.counts["read"]


def lines(run):
    """Return the metrics of a run without their times."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in run.read_metrics()]


def test_a_training_that_is_stopped_goes_on_bit_for_bit(place, tmp_path, monkeypatch):
    folder, teacher = place
    own = {"prompt_length": 2, "max_new_tokens": 4}
    stages = [{"name": "a", "max_steps": 3}, {"name": "own", "max_steps": 1, "on_policy": own}]
    config = configure(folder, TOKENS, teacher, train={"stages": stages, "masking": {"enabled": True}})
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "parts")
    for place_of, is_stopped in ((whole, False), (run, True)):
        plan = make_plan(config, place_of, make_data(config, folder))
        if is_stopped:
            with monkeypatch.context() as patch, pytest.raises(Stopped):
                press_at(patch, 2)
                train.distill(plan, open_teacher(plan))
        train.distill(plan, open_teacher(plan), resume=is_stopped)
    assert lines(run) == lines(whole)
    results = [each.read_json("training.json")["student"] for each in (run, whole)]
    assert results[0] | {"seconds": 0, "teacher_seconds": 0} == results[1] | {"seconds": 0, "teacher_seconds": 0}
    assert 0.0 <= results[0]["padding_share"] < results[0]["padding_share_ungrouped"]


def test_the_budget_is_halved_where_memory_lacks(place, tmp_path, monkeypatch, capsys):
    folder, teacher = place
    expected, _ = train_whole(configure(folder, TOKENS, teacher), folder, make_run(tmp_path, "whole"))
    sizes = []
    with monkeypatch.context() as patch:
        lack_memory(patch, 4, 2, sizes)
        cut, _ = train_whole(configure(folder, TOKENS, teacher), folder, make_run(tmp_path, "cut"))
    assert f"micro-batches of {TOKENS // 2} instead of {TOKENS} tokens from now on, 2 times as many" in (
        out := capsys.readouterr().out
    )
    assert out.count("out of memory at step 2") == 1 and max(sizes[-10:]) <= 4 < max(sizes)
    for name in ("loss", "ce_loss", "kd_loss", "grad_norm"):
        assert logged(cut, name) == pytest.approx(logged(expected, name), rel=1e-4)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"train.micro_batch_tokens: .* a single sequ"):
        lack_memory(patch, 0, 1, sizes)
        train_whole(configure(folder, TOKENS, teacher), folder, make_run(tmp_path, "none"))
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"what stands in one; set .*_tokens=192$"):
        lack_memory(patch, 0, 1, sizes)
        train_whole(configure(folder, TOKENS, teacher, **PARTS), folder, make_run(tmp_path, "layers"))


def train_as_process(rank: int, port: int, folder: Path) -> None:
    """Train as one of two processes, on half of each step, and write what came out."""
    join_group(rank, port)
    halved = configure(folder, TOKENS, train={"batch_size": 2, "max_steps": 3})
    trainer, _ = train_whole(halved, folder, make_run(folder, f"two-{rank}"), "baseline")
    found = [logged(trainer, name) for name in ("loss", "grad_norm")]
    (folder / f"{rank}.json").write_text(json.dumps([found, trainer.read_counts()["tokens"]]))


def test_two_processes_read_what_one_does_and_need_not_have_as_many_micro_batches(tmp_path):
    config = configure(tmp_path, None, train={"max_steps": 3})
    make_data(config, tmp_path)
    trainer, _ = train_whole(config, tmp_path, make_run(tmp_path, "one"), "baseline")
    run_two(train_as_process, tmp_path)
    (losses, norms), tokens = json.loads((tmp_path / "0.json").read_text())
    assert tokens == trainer.read_counts()["tokens"]
    assert losses == pytest.approx(logged(trainer, "loss"), rel=1e-4)
    assert norms == pytest.approx(logged(trainer, "grad_norm"), rel=1e-4)
