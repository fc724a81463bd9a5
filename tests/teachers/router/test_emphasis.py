"""Capacity and gap: how much each place counts, against sums written out, and the table of what each part does."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from kdkit.config.language import config_from_values
from kdkit.config.losses import ALM, ForwardKL, LossSettings, ProjectedKL
from kdkit.config.teacher import RouterConfig
from kdkit.distill.objective import make_objective
from kdkit.errors import UserError
from kdkit.losses.chunked.engine import chunked_loss
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.teachers.online import StudentRows
from kdkit.teachers.router.effects import measure_effects
from kdkit.teachers.router.emphasis import Emphasis, moved, student_loss
from kdkit.training.scoring import score_windows
from tests.routed import DEVICE, SAME_TOKENIZER, Scene, make_scene

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [0, 3, 5, 1]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> dict[str, Scene]:
    """Pairs with two tokenizers and with one; the student's weights are large, so that its places differ."""
    made = {
        "two": make_scene(tmp_path_factory.mktemp("two")),
        "same": make_scene(tmp_path_factory.mktemp("same"), **SAME_TOKENIZER),
    }
    for scene in made.values():
        for parameter in scene.student.parameters():
            parameter.data.mul_(3.0)
    return made


def aware(*parts: str, **values) -> RouterConfig:
    return RouterConfig(kind="student_aware", parts=list(parts), **values)


def settled(scene: Scene, settings: RouterConfig, loss: LossSettings) -> Emphasis:
    """Return an emphasis after a first step on the rows of these tests."""
    emphasis = Emphasis(settings)
    emphasis.begin_step()
    value_of(scene, loss, ROWS, emphasis)
    emphasis.begin_step()
    return emphasis


def value_of(
    scene: Scene, loss: LossSettings, rows: list[int], emphasis: Emphasis | None, num_items: float = 100.0
) -> tuple[torch.Tensor, torch.Tensor, StudentRows, DenseSignals, object]:
    """Return the terms of a batch, the gradient of the student's hidden states, and what they were computed from."""
    objective = make_objective(loss, scene.data, kd_ratio=0.7, temperature=1.0, device=DEVICE)
    inputs = scene.batch(rows)
    student, signals = scene.look(inputs), scene.online().answer(inputs, DEVICE)
    if emphasis is not None:
        emphasis.look(student, inputs["spans"])
    hidden = student.hidden.clone().requires_grad_()
    chunk_loss, chunks = objective.loss_of(
        inputs["spans"], student.targets, signals, num_items, student.targets, emphasis
    )
    value, terms = chunked_loss(hidden, student.head, chunk_loss, chunks)
    return terms, torch.autograd.grad(value, hidden)[0], student, signals, inputs["spans"]


def test_the_capacity_is_the_students_own_loss(scenes):
    """Its correlation with the loss is 1: it is measured. A head that forecast it had 0 on held-out text (LOG.md)."""
    inputs = scenes["two"].batch(ROWS)
    inputs["labels"][:, :3] = IGNORE_INDEX
    student = scenes["two"].look(inputs)
    rows = torch.arange(len(student.targets))
    logits = (student.hidden.double() @ student.head.weight.double().T)[:, : student.head.vocab_size]
    expected = functional.cross_entropy(logits, student.targets, reduction="none")  # 0 where ignored
    assert torch.allclose(student_loss(student, rows).double(), expected, rtol=1e-5)
    assert expected.std() > 0.1 and (expected == 0.0).any()


def test_before_anything_is_measured_all_places_count_alike(scenes):
    emphasis = Emphasis(aware("capacity", "gap"))
    assert emphasis.begin_step() == {}
    got = value_of(scenes["two"], ProjectedKL(), ROWS, emphasis)
    plain = value_of(scenes["two"], ProjectedKL(), ROWS, None)
    torch.testing.assert_close(got[0], plain[0], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got[1], plain[1], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("loss", [ProjectedKL(), ALM()], ids=lambda loss: loss.name)
def test_without_its_parts_a_step_is_as_if_there_were_no_router(scenes, loss):
    emphasis = settled(scenes["two"], aware("importance", "annealing"), loss)
    got, plain = (value_of(scenes["two"], loss, ROWS, each) for each in (emphasis, None))
    torch.testing.assert_close(got[0], plain[0], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got[1], plain[1], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("powers", [(0.5, 0.5), (-0.5, 0.5), (-1.0, -0.5), (0.5, 0.0), (0.0, 1.0)])
def test_the_loss_is_the_sum_written_out(scenes, powers):
    scene, loss = scenes["same"], ForwardKL()
    emphasis = settled(scene, aware("capacity", "gap", capacity_power=powers[0], gap_power=powers[1]), loss)
    terms, gradient, student, signals, _ = value_of(scene, loss, ROWS, emphasis)
    hidden = student.hidden.double().requires_grad_()
    logq = (hidden @ student.head.weight.double().T)[:, : student.head.vocab_size].log_softmax(dim=-1)
    logp = signals.logits(torch.arange(len(hidden))).double().log_softmax(dim=-1)
    ce = functional.nll_loss(logq, student.targets, reduction="none")
    gaps = (logp.exp() * (logp - logq)).sum(dim=-1)
    # the first step had the same rows
    capacity = (ce / ce.mean()).clamp(1 / 16, 16).detach() ** powers[0]
    capacity = capacity / capacity.mean()
    # in that step all places counted alike, so its means are plain ones
    gap = (gaps / gaps.mean()).clamp(1 / 16, 16).detach() ** powers[1]
    weights = capacity * gap / gap.mean()
    expected = (0.3 * ce + 0.7 * weights * gaps).sum() / 100.0
    assert terms[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient.double(), torch.autograd.grad(expected, hidden)[0], rtol=1e-3, atol=1e-7)
    assert emphasis.term.item() == pytest.approx((0.7 * weights * gaps).sum().item() / 100.0, rel=1e-5)
    assert terms[2].item() == pytest.approx(gaps.sum().item() / 100.0, rel=1e-5), "the raw term is not weighed"
    assert weights.std() > 0.05, "places that are alike would prove nothing"


@pytest.mark.parametrize("loss", [ProjectedKL(), ALM()], ids=lambda loss: loss.name)
def test_a_batch_of_four_equals_four_of_one(scenes, loss):
    settings = aware("capacity", "gap")
    whole, parts = settled(scenes["two"], settings, loss), settled(scenes["two"], settings, loss)
    together = value_of(scenes["two"], loss, ROWS, whole)
    one_by_one = [value_of(scenes["two"], loss, [row], parts) for row in ROWS]
    assert torch.allclose(together[0], sum(each[0] for each in one_by_one), rtol=1e-5)
    assert torch.allclose(together[1], torch.cat([each[1] for each in one_by_one]), rtol=1e-4, atol=1e-8)
    assert whole.begin_step() == pytest.approx(parts.begin_step(), rel=1e-5)
    for mine, other in ((whole.capacity, parts.capacity), (whole.gap, parts.gap)):
        assert (mine.mean, mine.mean_power) == pytest.approx((other.mean, other.mean_power), rel=1e-5)
    plain = value_of(scenes["two"], loss, ROWS, None)
    assert not torch.allclose(plain[1], together[1], rtol=1e-2, atol=1e-6), "the emphasis acts"


@pytest.mark.parametrize("power", [0.5, -0.5])
def test_in_the_next_step_the_weights_are_one_on_average_and_follow_the_gap(scenes, power):
    emphasis = settled(scenes["two"], aware("capacity", "gap", gap_power=power), ProjectedKL())
    for _ in range(2):  # the means of weighed places
        value_of(scenes["two"], ProjectedKL(), ROWS, emphasis)
        emphasis.begin_step()
    value_of(scenes["two"], ProjectedKL(), ROWS, emphasis)
    gaps, weights = (torch.cat(parts) for parts in zip(*emphasis.gap.seen, strict=True))
    final = emphasis.gap.of(gaps) * weights
    assert final.mean().item() == pytest.approx(0.7 / 100.0, rel=1e-4)
    ordered = emphasis.gap.of(gaps.sort().values)
    assert ((ordered.diff() * power) >= 0.0).all() and ordered.std() > 0.01


def test_places_in_no_loss_decide_nothing(scenes):
    objective = make_objective(ProjectedKL(), scenes["two"].data, kd_ratio=0.7, temperature=1.0, device=DEVICE)
    inputs = scenes["two"].batch(ROWS)
    inputs["labels"][:, :5] = IGNORE_INDEX
    signals, means = scenes["two"].online().answer(inputs, DEVICE), []
    for noise in (0.0, 5.0):
        student = scenes["two"].look(inputs)
        hidden = student.hidden.clone()
        hidden[student.targets == IGNORE_INDEX] *= 1.0 + noise
        emphasis = Emphasis(aware("capacity", "gap"))
        emphasis.look(replace(student, hidden=hidden), inputs["spans"])
        loss, chunks = objective.loss_of(inputs["spans"], student.targets, signals, 9.0, None, emphasis)
        chunked_loss(hidden, student.head, loss, chunks)
        means.append(emphasis.begin_step())
    assert means[0] == pytest.approx(means[1], rel=1e-5) and means[0]["capacity_mean"] > 0.0


def test_a_share_of_moved_signal_is_half_the_distance_between_the_weights():
    even = torch.ones(2)
    assert moved(even, even) == 0.0 and moved(3.0 * even, even) == 0.0
    assert moved(torch.tensor([2.0, 0.0]), even) == pytest.approx(0.5)
    # 3/4 and 1/4 become 3/7 and 4/7
    assert moved(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0])) == pytest.approx(3 / 4 - 3 / 7)


BAD = [{"capacity_power": 1.5}, {"gap_power": -2}, {"parts": ["gaps"]}]


@pytest.mark.parametrize("values", BAD, ids=str)
def test_settings_out_of_range_are_answered_with_one_line(values):
    with pytest.raises(UserError, match=rf"router\.{next(iter(values))}") as error:
        config_from_values({"router": {"kind": "student_aware"} | values})
    assert "\n" not in str(error.value)


# ---- the effect table ----


def test_the_effect_of_each_part_is_what_its_removal_changes(scenes):
    scene = scenes["two"]
    teacher = scene.route("student_aware")
    value_of(scene, ProjectedKL(), ROWS, teacher.emphasis)
    teacher.emphasis.begin_step()
    head = scene.look(scene.batch(ROWS)).head

    def effects():
        found = measure_effects(teacher, scene.student, head, scene.data.evaluation, 4)
        return {row["part"]: row for row in found["parts"]}

    before = effects()
    assert list(before) == ["capacity", "gap", "importance", "annealing"]
    assert before["importance"]["mixture_kl"] == pytest.approx(0.0, abs=1e-7), "an untrained reader adds nothing"
    assert before["importance"]["tokens_rerouted"] == 0.0
    # at half its steps: the first expert at temperature 2, against the two of the teacher itself
    assert before["annealing"]["mixture_kl"] > 1e-3
    for part in ("capacity", "gap"):
        assert before[part]["signal_moved"] > 0.01 and before[part]["mixture_kl"] == 0.0
    own = score_windows(scene.teacher.model, scene.data.evaluation, "teacher", 4).bits_per_byte
    assert before["importance"]["bits_per_byte"] == pytest.approx(own, rel=1e-4), "the teacher's own routing in the end"
    torch.nn.init.normal_(teacher.router.reader.importance.weight)
    after = effects()
    assert after["importance"]["mixture_kl"] > 1e-3 and after["importance"]["tokens_rerouted"] > 0.05
    assert after["importance"]["bits_per_byte_without"] == pytest.approx(own, rel=1e-4)


def test_a_part_that_is_left_out_is_not_in_the_table(scenes):
    scene = scenes["two"]
    teacher = scene.route("student_aware", parts=["gap"])
    scene.ask(teacher, ROWS)
    head = scene.look(scene.batch(ROWS)).head
    rows = measure_effects(teacher, scene.student, head, scene.data.evaluation, 4)["parts"]
    assert [row["part"] for row in rows] == ["gap"]
