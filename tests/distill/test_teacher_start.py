"""A start from the teacher's embeddings changes the student and leaves the baseline alone."""

import pytest
import torch

from kdkit.distill import train
from kdkit.errors import UserError
from kdkit.models.loading import load_causal_lm
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher


@pytest.fixture
def given(tmp_path):
    config = make_config(tmp_path, train={"log_every": 1, "max_steps": 6})
    data = make_data(config, tmp_path)
    return config, data, make_teacher(data)


def change(config, **distill):
    return config.model_copy(update={"distill": config.distill.model_copy(update=distill)})


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
    with pytest.raises(
        UserError, match=r"start_from_teacher: expected a student built here from random weights, got .*'some/model'"
    ):
        make_plan(changed, make_run(tmp_path), data)
