"""A teacher that is routed while it teaches: what it answers, and what its router learns."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from kdkit.config.losses import ALM, ForwardKL, LossSettings, ProjectedKL
from kdkit.distill.objective import make_objective
from kdkit.losses.chunked.engine import chunked_loss
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.teachers.prepare import Teacher
from kdkit.teachers.router.teacher import RoutedTeacher
from tests.references import random_logits
from tests.routed import DEVICE, Scene, make_mixture

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [0, 3, 5]
STOCK = {"parts": ["importance"], "final_top_k": 2, "final_temperature": 1.0}
"""A schedule that is the teacher's own from the first step."""
FREE = {"anchor_weight": 0.0, "balance_weight": 0.0, "text_weight": 0.0, "update_every": 1}


def train_for(scene: Scene, teacher: RoutedTeacher, updates: int) -> None:
    """Let a router take steps on the same few batches."""
    for step in range(updates):
        scene.ask(teacher, [step % 3, 3 + step % 2, 5], step)


# ---- what the teacher answers ----


@pytest.mark.parametrize("normalised", [True, False])
def test_an_untrained_router_reproduces_the_teachers_own_answers(scene, normalised):
    model = make_mixture(len(scene.data.teacher_tokenizer), normalised=normalised)
    scene = replace(scene, teacher=Teacher(model, "tiny", True))
    expected = scene.online().answer(scene.batch(ROWS), DEVICE).hidden
    teacher = scene.route("student_aware", **STOCK, update_every=2)
    (got,) = scene.ask(teacher, ROWS, step=1)  # not the turn of the router
    assert torch.allclose(got.hidden, expected, rtol=1e-5, atol=1e-5)
    (other,) = scene.ask(scene.route("student_aware", **STOCK | {"final_top_k": 1}, update_every=2), ROWS, step=1)
    assert not torch.allclose(other.hidden, expected, atol=1e-2), "another k would be seen"


def test_what_the_student_adds_moves_the_routing_of_its_own_places_only(scene):
    teacher = scene.route("student_aware", parts=["importance"], final_top_k=4)
    inputs = scene.batch(ROWS)
    (before,) = teacher.answer(inputs, DEVICE, student := scene.look(inputs, step=1))
    torch.nn.init.normal_(teacher.router.reader.importance.weight)
    spans = inputs["spans"]
    second = spans.student_rows // inputs["input_ids"].shape[1] == 1
    hidden = student.hidden.clone()
    (with_importance,) = teacher.answer(inputs, DEVICE, student)
    assert not torch.allclose(before.hidden, with_importance.hidden, atol=1e-3)
    hidden[second] = random_logits(int(second.sum()), 16, dtype=torch.float32)
    (after,) = teacher.answer(inputs, DEVICE, replace(student, hidden=hidden))
    same = (after.hidden - with_importance.hidden).abs().amax(dim=-1) < 1e-6
    in_second = spans.teacher_rows // inputs["teacher_input_ids"].shape[1] == 1
    assert torch.equal(same, ~in_second)


def test_draws_are_those_of_the_step_and_leave_the_global_generator_alone(scene):
    def ask(teacher, step):
        return torch.stack([part.hidden for part in scene.ask(teacher, ROWS, step)])

    options = {"augmentation_rate": 1.0}
    teacher = scene.route("knowledge_augmentation", **options)
    state = torch.get_rng_state()
    first, second = ask(teacher, 4), ask(teacher, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 2 and not torch.allclose(first[0], first[1], atol=1e-3), "the passes differ"
    assert not torch.allclose(first, second, atol=1e-3), "a second micro-batch draws anew"
    third = ask(teacher, 5)
    assert not torch.allclose(first, third, atol=1e-3)
    assert torch.equal(ask(scene.route("knowledge_augmentation", **options), 5), third), "as after a resume"
    assert len(scene.ask(scene.route("knowledge_augmentation", num_passes=3), ROWS)) == 3


@pytest.mark.parametrize("loss", [ProjectedKL(), ALM()], ids=lambda loss: loss.name)
def test_the_loss_under_knowledge_augmentation_is_the_mean_over_the_passes(scene, loss):
    inputs = scene.batch(ROWS)
    passes = scene.ask(scene.route("knowledge_augmentation", augmentation_rate=1.0), ROWS)
    terms, gradient = loss_of(scene, loss, inputs, passes)
    each = [loss_of(scene, loss, inputs, one) for one in passes]
    assert abs(each[0][0][2] - each[1][0][2]) > 1e-4, "passes that are alike would prove nothing"
    assert torch.allclose(terms, (each[0][0] + each[1][0]) / 2, rtol=1e-5)
    assert torch.allclose(gradient, (each[0][1] + each[1][1]) / 2, rtol=1e-4, atol=1e-8)


def loss_of(
    scene: Scene, loss: LossSettings, inputs: dict, signals: DenseSignals | tuple[DenseSignals, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the terms of a batch and the gradient of the student's hidden states."""
    objective = make_objective(loss, scene.data, kd_ratio=0.7, temperature=1.0, device=DEVICE)
    student = scene.look(inputs)
    hidden = student.hidden.clone().requires_grad_()
    chunk_loss, chunks = objective.loss_of(inputs["spans"], student.targets, signals, 50.0)
    value, terms = chunked_loss(hidden, student.head, chunk_loss, chunks)
    return terms, torch.autograd.grad(value, hidden)[0]


def test_padding_is_in_no_figure_and_no_update(scene):
    inputs = scene.batch([0, 1, 2, 3, 4, 5])
    rows = inputs["spans"].teacher_rows
    in_use = torch.zeros(inputs["teacher_input_ids"].numel(), dtype=torch.bool)
    in_use[rows] = in_use[rows + 1] = True
    assert (~in_use).sum() > 20
    results = []
    for filling in (0, 7):
        filled = (
            inputs["teacher_input_ids"].flatten().masked_fill(~in_use, filling).view_as(inputs["teacher_input_ids"])
        )
        teacher = scene.route("student_aware", **STOCK, update_sequences=None, learning_rate=0.01)
        changed = inputs | {"teacher_input_ids": filled}
        (signals,) = teacher.answer(changed, DEVICE, scene.look(inputs))
        results.append((signals.hidden, teacher.router.gates.detach(), teacher.describe()))
    (hidden, gates, figures), (other_hidden, other_gates, other_figures) = results
    assert torch.allclose(hidden, other_hidden, atol=1e-5)
    assert torch.allclose(gates, other_gates, atol=1e-5)
    for name in ("kl", "balance", "anchor", "text", "teacher_loss"):
        assert other_figures[name] == pytest.approx(figures[name], rel=1e-4, abs=1e-7), name
    for mine, other in zip(figures["shares"], other_figures["shares"], strict=True):
        assert other == pytest.approx(mine, abs=1e-5)


# ---- what the router learns ----


@pytest.mark.parametrize("kind", ["student_aware_routing", "student_aware"])
def test_a_router_step_gives_the_gates_a_gradient_and_no_model_one(scene, kind):
    teacher = scene.route(kind, final_top_k=2)
    before = copy.deepcopy(scene.teacher.model.state_dict())
    scene.ask(teacher, ROWS)
    assert all(layer.abs().max() > 0 for layer in teacher.router.gates.grad), "every layer's gates"
    assert (teacher.router.gates != teacher.router.initial_gates).any()
    assert all(parameter.grad is None for parameter in scene.teacher.model.parameters())
    assert all(parameter.grad is None for parameter in scene.student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in scene.teacher.model.state_dict().items())


def test_the_router_is_trained_at_its_turns_and_once_a_step(scene, monkeypatch):
    turns = []
    monkeypatch.setattr(RoutedTeacher, "_update", lambda self, inputs, student: turns.append(student.step))
    teacher = scene.route("student_aware_routing", update_every=3)
    for step in range(8):
        for _ in range(2):  # micro-batches
            scene.ask(teacher, ROWS, step)
    assert turns == [0, 3, 6]


@pytest.mark.parametrize("kind", ["student_aware_routing", "student_aware"])
def test_an_update_looks_at_the_first_sequences_as_if_they_were_alone(scene, kind):
    gates = []
    for rows in ([0, 3, 5, 1], [0, 3], [0, 3, 5]):
        count = None if rows == [0, 3, 5] else 2
        teacher = scene.route(kind, **STOCK, update_sequences=count, learning_rate=0.01)
        scene.ask(teacher, rows)
        gates.append(teacher.router.gates.grad)
    assert torch.allclose(gates[0], gates[1], atol=1e-5)
    assert not torch.allclose(gates[0], gates[2], atol=1e-4), "more sequences teach something else"


@pytest.mark.parametrize("direction", ["student_teacher", "teacher_student"])
def test_updates_bring_the_routed_teacher_closer_to_the_student(scene, direction):
    teacher = scene.route("student_aware_routing", direction=direction, learning_rate=0.02, **FREE)
    scene.ask(teacher, ROWS)
    before = teacher.describe()["kl"]
    for step in range(1, 15):
        scene.ask(teacher, ROWS, step)
    assert teacher.describe()["kl"] < 0.98 * before


@pytest.mark.parametrize("anchor", ["kl", "l2"])
def test_without_an_anchor_the_router_moves_further(scene, anchor):
    distances = []
    for weight in (0.0, 20.0):
        teacher = scene.route(
            "student_aware_routing", anchor=anchor, learning_rate=0.02, **FREE | {"anchor_weight": weight}
        )
        train_for(scene, teacher, 20)
        distances.append((teacher.describe()["anchor"], sum(teacher.describe()["kl_to_initial"])))
    (free, free_kl), (held, held_kl) = distances
    assert held < 0.5 * free and held_kl < 0.5 * free_kl


def test_a_balanced_router_uses_its_experts_more_evenly(scene):
    values = []
    for weight in (0.0, 10.0):
        teacher = scene.route("student_aware_routing", learning_rate=0.02, **FREE | {"balance_weight": weight})
        train_for(scene, teacher, 20)
        values.append(teacher.describe()["balance"])
    assert values[1] < 0.7 * values[0]


def test_places_in_no_loss_do_not_train_the_router(scene):
    inputs = scene.batch(ROWS)
    inputs["labels"][:, :5] = IGNORE_INDEX
    student, gates = scene.look(inputs), []
    ignored = student.targets == IGNORE_INDEX
    assert 0 < ignored.sum() < len(ignored)
    for noise in (0.0, 5.0):
        hidden = student.hidden.clone()
        hidden[ignored] += noise
        teacher = scene.route("student_aware_routing", learning_rate=0.01, **FREE)
        teacher.answer(inputs, DEVICE, replace(student, hidden=hidden))
        gates.append(teacher.router.gates.detach())
    assert torch.equal(*gates)


def test_text_that_the_student_wrote_is_nothing_to_be_right_about(scene):
    inputs = scene.batch(ROWS) | {"is_own_text": True}
    teacher = scene.route("student_aware_routing")
    teacher.answer(inputs, DEVICE, scene.look(inputs))
    assert "text" not in teacher.describe() and teacher.describe()["kl"] > 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_teacher_trains_a_router_in_fp32(scene, dtype):
    model = make_mixture(len(scene.data.teacher_tokenizer)).to(dtype)
    half = replace(scene, teacher=Teacher(model, "tiny", True))
    gates = []
    for stage_set in (scene, half):
        teacher = stage_set.route("student_aware", **STOCK, learning_rate=0.01)
        inputs = stage_set.batch(ROWS)
        (signals,) = teacher.answer(inputs, DEVICE, stage_set.look(inputs))
        assert teacher.router.gates.dtype == torch.float32
        assert math.isfinite(teacher.describe()["kl"])
        gates.append(teacher.router.gates.grad)
    assert signals.hidden.dtype == dtype
    cosine = functional.cosine_similarity(gates[0].flatten(), gates[1].flatten(), dim=0)
    assert cosine > 0.95, "the gradient is that of the fp32 teacher, with noise"


def test_padding_rows_of_a_head_and_its_bias_are_treated_as_the_model_does(scenes):
    same = scenes["same"]
    size = len(same.data.teacher_tokenizer)
    bias = random_logits(size, dtype=torch.float32, scale=0.5)
    results = []
    for padding in (0, 7):
        model = make_mixture(size)
        head = torch.nn.Linear(16, size + padding)
        with torch.no_grad():
            head.weight[:size], head.bias[:size] = model.lm_head.weight, bias
            head.weight[size:], head.bias[size:] = 50.0, 50.0
        model.lm_head = head.requires_grad_(False)
        scene = replace(same, teacher=Teacher(model, "tiny", True))
        teacher = scene.route("student_aware_routing", learning_rate=0.01)
        (signals,) = scene.ask(teacher, ROWS)
        assert signals.logits(torch.tensor([0])).shape == (1, size)
        results.append((teacher.describe()["kl"], teacher.describe()["teacher_loss"], teacher.router.gates.detach()))
    assert results[0][:2] == pytest.approx(results[1][:2], rel=1e-4)
    assert torch.allclose(results[0][2], results[1][2], atol=1e-5)
    without = same.route("student_aware_routing")
    same.ask(without, ROWS)
    assert abs(without.describe()["kl"] - results[0][0]) > 1e-3, "the bias counts"


def test_a_divergence_of_one_tokenizer_routes_too(scenes):
    same = scenes["same"]
    assert same.route("student_aware_routing").comparison.events.name == "tokens"
    objective = make_objective(ForwardKL(), same.data, kd_ratio=0.5, temperature=1.0, device=DEVICE)
    assert objective.events.name == "tokens"
