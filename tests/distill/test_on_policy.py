"""The on-policy stage: the teacher's term alone judges what the student wrote, in a loss and in whole trainings."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.distill import train
from kdkit.distill.student import make_student
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.runs.folder import Run
from kdkit.training.progress import Progress
from kdkit.training.trainer import LanguageModelTrainer
from tests.distill.own_text import PROMPT, batches_of, long_rows, on_policy, writes
from tests.tiny import make_plan, make_run

pytestmark = pytest.mark.usefixtures("one_thread")

# what is in the loss


@pytest.mark.parametrize("name", ["same", "two"])
def test_only_the_students_own_tokens_are_in_the_loss(trainer_of, name):
    trainer = trainer_of(name)
    batches, num_items, _ = batches_of(trainer)
    for batch in batches:
        assert (batch["labels"][:, : 1 + PROMPT] == IGNORE_INDEX).all()
        own = batch["labels"][:, 1 + PROMPT :]
        assert (own != IGNORE_INDEX).any()
        assert torch.equal(own[own != IGNORE_INDEX], batch["input_ids"][:, 1 + PROMPT :][own != IGNORE_INDEX])
    assert num_items == sum((batch["labels"] != IGNORE_INDEX).sum() for batch in batches)


def test_the_number_of_items_is_counted_after_writing(trainer_of, monkeypatch):
    trainer = trainer_of("same")
    word = trainer.data.student_tokenizer(" fox").input_ids
    writes(monkeypatch, trainer, word * 3)
    _, num_items, given = batches_of(trainer)
    assert num_items == sum(len(long_rows(batch)) for batch in given) * 3 * len(word)
    assert num_items != sum((batch["labels"] != IGNORE_INDEX).sum() for batch in given)


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl"])
def test_the_loss_on_own_text_is_the_divergence_at_its_tokens_alone(trainer_of, parts_of, loss):
    trainer, teacher = trainer_of("same", loss=loss, kd_ratio=0.2), parts_of["same"][2]
    (batch, *_), _, _ = batches_of(trainer, 1)
    got, terms = trainer.compute_step(trainer.model, batch, 37)
    student_logits = trainer.model(input_ids=batch["input_ids"]).logits.double()
    p = torch.log_softmax(teacher.model(input_ids=batch["input_ids"]).logits.double(), dim=-1)
    q = torch.log_softmax(student_logits, dim=-1)
    first, second = (p, q) if loss == "forward_kl" else (q, p)
    values = (first.exp() * (first - second)).sum(dim=-1)
    counted = batch["labels"][:, 1:] != IGNORE_INDEX
    expected = values[:, :-1][counted].sum() / 37
    # kd_ratio weighs the teacher's term against cross-entropy, of which there is none here
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["kd_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    got.backward()
    (expected_gradient,) = torch.autograd.grad(expected, trainer.model.lm_head.weight)
    assert torch.allclose(trainer.model.lm_head.weight.grad, expected_gradient.float(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "loss"), [("two", "overlap_kl"), ("two", "projected_kl"), ("two", "alm"), ("two", "uld"), ("same", "jsd")]
)
def test_there_is_no_cross_entropy_on_own_text(trainer_of, name, loss):
    trainer = trainer_of(name, loss=loss, kd_ratio=0.2)
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    got, terms = trainer.compute_step(trainer.model, batch, num_items)
    assert got.item() == pytest.approx(terms["kd_loss"].item(), rel=1e-6) and got.item() > 0
    assert terms["ce_loss"].item() > 0  # logged, and not in the loss


def test_where_the_teacher_is_not_asked_the_own_text_teaches_nothing(trainer_of, monkeypatch):
    """Rows without a partner keep their cross-entropy on text of the data, and have no gradient on own text."""
    trainer = trainer_of("two", loss="overlap_kl")
    writes(monkeypatch, trainer, trainer.data.student_tokenizer(" lazy wizards jump over trees").input_ids)
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    trainer.compute_step(trainer.model, batch, num_items)[0].backward()
    spans = batch["spans"]
    asked = spans.student_rows[spans.student_starts[:-1][spans.same_token]]
    labels = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    asked = asked[labels[asked] != IGNORE_INDEX]
    counted = (labels != IGNORE_INDEX).sum()
    assert 0 < len(asked) < counted
    student = trainer.model(input_ids=batch["input_ids"]).logits.flatten(0, 1)
    student.retain_grad()
    # a reference with the gradient of each row apart
    overlap = trainer.data.overlap
    chosen = student[asked][:, torch.from_numpy(overlap.student_ids)].log_softmax(dim=-1)
    teacher_rows = spans.teacher_rows[spans.teacher_starts[:-1][spans.same_token]]
    kept = torch.isin(spans.student_rows[spans.student_starts[:-1][spans.same_token]], asked)
    teacher = trainer.teacher.model(input_ids=batch["teacher_input_ids"]).logits.flatten(0, 1)[teacher_rows[kept]]
    p = teacher[:, torch.from_numpy(overlap.teacher_ids)].log_softmax(dim=-1)
    expected = (p.exp() * (p - chosen)).sum() / num_items
    gradient = trainer.model.lm_head.weight.grad.clone()
    trainer.model.zero_grad()
    expected.backward()
    assert torch.allclose(gradient, trainer.model.lm_head.weight.grad, atol=1e-6)


def test_text_of_the_data_keeps_the_blend_of_the_stage(trainer_of):
    trainer = trainer_of("same", kd_ratio=0.2)
    own, num_items, given = batches_of(trainer, 1)
    trainer.compute_step(trainer.model, own[0], num_items)
    got, terms = trainer.compute_step(trainer.model, given[0], 50)
    assert got.item() == pytest.approx(0.8 * terms["ce_loss"].item() + 0.2 * terms["kd_loss"].item(), rel=1e-5)


# whole trainings


def read(run: Run) -> tuple[list, dict[str, torch.Tensor]]:
    names = ("step", "loss", "ce_loss", "kd_loss", "grad_norm")
    lines = [[line[name] for name in names] for line in run.read_metrics() if "loss" in line]
    return lines, AutoModelForCausalLM.from_pretrained(run.path / "student").state_dict()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("same", {"loss": "reverse_kl"}),
        ("two", {}),
        ("two", {"loss": {"name": "overlap_kl", "divergence": "jsd"}, "share": 0.5}),
    ],
)
def test_a_resumed_training_writes_what_an_uninterrupted_one_would(parts_of, tmp_path, monkeypatch, name, changes):
    config, data, teacher = parts_of[name]
    config = on_policy(config, **changes)
    config = config.model_copy(update={"train": config.train.model_copy(update={"save_every": 2})})
    whole, broken = make_run(tmp_path, "whole"), make_run(tmp_path, "broken")
    train.distill(make_plan(config, whole, data), teacher)
    on_step_end = Progress.on_step_end

    def stop(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", stop)
        train.distill(make_plan(config, broken, data), teacher)
    train.distill(make_plan(config, broken, data), teacher, resume=True)
    (expected, expected_weights), (got, got_weights) = read(whole), read(broken)
    assert got == expected and len(got) == 4
    assert all(torch.equal(value, expected_weights[key]) for key, value in got_weights.items())
    if changes.get("share", 1.0) == 1.0:
        assert all(line[1] == pytest.approx(line[3], rel=1e-5) for line in got)


def test_the_student_comes_nearer_to_the_teacher_on_its_own_text(parts_of, tmp_path):
    config, data, teacher = parts_of["same"]
    config = on_policy(config, loss="reverse_kl", max_steps=20, learning_rate=0.03)
    train.distill(make_plan(config, run := make_run(tmp_path), data), teacher)
    losses = [line[3] for line in read(run)[0]]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_baseline_of_an_on_policy_stage_reads_the_data(parts_of, tmp_path):
    config, data, _ = parts_of["two"]
    config = on_policy(config)
    plan = make_plan(config, make_run(tmp_path), data)
    student = make_student(config, data)
    trainer = train.make_trainer(plan, plan.stages[0], student, None, "baseline")
    assert type(trainer) is LanguageModelTrainer
