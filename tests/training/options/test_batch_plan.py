"""Schedules of batch size and length: what every step reads, in one process and in several."""

from collections import Counter
from itertools import chain

import pytest
import torch

from kdkit.config.language import config_from_values
from kdkit.distill import train
from kdkit.distill.curriculum import rows_read, sequence_order
from kdkit.training.options.batch_plan import (
    PlannedBatches,
    PlannedRows,
    plan_batches,
    sequences_per_step,
    steps_for,
    value_at,
)
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

GROWING = {"batch_schedule": {0: 1, 0.5: 3}, "length_schedule": {0: 8, 0.25: 16, 0.75: 24}}


def settings(**train_settings):
    values = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2} | train_settings
    return config_from_values({"data": {"max_length": 24}, "train": values}).train


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    data = make_data(make_config(folder), folder)
    return folder, data, make_teacher(data)


def test_a_value_holds_from_its_share_on():
    schedule = {0.0: 2, 0.3: 4, 0.9: 8}
    assert [value_at(schedule, share, 1) for share in (0.0, 0.29, 0.3, 0.89, 0.9, 0.99)] == [2, 2, 4, 4, 8, 8]
    assert value_at({}, 0.5, 7) == 7


def test_the_steps_of_a_plan():
    plan = plan_batches(settings(**GROWING), 8)
    assert plan.sizes == [1] * 4 + [3] * 4
    assert plan.lengths == [8, 8, 16, 16, 16, 16, 24, 24]
    assert (plan.micro_batches, plan.num_sequences) == (2, 32)
    rows = PlannedRows(list(range(100, 132)), plan)
    lengths = [length for _, length in (rows[i] for i in range(32))]
    assert lengths == [8] * 4 + [16] * 4 + [16] * 12 + [24] * 12
    batches = list(PlannedBatches(plan))
    assert len(batches) == len(PlannedBatches(plan)) == 16
    assert list(chain(*batches)) == list(range(32)) and [len(batch) for batch in batches] == [1] * 8 + [3] * 8


def test_passes_over_the_text_become_steps():
    assert steps_for(settings(), 17) == 3
    growing = settings(batch_schedule={0: 1, 0.5: 3})
    assert sequences_per_step(growing) == 4.0 and steps_for(growing, 40) == 10
    assert plan_batches(growing, 10).num_sequences == 40


@pytest.mark.parametrize("schedule", [{0: 1, 0.5: 3}, {0: 3, 0.5: 1}, {0: 2, 0.3: 5, 0.7: 1}, {}])
@pytest.mark.parametrize("processes", [1, 2])
def test_passes_are_read_to_their_last_sequence_and_no_further(monkeypatch, schedule, processes):
    """Every step keeps its micro-batches, so that Trainer groups them right; only the last may have fewer."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    train = settings(batch_schedule=schedule, length_schedule={0: 8, 0.5: 24})
    for num_sequences in range(40, 90):
        steps = steps_for(train, num_sequences)
        plan = plan_batches(train, steps, num_sequences)
        sizes = plan.batches
        assert sum(sizes) == plan.num_sequences == num_sequences and min(sizes) >= 1
        assert max(sizes) <= max(plan.sizes) and len(plan.ends) == steps
        assert plan.micro_batches * (steps - 1) < len(sizes) <= plan.micro_batches * steps
        assert len(sizes) % processes == 0
        assert list(chain(*PlannedBatches(plan))) == list(range(num_sequences))


def test_several_processes_take_the_batches_in_turn(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = plan_batches(settings(**GROWING), 4)
    assert plan.micro_batches == 4
    batches = list(PlannedBatches(plan))
    first, second = batches[::2], batches[1::2]
    assert [len(batch) for batch in first] == [len(batch) for batch in second]
    assert sorted(chain(*batches)) == list(range(plan.num_sequences))


@pytest.mark.parametrize("with_teacher", [True, False])
def test_a_training_reads_what_the_plan_says(parts, tmp_path, with_teacher):
    folder, data, teacher = parts
    config = make_config(folder, train=GROWING | {"max_steps": 8})
    run = make_run(tmp_path)
    trainer = make_trainer(config, run, data, teacher if with_teacher else None, steps=8)
    seen: list[list[tuple[int, ...]]] = []
    collect = trainer.get_batch_samples

    def note(*arguments):
        batches, items = collect(*arguments)
        seen.append([tuple(batch["input_ids"].shape) for batch in batches])
        return batches, items

    trainer.get_batch_samples = note
    trainer.train()
    assert trainer.state.global_step == len(seen) == 8
    assert all(len(shapes) == 2 for shapes in seen)
    widths = [max(width for _, width in shapes) for shapes in seen]
    assert all(width <= length for width, length in zip(widths, [8, 8, 16, 16, 16, 16, 24, 24], strict=True))
    # at whole length a window is a row; at a third of it there are more rows of the same text
    assert [rows for rows, _ in seen[-1]] == [3, 3] and all(rows >= 3 for rows, _ in seen[0])
    plan = make_plan(config, run, data)
    (stage,) = plan.stages
    order = sequence_order(plan, stage)
    expected = sum(int((data.train.student_ids[row] >= 0).sum()) - 1 for row in order)
    assert trainer.read_counts()["tokens"] == expected, "pieces lose no token"


def test_whole_passes_read_every_sequence_alike(parts, tmp_path):
    folder, data, _ = parts
    config = make_config(folder, train={"max_steps": None, "num_epochs": 3, "batch_schedule": {0: 1, 0.5: 3}})
    plan = make_plan(config, make_run(tmp_path), data)
    (stage,) = plan.stages
    order = sequence_order(plan, stage)
    counts = Counter(order)
    assert len(order) == 3 * len(data.train) and set(counts.values()) == {3}
    assert rows_read(plan, stage) == set(range(len(data.train)))


def test_the_loss_of_pieces_is_that_of_their_tokens(parts, tmp_path):
    folder, data, teacher = parts
    config = make_config(folder, train={"length_schedule": {0: 8}})
    trainer = make_trainer(config, make_run(tmp_path), data, teacher)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[1] <= 8 < data.train.student_ids.shape[1]
    assert len(batch["windows"]) == len(batch["input_ids"]) > len(set(batch["windows"]))
    logits = trainer.model(input_ids=batch["input_ids"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="sum", ignore_index=-100)
    _, terms = trainer.compute_step(trainer.model, batch, None)
    assert terms["ce_loss"].item() == pytest.approx(nats.item() / (labels >= 0).sum().item(), rel=1e-4)
    assert terms["kd_loss"].item() > 0.0


def test_without_a_schedule_nothing_is_planned(parts, tmp_path):
    folder, data, _ = parts
    config = make_config(folder)
    trainer = make_trainer(config, run := make_run(tmp_path), data)
    assert trainer.train_dataset == range(len(data.train))
    plan = make_plan(config, run, data)
    assert sequence_order(plan, plan.stages[0]) is None
    assert train.make_trainer(plan, plan.stages[0], trainer.model, None).options.plan_of(6, 40) is None
