"""The overlap that a training logs is that of the two models on its batch, and measuring it changes nothing."""

import pytest
import torch

from kdkit.distill import open_teacher as source
from kdkit.distill import train as stage
from kdkit.distill.student import make_student
from kdkit.losses.chunked.overlap import NAMES, top_k_overlap
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher, make_trainer, save_teacher

ONE = {"build": {"tokenizer": "teacher", "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}}


def train(folder, name="run", teacher=None, **changes):
    """Train a student for six steps; return its logged lines."""
    config = make_config(folder, **changes)
    data, run = make_data(config, folder), make_run(folder, name)
    teacher = teacher(data) if teacher else make_teacher(data)
    stage.distill(make_plan(config, run, data), teacher)
    return [line for line in run.read_metrics() if line["phase"] == "student" and "loss" in line]


@torch.no_grad()
def compared(student, teacher, data, batch, top_k):
    """Return the means over a batch where both models read with one tokenizer, from their whole logits."""
    rows = [
        model(input_ids=batch[key]).logits[:, :-1].flatten(0, 1)
        for model, key in ((student, "input_ids"), (teacher.model, "teacher_input_ids"))
    ]
    counted = (batch["labels"][:, 1:] != -100).flatten()
    mine, theirs = (part[counted].float().log_softmax(dim=-1) for part in rows)
    return top_k_overlap(mine, theirs, top_k).mean(dim=0)


def test_with_one_tokenizer_it_is_what_the_whole_logits_say(tmp_path):
    config = make_config(tmp_path, student=ONE, train={"gradient_accumulation_steps": 1})
    data, run = make_data(config, tmp_path), make_run(tmp_path)
    teacher = make_teacher(data)
    batches = []
    trainer = make_trainer(config, run, data, teacher, steps=1)
    compute = trainer.compute_step
    trainer.compute_step = lambda model, inputs, count: batches.append(inputs) or compute(model, inputs, count)
    logged = []
    trainer.log = lambda logs, start=None: logged.append(dict(trainer.overlap_values))
    trainer.train()
    expected = compared(make_student(config, data), teacher, data, batches[0], config.distill.overlap_top_k)
    found = torch.tensor([logged[0][name] for name in NAMES])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert 0 < expected[0] < 1


@pytest.mark.parametrize("loss", ["projected_kl", "overlap_kl", "alm", "uld"])
def test_with_two_tokenizers_any_loss_has_it_beside(tmp_path, loss):
    lines = train(tmp_path, distill={"loss": loss})
    values = [[line[name] for name in NAMES] for line in lines]
    assert len(values) == 6
    assert all(0 <= share <= 1 and 0 <= theirs <= 1 and 0 <= mine <= 1 for share, theirs, mine, _ in values)
    assert len({tuple(row) for row in values}) == 6  # measured anew


def test_it_is_measured_in_steps_that_are_logged(tmp_path):
    lines = train(tmp_path, train={"log_every": 3})
    assert [line["step"] for line in lines] == [3, 6]
    assert all(set(NAMES) <= set(line) for line in lines)


def test_measuring_changes_nothing_in_the_training(tmp_path):
    with_it, without = (train(tmp_path, f"k{k}", distill={"overlap_top_k": k}) for k in (8, 0))
    assert not any(name.startswith("overlap_") for line in without for name in line)
    assert [line["loss"] for line in with_it] == [line["loss"] for line in without]
    assert [line["grad_norm"] for line in with_it] == [line["grad_norm"] for line in without]


def lines_from_cache(folder, **cache):
    config = make_config(folder, student=ONE)
    path = str(save_teacher(make_data(config, folder), folder / "teacher"))
    config = make_config(folder, student=ONE, teacher={"path": path}, cache={"enabled": True, **cache})
    data, run = make_data(config, folder), make_run(folder)
    plan = make_plan(config, run, data)
    stage.distill(plan, source.open_teacher(plan))
    cached = [line for line in run.read_metrics() if line["phase"] == "student" and "loss" in line]
    config = make_config(folder, student=ONE, teacher={"path": path})
    run = make_run(folder, "online")
    plan = make_plan(config, run, data)
    stage.distill(plan, source.open_teacher(plan))
    return cached, [line for line in run.read_metrics() if line["phase"] == "student" and "loss" in line]


def test_a_cache_of_the_most_likely_tokens_gives_the_same_share_and_masses(tmp_path):
    cached, online = lines_from_cache(tmp_path, top_k=300)
    for name in NAMES[:3]:
        assert cached[0][name] == pytest.approx(online[0][name], abs=2e-3)  # kept in fp16


def test_a_cache_of_drawn_tokens_does_not_know_the_most_likely_ones(tmp_path):
    cached, _ = lines_from_cache(tmp_path, mode="sampled", num_samples=5)
    assert not any(name.startswith("overlap_") for line in cached for name in line)
