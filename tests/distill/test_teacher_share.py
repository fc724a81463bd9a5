"""A teacher for a share of the steps, and a start from its embeddings: both act, the baseline stays as it is."""

import pytest
import torch

from kdkit.config.language import config_from_values
from kdkit.distill import train
from kdkit.errors import UserError
from kdkit.models.loading import load_causal_lm
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher, make_trainer


@pytest.fixture
def given(tmp_path):
    config = make_config(tmp_path, train={"log_every": 1, "max_steps": 6})
    data = make_data(config, tmp_path)
    return config, data, make_teacher(data)


def change(config, **distill):
    return config.model_copy(update={"distill": config.distill.model_copy(update=distill)})


def lines(trainer):
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize(("share", "taught"), [(0.5, 3), (0.4, 3), (0.34, 3), (0.1, 1), (1.0, 6)])
def test_the_teacher_is_queried_in_the_first_share_of_the_steps(given, tmp_path, share, taught, monkeypatch):
    config, data, teacher = given
    trainer = make_trainer(change(config, teacher_share=share), make_run(tmp_path), data, teacher, steps=6)
    queried = []
    answer = trainer.teacher.answer
    monkeypatch.setattr(trainer.teacher, "answer", lambda *a: queried.append(trainer.state.global_step) or answer(*a))
    logged = lines(trainer)
    assert sorted(set(queried)) == list(range(taught))
    assert ["kd_loss" in line for line in logged] == [True] * taught + [False] * (6 - taught)
    for line in logged[taught:]:
        assert line["loss"] == pytest.approx(line["ce_loss"], rel=1e-4)


def test_steps_without_the_teacher_are_those_of_the_baseline(given, tmp_path):
    """From one state, a step after the share moves the student as cross-entropy alone does."""
    config, data, teacher = given
    taught = make_trainer(change(config, teacher_share=0.1), make_run(tmp_path, "a"), data, teacher, steps=20)
    alone = make_trainer(config, make_run(tmp_path, "b"), data, None, steps=20)
    taught.state.global_step = 5
    batch = taught.data_collator([0, 1, 2])
    plain = alone.data_collator([0, 1, 2])
    loss, _ = taught.compute_step(taught.model, batch, 30)
    expected, _ = alone.compute_step(alone.model, plain, 30)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_term_is_averaged_over_the_steps_that_have_it(given, tmp_path):
    config, data, teacher = given
    every = change(config, teacher_share=0.5)
    each = lines(make_trainer(every, make_run(tmp_path, "each"), data, teacher, steps=6))
    rare = every.model_copy(update={"train": every.train.model_copy(update={"log_every": 6})})
    (all_steps,) = lines(make_trainer(rare, make_run(tmp_path, "rare"), data, teacher, steps=6))
    assert all_steps["kd_loss"] == pytest.approx(sum(line["kd_loss"] for line in each[:3]) / 3, rel=1e-3)
    assert all_steps["ce_loss"] == pytest.approx(sum(line["ce_loss"] for line in each) / 6, rel=1e-3)


def test_a_start_from_the_teacher_changes_the_student_and_not_the_baseline(given, tmp_path, capsys):
    config, data, teacher = given
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"max_steps": 1, "learning_rate": 1e-9})}
    )
    models = {}
    for name, started in (("own", False), ("teacher's", True)):
        plan = make_plan(change(config, start_from_teacher=started), run := make_run(tmp_path, name[:3]), data)
        train.distill(plan, teacher)
        train.train_baseline(plan)
        for phase in ("student", "baseline"):
            model = load_causal_lm(str(run.path / phase), "student.path")
            models[name, phase] = model.get_input_embeddings().weight.detach()
    assert torch.allclose(models["own", "baseline"], models["teacher's", "baseline"])
    assert torch.allclose(models["own", "student"], models["own", "baseline"], atol=1e-6)
    assert not torch.allclose(models["own", "student"], models["teacher's", "student"], atol=1e-3)
    assert "tokens start from the teacher's" in capsys.readouterr().out


def test_a_pretrained_student_is_not_started_anew(tmp_path, given):
    config, data, _ = given
    changed = change(config, start_from_teacher=True)
    changed = changed.model_copy(update={"student": changed.student.model_copy(update={"path": "some/model"})})
    with pytest.raises(UserError, match=r"start_from_teacher: expected a student built here, got .*'some/model'"):
        make_plan(changed, make_run(tmp_path), data)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"distill\.teacher_share"):
        config_from_values({"distill": {"teacher_share": 0.0}})
