"""The options of a training beside every kind of teacher: several, cached, a judge of own text."""

import pytest
from safetensors.torch import load_file

from kdkit.config.language import config_from_values
from kdkit.distill import train
from kdkit.distill.open_teacher import open_teacher
from kdkit.errors import UserError
from kdkit.training.options.bundle import check_options
from tests.committees import committee_config
from tests.distill.test_stop import same_weights
from tests.tiny import make_config, make_data, make_plan, make_run, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {
    "optimizer": "muon",
    "average": {"kind": "ema", "decay": 0.5},
    "batch_schedule": {0: 2, 0.5: 4},
    "max_steps": 4,
    "log_every": 2,
}
FURTHER = {"multi_token": {"num_tokens": 1}}
OWN_TEXT = {"stages": [{"name": "own", "max_steps": 4, "on_policy": {"prompt_length": 4, "max_new_tokens": 4}}]}


def distilled(config, run, data):
    """Train the student of a configuration with its teacher."""
    plan = make_plan(config, run, data)
    return train.distill(plan, open_teacher(plan))


def settings_with(folder, kind: str, options: dict) -> dict:
    """Return a configuration of one kind of teacher, as values."""
    if kind == "several":
        return committee_config(folder, train=options).model_dump()
    values = make_config(folder, train=options | (OWN_TEXT if kind == "own text" else {})).model_dump()
    if kind == "cached":
        values["cache"]["enabled"] = True
    values["teacher"]["path"] = str(folder / "teacher")
    return values


@pytest.mark.parametrize("kind", ["one", "several", "cached", "own text"])
def test_they_act_beside_every_kind_of_teacher(tmp_path, kind):
    (tmp_path / "teacher").mkdir()
    save_teacher(make_data(make_config(tmp_path), tmp_path), tmp_path / "teacher")
    options = OPTIONS if kind == "own text" else OPTIONS | FURTHER
    config = config_from_values(settings_with(tmp_path, kind, options))
    plain = config_from_values(settings_with(tmp_path, kind, {"max_steps": 4, "log_every": 2}))
    data = make_data(config, tmp_path)
    run, other = make_run(tmp_path, "options"), make_run(tmp_path, "plain")
    assert distilled(config, run, data).steps == distilled(plain, other, data).steps == 4
    assert not same_weights(run, other, "student")
    shapes = [
        {name: value.shape for name, value in load_file(each.path / "student" / "model.safetensors").items()}
        for each in (run, other)
    ]
    assert shapes[0] == shapes[1]
    lines = [line for line in run.read_metrics() if line["phase"] == "student" and "loss" in line]
    assert [("multi_token_loss" in line) for line in lines] == [kind != "own text"] * 2
    assert "student_average" in run.read_json("training.json")


def test_pieces_of_conversations_are_refused():
    settings = config_from_values({"train": {"length_schedule": {0: 8}}}).train
    check_options(settings, is_chat=False)
    with pytest.raises(UserError, match=r"train.length_schedule: expected text, .* got conversations"):
        check_options(settings, is_chat=True)


def test_several_teachers_read_whole_sequences(tmp_path):
    with pytest.raises(UserError, match=r"may be read in pieces, got teachers.members, which needs whole ones"):
        committee_config(tmp_path, train={"length_schedule": {0: 8}})
