"""Several teachers of conversations: trained, stopped, evaluated, masked; and a teacher of one's own among them."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdkit.config.language import dump_config
from kdkit.data.prepare import build_data, identify_text_of_teacher, open_data, prepare_data, text_of_teacher
from kdkit.data.windows import PAD
from kdkit.distill import train
from kdkit.distill.on_policy import OnPolicyTrainer
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import view_of
from kdkit.distill.student import make_student
from kdkit.distill.train import distill, train_baseline
from kdkit.errors import UserError
from kdkit.evaluate.evaluation import evaluate_run
from kdkit.evaluate.kinds import MEAN
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.machine.interrupt import Stopped
from kdkit.report.page import write_report
from kdkit.runs.folder import Run, describe_environment
from kdkit.teachers.prepare import prepare_teacher
from tests.committee_chats import LINES, chat_committee
from tests.distill.test_stop import press_at
from tests.teachers.test_own_teacher import CODE
from tests.tiny import make_data, make_plan, make_session, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = [0, 3, 5, 8]
MASKED = {"train": {"masking": {"enabled": True, "share": 0.4, "dropped_from": "loss"}}}
FILLED = {"train": {"masking": {"enabled": True, "share": 0.4}}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("chats")


def open_committee(place, teachers=None, name="run", **changes):
    """Return the plan of a run with two teachers, and the teachers."""
    config = chat_committee(place, teachers, **changes)
    run = Run(place / "runs" / name, place / "cache")
    run.path.mkdir(parents=True, exist_ok=True)
    plan = make_plan(config, run, make_data(config, place))
    return plan, open_teacher(plan)


def step_of(plan, teacher):
    """Return loss, gradient and terms of the first step on some rows, masked as the settings say."""
    student = make_student(plan.session.config, plan.data)
    trainer = train.make_trainer(plan, plan.stages[0], student, teacher)
    batch = trainer._prepare_inputs(trainer.data_collator(ROWS))
    if trainer.masking is not None:
        trainer.masking.apply([batch], (0, 1))
    with nullcontext() if trainer.parts is None else trainer.parts.student_taps:
        loss, terms = trainer.compute_step(trainer.model, batch, 90)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in student.parameters()])
    return loss.item(), gradient, terms, batch


def weights_of(plan):
    return load_file(plan.session.run.path / "student" / "model.safetensors")


def lines_of(plan):
    return [line["tokens"] for line in plan.session.run.read_metrics() if line["phase"] == "teachers"]


@pytest.mark.parametrize("changes", [{}, MASKED, FILLED], ids=["plain", "left out", "filled"])
def test_the_sum_of_two_is_the_mean_of_what_each_alone_teaches(place, changes):
    plan, committee = open_committee(place, **changes)
    loss, gradient, _, batch = step_of(plan, committee)
    singles = [step_of(m.plan, t) for m, t in zip(committee.members, committee.teachers, strict=True)]
    assert loss == pytest.approx(sum(single[0] for single in singles) / 2, rel=1e-5)
    torch.testing.assert_close(gradient, sum(single[1] for single in singles) / 2, rtol=1e-4, atol=1e-6)
    whole = plan.data.train.labels(ROWS).sum()
    if changes == MASKED:
        assert batch["counted"].sum() == (batch["labels"] != IGNORE_INDEX).sum() < 0.7 * whole
    else:
        assert batch["counted"].sum() == whole
        assert ("masked_input_ids" in batch) == (changes == FILLED)


@pytest.mark.parametrize("changes", [{}, MASKED], ids=["plain", "masked"])
@pytest.mark.parametrize("combine", ["sum", "select"])
def test_a_training_on_conversations_resumes_exactly_and_says_who_taught(place, combine, changes, monkeypatch):
    name = f"{combine}-{len(changes)}"
    plan, committee = open_committee(place, {"combine": combine}, name=name, **changes)
    result = distill(plan, committee)
    lines = lines_of(plan)
    assert sum(sum(of_kind.values()) for line in lines for of_kind in line.values()) == pytest.approx(
        result.tokens, abs=0.02 * 4 * len(lines)
    )
    assert all(sum(line["farmer"].values()) > 0 for line in lines) or combine == "select"
    again, committee = open_committee(place, {"combine": combine}, name=f"{name}-again", **changes)
    press_at(monkeypatch, 3)
    with pytest.raises(Stopped):
        distill(again, committee)
    monkeypatch.undo()
    distill(again, committee, resume=True)
    expected = weights_of(plan)
    assert all(torch.equal(expected[key], value) for key, value in weights_of(again).items())
    assert lines_of(again) == lines


def test_a_run_on_conversations_is_evaluated_kind_by_kind(place):
    config = chat_committee(
        place, {"combine": "select"}, distill={"equal_time_baseline": False}, evaluate={"num_answers": 3}
    )
    run = Run(place / "runs" / "evaluated", place / "cache")
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text(dump_config(config))
    run.write_json("env.json", describe_environment())
    plan = make_plan(config, run, prepare_data(make_session(config, run)))
    distill(plan, open_teacher(plan))
    train_baseline(plan)
    session, data = plan.session, plan.data
    evaluation = evaluate_run(session, data, prepare_teacher(*view_of(session, data)))
    by_kind = evaluation["by_kind"]
    assert list(by_kind) == ["land", "sea", MEAN] and set(by_kind["sea"]) == {
        "farmer", "sailor", "student", "baseline",
    }  # fmt: skip
    sizes = [int(data.evaluation.num_bytes[data.kinds.evaluation == kind].sum()) for kind in (0, 1)]
    levels = [by_kind[kind]["student"]["bits_per_byte"] for kind in ("land", "sea")]
    mean = np.dot(levels, sizes) / sum(sizes)
    assert mean == pytest.approx(evaluation["models"]["student"]["bits_per_byte"], rel=1e-5)
    page = write_report(run).read_text()
    assert "Who taught what" in page and "teacher sailor" in page


def test_one_of_the_teachers_judges_the_students_own_answers(place, tmp_path):
    stages = [{"name": "own", "max_steps": 2, "loss": "alm", "on_policy": {"max_new_tokens": 6}}]
    config = chat_committee(place, {"only": "sailor"}, train={"stages": stages})
    data = open_data(build_data(config, place / "cache"), "sailor")
    run = Run(tmp_path / "run", place / "cache")
    run.path.mkdir()
    plan = make_plan(config, run, data)
    teacher = open_teacher(plan)
    trainer = train.make_trainer(plan, plan.stages[0], make_student(config, data), teacher)
    assert isinstance(trainer, OnPolicyTrainer)
    trainer.state.global_step = 0
    given = next(iter(trainer.get_train_dataloader()))
    (batch,), _ = trainer.get_batch_samples(iter([given]), 1, torch.device("cpu"))
    # an answer of which the teacher can read nothing is left out
    questions = [data.prompts("train")[window].prompt[-1].content for window in given["windows"]]
    assert 2 <= len(batch["input_ids"]) <= len(questions)
    for ids, asked_ids, labels in zip(batch["input_ids"], batch["teacher_input_ids"], batch["labels"], strict=True):
        student = data.student_tokenizer.decode(ids[: int((labels != IGNORE_INDEX).nonzero()[0])])
        asked = data.teacher_tokenizer.decode([token for token in asked_ids.tolist() if token != PAD])
        question = next(each for each in questions if f"<|im_start|>user\n{each}<|im_end|>" in student)
        questions = questions[questions.index(question) + 1 :]
        assert student.endswith(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        assert f"user: {question}\n\nassistant: " in asked and "<|im_start|>" not in asked
    distill(plan, teacher)


@pytest.fixture(scope="module")
def own_code(place):
    """Write a teacher of one's own over the sailor's tokenizer; return its name and the folder of its model."""
    data = make_data(chat_committee(place), place).members["sailor"]
    data.teacher_tokenizer.chat_template = LINES
    model = save_teacher(data, place / "model", seed=3)
    (place / "my_teacher.py").write_text(CODE.replace("FOLDER", repr(str(model))), encoding="utf-8")
    return f"python:{place}/my_teacher.py:MyTeacher", str(model)


@pytest.mark.parametrize("cache", [{}, {"enabled": True, "top_k": 16, "sequences": "all"}], ids=["memory", "cached"])
@pytest.mark.parametrize("combine", ["sum", "select", "dynamic"])
def test_a_teacher_of_ones_own_is_one_of_several(place, own_code, combine, cache):
    found = []
    for number, path in enumerate(own_code):
        members = chat_committee(place).model_dump()["teachers"]["members"]
        members[1] |= {"path": path, "trained_on": [], "chat_template": None}
        settings = {"members": members, "combine": combine}
        plan, committee = open_committee(place, settings, f"own-{combine}-{len(cache)}-{number}", cache=cache)
        result = distill(plan, committee)
        found.append((plan, committee.shares, result))
    (ours, shares, result), (theirs, expected, _) = found
    assert np.allclose(shares, expected, atol=1e-5)
    if combine == "dynamic":
        assert (shares[..., 1] > 0).all() and shares[..., 1].std() > 1e-3
    for name, value in weights_of(theirs).items():
        assert torch.allclose(weights_of(ours)[name], value, atol=1e-6), name
    assert (result.teacher_seconds > 0) == (not cache)


def test_what_a_teacher_of_ones_own_reads_in_the_loss_is_its_teachers_time(place, own_code):
    members = chat_committee(place).model_dump()["teachers"]["members"]
    members[1] |= {"path": own_code[0], "trained_on": [], "chat_template": None}
    plan, committee = open_committee(place, {"members": members}, "late")
    student = make_student(plan.session.config, plan.data)
    trainer = train.make_trainer(plan, replace(plan.stages[0], steps=1), student, committee)
    batch = trainer._prepare_inputs(trainer.data_collator(ROWS))
    trainer.compute_step(trainer.model, batch, 90)
    late = trainer.seats[1].source.late_seconds
    assert late > 0 and trainer.read_counts()["teacher_seconds"] >= late
    assert trainer.read_counts()["teacher_seconds"] == pytest.approx(late + trainer.clock.seconds())


def averaged(place, paths, templates):
    """Return settings of two teachers with the sailor's tokenizer."""
    first = chat_committee(place).model_dump()["teachers"]["members"][1]
    names = "one", "two"
    members = [
        first | {"name": name, "path": path, "trained_on": [], "chat_template": template}
        for name, path, template in zip(names, paths, templates, strict=True)
    ]
    return {"members": members, "combine": "averaged"}


def test_an_average_of_conversations_is_of_one_text(place, own_code):
    paths, settings = own_code, {"distill": {"loss": "uld"}}
    plan, committee = open_committee(place, averaged(place, paths, (None, LINES)), "average", **settings)
    loss, gradient, _, _ = step_of(plan, committee)
    expected = step_of(committee.members[1].plan, committee.teachers[1])
    assert loss == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match=r"teachers\.members\.two\.chat_template: expected that of one .*averaged"):
        open_committee(place, averaged(place, paths, (None, "### " + LINES)), "refused", **settings)


def test_layers_are_compared_beside_teachers_that_read_other_templates(place):
    plan, committee = open_committee(place, distill={"weights": {"feature": 0.2, "attention": 0.1}})
    loss, gradient, _, _ = step_of(plan, committee)
    singles = [step_of(m.plan, t) for m, t in zip(committee.members, committee.teachers, strict=True)]
    assert loss == pytest.approx(sum(single[0] for single in singles) / 2, rel=1e-5)
    torch.testing.assert_close(gradient, sum(single[1] for single in singles) / 2, rtol=1e-4, atol=1e-6)


def test_teachers_that_read_the_answer_teach_together_and_were_not_built_so(place):
    plain, _ = open_committee(place, name="plain")
    plan, committee = open_committee(
        place, {"combine": "select"}, "asked", teacher={"privileged_prompt": "{prompt} It is: {answer} Again."}
    )
    for member, other in zip(plan.members, plain.members, strict=True):
        views = [each.plan.session.config for each in (member, other)]
        assert text_of_teacher(views[0]) == text_of_teacher(views[1])
        keys = [
            identify_text_of_teacher(view, each.plan.data) for view, each in zip(views, (member, other), strict=True)
        ]
        assert keys[0] == keys[1]
    distill(plan, committee)
    answers = sum(len(line) for line in lines_of(plan))
    assert answers and weights_of(plan)
