"""Students made of a mixture of experts, trained and saved, and a shared core in the two stages of seed 004."""

import json

import pytest
import torch

from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.student import open_start
from kdkit.distill.train import distill
from kdkit.models.loading import load_causal_lm
from kdkit.training.scoring import score_windows
from tests.tiny import make_config, make_data, make_plan, make_run, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

STAGES = [
    {
        "name": "stage1_adapters",
        "max_steps": 4,
        "parameter_lr_multipliers": [
            {"pattern": ".*wrapper.*", "lr_multiplier": 1.0},
            {"pattern": ".*", "lr_multiplier": 0.0},
        ],
    },
    {"name": "stage2_full", "max_steps": 4},
]


def train_student(folder, start, stages=()):
    """Train a student made of a small mixture; return the plan, its start, and it as it was saved."""
    config = make_config(folder, student={"build": {}, "from_teacher": start}, train={"stages": list(stages)})
    data = make_data(config, folder)
    path = save_teacher(data, folder / "teacher")
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"path": str(path)})})
    run = make_run(folder)
    plan = make_plan(config, run, data)
    teacher = open_teacher(plan)
    distill(plan, teacher)
    return plan, open_start(plan.session, data, teacher), load_causal_lm(str(run.path / "student"), "student")


@pytest.mark.parametrize("start", ["moe_to_dense", {"kind": "moe_to_moe", "others": "merge"}])
def test_a_student_of_experts_learns_and_is_saved(start, tmp_path):
    plan, start, student = train_student(tmp_path, start)
    levels = [score_windows(model, plan.data.evaluation, "student", 8).bits_per_byte for model in (start, student)]
    assert levels[1] < levels[0]
    facts = json.loads((plan.session.run.path / "start" / "start.json").read_text())
    assert len(facts["experts"]) == 2
    assert student.config.model_type == ("qwen3" if facts["kind"] == "moe_to_dense" else "qwen3_moe")


@pytest.mark.parametrize("stages", [STAGES[:1], STAGES], ids=["adapters", "both stages"])
def test_the_wrappers_learn_first_and_then_everything(stages, tmp_path):
    _, start, student = train_student(tmp_path, {"kind": "shared_core", "wrapper_rank": 2}, stages)
    assert student.config.compression_config["wrapper_rank"] == 2
    before, after = dict(start.named_parameters()), dict(student.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    learning = {name for name in before if "wrapper" in name} if stages == STAGES[:1] else set(before)
    assert moved == learning
