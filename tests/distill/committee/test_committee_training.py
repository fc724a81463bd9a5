"""Several teachers, one student: their lessons add up to what each alone would teach, weighted."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdkit.data.prepare import build_data, open_data
from kdkit.distill import train
from kdkit.distill.committee.manifest import MANIFEST_FILE, check_manifest, describe_committee
from kdkit.distill.committee.parts import make_committee_parts
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.student import make_student
from kdkit.distill.train import distill
from kdkit.errors import UserError
from kdkit.machine.interrupt import Stopped
from kdkit.runs.folder import Run
from tests.committees import committee_config
from tests.tiny import make_data, make_plan

ROWS = [0, 3, 5, 8]
NUM_ITEMS = 90


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("committee")


def open_committee(place, teachers=None, name="run", **changes):
    """Return the plan of a run with two teachers, and the teachers."""
    config = committee_config(place, teachers, **changes)
    plan = make_plan(config, _run(place, name), make_data(config, place))
    return plan, open_teacher(plan)


def _run(place, name):
    """Return a run folder, made if it is not there."""
    run = Run(place / "runs" / name, place / "cache")
    run.path.mkdir(parents=True, exist_ok=True)
    return run


def loss_and_gradient(plan, teacher, rows=ROWS):
    """Return the loss of one batch of a fresh student, its gradient and the logged terms."""
    student = make_student(plan.session.config, plan.data)
    trainer = train.make_trainer(plan, plan.stages[0], student, teacher)
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    with nullcontext() if teacher is None or trainer.parts is None else trainer.parts.student_taps:
        loss, terms = trainer.compute_step(trainer.model, batch, NUM_ITEMS)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in student.parameters()])
    return loss.item(), gradient, {name: float(value.detach()) for name, value in terms.items()}


def alone(committee, rows=ROWS):
    """Return loss and gradient of each teacher's own training."""
    pairs = zip(committee.members, committee.teachers, strict=True)
    return [loss_and_gradient(member.plan, teacher, rows) for member, teacher in pairs]


WEIGHTED = [3.0, 1.0]
CACHED = {"cache": {"enabled": True, "top_k": 16, "sequences": "all"}}
PARTS = {"distill": {"weights": {"feature": 0.2, "attention": 0.1, "contrastive": 0.1}}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cache": {"enabled": True, "top_k": 16, "sequences": "all"}},
        {"distill": {"loss": "alm"}},
        {"distill": {"loss": "uld"}},
        PARTS,
    ],
    ids=["auto", "cached", "alm", "uld", "layers"],
)
def test_the_sum_is_the_weighted_sum_of_the_single_losses_and_gradients(place, changes):
    members = committee_config(place).model_dump()["teachers"]["members"]
    for member, weight in zip(members, WEIGHTED, strict=True):
        member["weight"] = weight
    plan, committee = open_committee(place, {"members": members}, **changes)
    loss, gradient, terms = loss_and_gradient(plan, committee)
    singles = alone(committee)
    shares = np.array(WEIGHTED) / sum(WEIGHTED)
    assert loss == pytest.approx(sum(w * single[0] for w, single in zip(shares, singles, strict=True)), rel=1e-5)
    expected = sum(w * single[1] for w, single in zip(shares, singles, strict=True))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert terms["ce_loss"] == pytest.approx(singles[0][2]["ce_loss"], rel=1e-5)
    for member, single in zip(committee.members, singles, strict=True):
        assert terms[f"{member.name}_loss"] == pytest.approx(single[2]["kd_loss"], rel=1e-5)


def test_teachers_with_other_losses_in_one_committee(place):
    members = committee_config(place).model_dump()["teachers"]["members"]
    members[0]["loss"], members[1]["loss"] = "cdm", {"name": "overlap_kl", "divergence": "reverse_kl"}
    plan, committee = open_committee(place, {"members": members})
    assert [member.plan.loss.name for member in committee.members] == ["cdm", "overlap_kl"]
    loss, gradient, _ = loss_and_gradient(plan, committee)
    singles = alone(committee)
    assert loss == pytest.approx(sum(single[0] for single in singles) / 2, rel=1e-5)
    torch.testing.assert_close(gradient, sum(single[1] for single in singles) / 2, rtol=1e-4, atol=1e-6)


def test_a_window_taught_by_one_teacher_alone_is_its_single_loss(place):
    plan, committee = open_committee(place)
    for number, single in enumerate(alone(committee)):
        shares = np.zeros_like(committee.shares)
        shares[..., number] = 1.0
        loss, gradient, _ = loss_and_gradient(plan, replace(committee, shares=shares))
        assert loss == pytest.approx(single[0], rel=1e-5)
        torch.testing.assert_close(gradient, single[1], rtol=1e-4, atol=1e-6)


def test_sequences_of_one_batch_may_have_other_teachers(place):
    """Sequence by sequence: the loss is the sum of what their own teachers make of them."""
    plan, committee = open_committee(place)
    shares = np.zeros_like(committee.shares)
    shares[ROWS[:2], :, 0] = shares[ROWS[2:], :, 1] = 1.0
    loss, gradient, _ = loss_and_gradient(plan, replace(committee, shares=shares))
    first = loss_and_gradient(committee.members[0].plan, committee.teachers[0], ROWS[:2])
    second = loss_and_gradient(committee.members[1].plan, committee.teachers[1], ROWS[2:])
    assert loss == pytest.approx(first[0] + second[0], rel=1e-5)
    torch.testing.assert_close(gradient, first[1] + second[1], rtol=1e-4, atol=1e-6)


def test_where_nobody_teaches_there_is_cross_entropy(place):
    plan, committee = open_committee(place)
    loss, gradient, terms = loss_and_gradient(plan, replace(committee, shares=np.zeros_like(committee.shares)))
    baseline = loss_and_gradient(plan, None)
    assert loss == pytest.approx(baseline[0], rel=1e-5)
    torch.testing.assert_close(gradient, baseline[1], rtol=1e-4, atol=1e-6)
    assert terms["kd_loss"] == 0.0


def test_an_average_of_equal_teachers_is_one_of_them(place):
    build = {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "moe_intermediate_size": 16, "max_steps": 2}
    members = [{"name": "one", "build": build}, {"name": "two", "build": build}]
    plan, committee = open_committee(place, {"members": members, "combine": "averaged"})
    loss, gradient, _ = loss_and_gradient(plan, committee)
    single = alone(committee)[0]
    assert loss == pytest.approx(single[0], rel=1e-5)
    torch.testing.assert_close(gradient, single[1], rtol=1e-4, atol=1e-6)


def test_without_one_of_its_teachers_the_student_becomes_another(place):
    plan, committee = open_committee(place, name="both")
    distill(plan, committee)
    both = (plan.session.run.path / "student" / "model.safetensors").read_bytes()
    members = committee_config(place).model_dump()["teachers"]["members"][:1]
    plan, committee = open_committee(place, {"members": members}, name="one")
    distill(plan, committee)
    assert both != (plan.session.run.path / "student" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("changes", [{}, PARTS], ids=["predictions", "layers"])
def test_a_training_that_was_stopped_goes_on_exactly(place, changes, monkeypatch):
    name = f"exact-{len(changes)}"
    changes = changes | {"train": {"log_every": 2}}
    plan, committee = open_committee(place, {"combine": "select"}, name=name, **changes)
    distill(plan, committee)
    weights = (plan.session.run.path / "student" / "model.safetensors").read_bytes()
    lines = [line for line in plan.session.run.read_metrics() if line["phase"] == "teachers"]
    plan, committee = open_committee(place, {"combine": "select"}, name=f"{name}-again", **changes)
    _stop_after(monkeypatch, 3)
    with pytest.raises(Stopped):
        distill(plan, committee)
    monkeypatch.undo()
    distill(plan, committee, resume=True)
    assert (plan.session.run.path / "student" / "model.safetensors").read_bytes() == weights
    assert [line for line in plan.session.run.read_metrics() if line["phase"] == "teachers"] == lines


def _stop_after(monkeypatch, step):
    """Let a user stop the training behind a step."""
    before = train.StopAtStep.on_step_end

    def stop(self, args, state, control, **kwargs):
        if state.global_step == step:
            self.request.wanted = True
        before(self, args, state, control, **kwargs)

    monkeypatch.setattr(train.StopAtStep, "on_step_end", stop)


def test_every_checkpoint_names_the_teachers_and_refuses_others(place, monkeypatch):
    plan, committee = open_committee(place, name="manifest")
    _stop_after(monkeypatch, 3)
    with pytest.raises(Stopped):
        distill(plan, committee)
    monkeypatch.undo()
    checkpoint = plan.session.run.path / "checkpoints" / "student" / "checkpoint-3"
    manifest = json.loads((checkpoint / MANIFEST_FILE).read_text())
    assert list(manifest["members"]) == ["farmer", "sailor"] and manifest["combine"] == "sum"
    check_manifest(checkpoint, describe_committee(plan))
    members = committee_config(place).model_dump()["teachers"]["members"]
    members[1]["weight"] = 2.0
    other, committee = open_committee(place, {"members": members}, name="manifest")
    with pytest.raises(UserError, match=r"sailor\.weight: 1\.0 -> 2\.0"):
        distill(other, committee, resume=True)
    with pytest.raises(UserError, match="sailor is gone"):
        check_manifest(checkpoint, {**manifest, "members": {"farmer": manifest["members"]["farmer"]}})


def test_the_log_says_who_taught_which_kind(place):
    members = committee_config(place).model_dump()["teachers"]["members"]
    members[0]["sources"], members[1]["sources"] = ["land"], ["sea"]
    settings = {"members": members, "combine": "select", "select_by": "source"}
    plan, committee = open_committee(place, settings, name="log")
    result = distill(plan, committee)
    lines = [line["tokens"] for line in plan.session.run.read_metrics() if line["phase"] == "teachers"]
    assert all(line["farmer"]["sea"] == line["sailor"]["land"] == 0.0 for line in lines)
    assert sum(sum(of_kind.values()) for line in lines for of_kind in line.values()) == result.tokens


def test_on_policy_stages_and_caches_of_other_losses_are_refused_with_the_teacher(place):
    stages = {"train": {"stages": [{"name": "own", "max_steps": 2, "on_policy": {"max_new_tokens": 4}}]}}
    config = committee_config(place, **stages)
    with pytest.raises(UserError, match="on-policy stage 'own'"):
        make_plan(config, _run(place, "x"), make_data(config, place))
    members = committee_config(place).model_dump()["teachers"]["members"]
    members[1] |= {"loss": "uld", "cached": True}
    config = committee_config(place, {"members": members})
    with pytest.raises(UserError, match=r"teachers\.members\.sailor: distill\.loss: .*uld"):
        make_plan(config, _run(place, "x"), make_data(config, place))


def test_teachers_of_two_tokenizers_are_not_averaged(place):
    config = committee_config(place, {"combine": "averaged"})
    with pytest.raises(UserError, match="one tokenizer for 'averaged'"):
        make_plan(config, _run(place, "x"), make_data(config, place))


def test_layer_parts_need_hidden_states_that_a_cache_lacks(place):
    plan, committee = open_committee(place, cache={"enabled": True, "top_k": 16}, **PARTS)
    with pytest.raises(UserError, match=r"teachers\.members\.farmer: distill\.weights"):
        distill(plan, committee)


def test_a_layer_map_per_teacher_by_name_in_settings_or_a_file(place):
    maps = {"farmer": {"0": 0}, "sailor": {"2": 0}}
    (place / "layers.json").write_text(json.dumps(maps))
    for setting in (maps, str(place / "layers.json")):
        distill_settings = {"layer_map": setting, "weights": {"feature": 0.1}}
        plan, committee = open_committee(place, distill=distill_settings)
        parts = make_committee_parts(make_student(plan.session.config, plan.data), committee)
        assert {name: part.pairs for name, part in parts.of.items()} == {"farmer": [(0, 0)], "sailor": [(0, 2)]}


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"farmer": {"0": 0}}, r"members\.sailor: distill\.layer_map: .*'sailor', got entries for farmer"),
        ({"farmer": {"7": 0}, "sailor": {"0": 0}}, r"members\.farmer: distill\.layer_map: .*teacher layer out of 0, 1"),
        ({"farmer": {"0": 0}, "sailor": {"0": 4}}, r"members\.sailor: distill\.layer_map: .*student layer out of 0"),
        ({"farmer": {"0": 0}, "sailr": {"0": 0}, "sailor": {"0": 0}}, r"'sailr'; did you mean 'sailor'\?"),
        ({"farmer": {"0": 0}, "sailor": {"0": 0}, "build": {"0": 0}}, r"farmer, sailor, got one for 'build'; leave it"),
    ],
)
def test_a_layer_map_of_an_unknown_teacher_or_layer_is_refused_before_anything_is_trained(place, maps, message):
    config = committee_config(place, distill={"layer_map": maps})
    with pytest.raises(UserError, match=message):
        make_plan(config, _run(place, "refused"), make_data(config, place))


def test_a_layer_that_there_is_not_is_refused_in_the_map_of_a_member(place):
    config = committee_config(place)
    members = [member.model_dump() for member in config.teachers.members]
    members[1]["layer_map"] = {"3": 0}
    with pytest.raises(UserError, match=r"^teachers\.members\.sailor: .*teacher layer out of 0, 1, 2, got 3"):
        make_plan(committee_config(place, {"members": members}), _run(place, "x"), make_data(config, place))


def test_a_teacher_that_visits_says_the_same(place):
    plan, committee = open_committee(place)
    visiting, others = open_committee(place, {"resident": "one"})
    loss, gradient, _ = loss_and_gradient(plan, committee)
    again, same, _ = loss_and_gradient(visiting, others)
    assert loss == again and torch.equal(gradient, same)


def test_one_teacher_of_several_teaches_alone_on_the_same_windows(place):
    whole = make_data(committee_config(place), place)
    config = committee_config(place, {"only": "sailor"})
    data = open_data(build_data(config, place / "cache"), "sailor")
    plan = make_plan(config, _run(place, "alone"), data)
    assert not plan.members and config.teacher.build.num_layers == 3
    assert np.array_equal(data.train.student_ids, whole.train.student_ids)
    assert np.array_equal(data.train.teacher_ids, whole.members["sailor"].train.teacher_ids)
