"""Seeds of teachers and students apart from that of the text: ensembles and chains of models that differ."""

import torch

from kdkit.distill.student import make_student
from kdkit.teachers.build import build_key
from tests.tiny import make_config, make_data, make_plan, make_run, make_session, make_trainer


def weights(config, data):
    """Return a student's weights as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in make_student(config, data).parameters()])


def test_a_students_own_seed_makes_other_weights_of_the_same_text(tmp_path):
    plain, other = make_config(tmp_path), make_config(tmp_path, train={"seed": 5})
    data, same = make_data(plain, tmp_path), make_data(other, tmp_path)
    assert data.key == same.key
    assert not torch.equal(weights(plain, data), weights(other, data))
    assert torch.equal(weights(other, data), weights(make_config(tmp_path, seed=5), data))
    assert torch.equal(weights(plain, data), weights(make_config(tmp_path, train={"seed": 0}), data))


def test_a_students_own_seed_makes_another_order_of_reading(tmp_path):
    orders = []
    for number, settings in enumerate(({}, {"seed": 0}, {"seed": 5})):
        config = make_config(tmp_path, train=settings | {"max_steps": None, "num_train_epochs": 1})
        data = make_data(config, tmp_path)
        trainer = make_trainer(config, make_run(tmp_path, f"run{number}"), data)
        orders.append(list(trainer.train_dataset))
    assert orders[0] == orders[1] != orders[2]


def test_the_seed_of_a_built_teacher_makes_another_teacher_and_none_the_one_it_was(tmp_path):
    keys = []
    for settings in ({}, {"seed": 0}, {"seed": 5}):
        build = {"vocab_size": 320, "hidden_size": 16, "num_layers": 2, "moe_intermediate_size": 16, **settings}
        config = make_config(tmp_path, teacher={"build": build})
        data = make_data(config, tmp_path)
        keys.append((build_key(make_session(config), data), data.key))
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[2][0] and keys[0][1] == keys[2][1]


def test_members_with_seeds_of_their_own_are_an_ensemble_of_one_tokenizer(tmp_path):
    build = {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "moe_intermediate_size": 16, "max_steps": 3}
    members = [{"name": f"t{seed}", "build": build | {"seed": seed}} for seed in (1, 2)]
    student = {"build": {"tokenizer": "teacher", "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}}
    config = make_config(tmp_path, teachers={"members": members, "combine": "averaged"}, student=student)
    data = make_data(config, tmp_path)
    plan = make_plan(config, make_run(tmp_path), data)  # refuses other tokenizers
    keys = {build_key(member.plan.session, member.plan.data) for member in plan.members}
    assert len(keys) == 2
