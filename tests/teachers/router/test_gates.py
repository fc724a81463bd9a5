"""The router's parts: schedule, anchor, balance, the reader of the student, and one step towards the student."""

import math

import pytest
import torch
from torch.nn import functional

from kdkit.config.losses import ForwardKL, ProjectedKL
from kdkit.config.teacher import RouterConfig
from kdkit.distill.choose_loss import make_events
from kdkit.errors import UserError
from kdkit.losses.chunked import engine as chunked
from kdkit.losses.chunked.events import EventPair, PrefixEvents, TokenEvents
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.models.experts import all_experts, top_k_choice
from kdkit.teachers.router.gates import Router, StudentReader, balance, check_sources, routing_kl, scheduled
from kdkit.teachers.router.training import Comparison, RouterOptimizer, compare, measure_rows, text_loss
from kdkit.teachers.sources import ExpertSources
from tests.references import random_logits
from tests.routed import DEVICE, Scene

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [0, 3, 5]


# ---- schedule ----


def aware(**values) -> RouterConfig:
    return RouterConfig(kind="student_aware", **values)


def test_schedule_values_at_given_steps():
    settings = aware(schedule_share=0.8)
    steps = [0, 19, 20, 39, 40, 59, 60, 80, 99]
    assert [scheduled(settings, step, 100, 4, False)[0] for step in steps] == [1, 1, 2, 2, 3, 3, 4, 4, 4]
    temperatures = [scheduled(settings, step, 100, 4, False)[1] for step in (0, 20, 40, 60, 80, 99)]
    assert temperatures == pytest.approx([2.0, 2**0.75, 2**0.5, 2**0.25, 1.0, 1.0])


def test_with_normalised_weights_the_temperature_waits_for_the_second_source():
    settings = aware(schedule_share=0.8)
    got = [scheduled(settings, step, 100, 2, True) for step in (0, 39, 40, 60, 80, 99)]
    assert [top_k for top_k, _ in got] == [1, 1, 2, 2, 2, 2]
    assert [temperature for _, temperature in got] == pytest.approx([2.0, 2.0, 2.0, 2**0.5, 1.0, 1.0])


@pytest.mark.parametrize("normalised", [True, False])
def test_every_temperature_of_a_schedule_acts_on_the_weights_or_is_the_last_one(normalised):
    """The kind of fault that this replaces: a temperature that fell while the only weight was the constant 1."""
    logits = random_logits(50, 4, dtype=torch.float32)
    for final_top_k in (2, 3, 4):
        seen = set()
        for step in range(100):
            top_k, temperature = scheduled(aware(), step, 100, final_top_k, normalised)
            now = top_k_choice(logits, top_k, temperature=temperature, normalised=normalised).weights
            if not torch.equal(now, top_k_choice(logits, top_k, temperature=1.0, normalised=normalised).weights):
                seen.add(temperature)
        assert max(seen) > 1.9 and len(seen) > 20, "the whole fall is felt"


def test_a_schedule_may_begin_above_one_and_cool_below_one():
    settings = aware(initial_top_k=2, initial_temperature=4.0, final_temperature=0.25, schedule_share=1.0)
    got = [scheduled(settings, step, 10, 3, True) for step in (0, 4, 5, 10)]
    assert [top_k for top_k, _ in got] == [2, 2, 3, 3]
    assert [temperature for _, temperature in got] == pytest.approx([4.0, 4.0 * 16**-0.4, 1.0, 0.25])


def test_without_annealing_the_final_values_hold_from_the_first_step():
    settings = aware(parts=["gap"], final_temperature=0.5)
    assert {scheduled(settings, step, 10, 3, True) for step in (0, 5, 9)} == {(3, 0.5)}


def test_a_schedule_of_one_step_starts_at_the_start():
    assert scheduled(aware(), 0, 1, 4, True) == (1, 2.0)


@pytest.mark.parametrize(
    ("values", "num_sources", "message"),
    [
        ({"kind": "student_aware", "final_top_k": 4}, 3, r"router.final_top_k: expected at most 3, .* got 4; lower"),
        ({"kind": "student_aware", "initial_top_k": 4}, 3, r"router.initial_top_k: expected at most 2, .* got 4"),
        ({"kind": "student_aware_routing", "training_top_k": 5}, 4, r"router.training_top_k: expected at most 4"),
        ({"kind": "all_experts"}, 1, r"router.kind: expected at least 2 experts to route over, got 1"),
    ],
)
def test_more_sources_than_there_are_and_a_single_one_are_refused(values, num_sources, message):
    with pytest.raises(UserError, match=message):
        check_sources(RouterConfig(**values), num_sources, 2, "experts")


def test_settings_that_a_kind_does_not_use_are_not_refused():
    check_sources(RouterConfig(kind="all_experts", final_top_k=4), 2, 2, "experts")
    check_sources(RouterConfig(kind="student_aware_routing", final_top_k=4), 2, 2, "experts")
    check_sources(aware(parts=["gap"], initial_top_k=4), 3, 1, "experts")
    check_sources(aware(), 3, 1, "experts")


# ---- anchor, balance ----


def test_balance_is_the_squared_coefficient_of_variation_of_the_summed_probabilities():
    # probabilities 3/4, 1/4 and 1/2, 1/2: importance 5/4, 3/4, mean 1, variance 1/16
    uneven = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    assert balance([uneven]).item() == pytest.approx(1 / 16)
    assert balance([uneven, torch.zeros(5, 2)]).item() == pytest.approx(1 / 32), "the mean over layers"
    # two tokens that each want one expert, but not the same, are balanced
    assert balance([torch.tensor([[9.0, 0.0], [0.0, 9.0]])]).item() == pytest.approx(0.0, abs=1e-6)
    assert balance([torch.tensor([[50.0, 0.0, 0.0, 0.0]])]).item() == pytest.approx(3.0, rel=1e-5), "one of four"


def test_routing_kl_is_the_divergence_from_the_initial_routing():
    initial, now = random_logits(6, 4), random_logits(6, 4, seed=1)
    p, q = initial.softmax(dim=-1), now.softmax(dim=-1)
    expected = (p * (p / q).log()).sum(dim=-1).mean().item()
    assert routing_kl(initial.float(), now.float()).item() == pytest.approx(expected, rel=1e-5)
    assert routing_kl(initial.float(), initial.float()).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["kl", "l2"])
def test_an_anchor_is_zero_at_the_start_and_pulls_back(kind):
    gates = random_logits(2, 4, 8, dtype=torch.float32, scale=0.5)
    router, hidden = Router(gates, None, 0), random_logits(10, 8, seed=1, dtype=torch.float32)
    initial = [hidden @ layer.T for layer in gates]

    def distance():
        return router.anchor([router.logits(layer, hidden, None) for layer in range(2)], initial, kind)

    assert distance().item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        router.gates += random_logits(2, 4, 8, seed=2, dtype=torch.float32, scale=0.2)
    before, away = distance(), (router.gates - gates).norm().item()
    before.backward()
    with torch.no_grad():
        router.gates -= 0.01 * router.gates.grad / router.gates.grad.norm()
    assert 0.0 < distance().item() < before.item()
    assert (router.gates - gates).norm().item() < away


def test_the_l2_anchor_is_relative_to_the_initial_gates():
    gates = random_logits(2, 4, 8, dtype=torch.float32)
    router = Router(gates, None, 0)
    with torch.no_grad():
        router.gates.mul_(3.0)
    assert router.anchor([], [], "l2").item() == pytest.approx(4.0, rel=1e-5)
    router = Router(torch.zeros(1, 2, 8), None, 0)
    with torch.no_grad():
        router.gates[0, 0, 0] = 2.0
    assert router.anchor([], [], "l2").item() == pytest.approx(4.0), "absolute where there were none"


# ---- reader, means, optimizer ----


def test_an_untrained_reader_adds_nothing():
    reader = StudentReader(16, 2, 4, torch.Generator().manual_seed(0))
    scores = reader(random_logits(7, 16, dtype=torch.float16))
    assert scores.shape == (7, 2, 4) and not scores.any()
    assert scores.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_step_is_clipped_at_one_and_left_out_when_the_gradient_overflows(dtype):
    router = Router(torch.zeros(1, 2, 4), 3, 0)
    optimizer = RouterOptimizer(router, 0.1, dtype)
    assert optimizer.step((router.gates * 100.0).sum())
    assert router.gates.grad.norm().item() == pytest.approx(1.0, rel=1e-4)
    moved = router.gates.detach().clone()
    assert torch.allclose(moved, torch.full_like(moved, -0.1), rtol=1e-3), "Adam's first step is the learning rate"
    assert not optimizer.step((router.gates * torch.inf).sum())
    assert torch.equal(router.gates, moved)
    assert optimizer.skipped == 1


class Narrow(torch.autograd.Function):
    """Pass a value on; its gradient goes through fp16, as one through a half-precision teacher does."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.half().float()


def test_an_overflowing_gradient_lowers_the_scale_until_it_fits_and_is_counted():
    router = Router(torch.zeros(1, 2, 4), None, 0)
    optimizer = RouterOptimizer(router, 0.1, torch.float16)
    # 1e3 * 4096 and 1e3 * 256 are above 65,504, the largest fp16 number; 1e3 * 16 is not
    done = [optimizer.step(Narrow.apply(router.gates).sum() * 1e3) for _ in range(4)]
    assert done == [False, False, True, True]
    assert (optimizer.skipped, optimizer.scale) == (2, 16.0)
    assert router.gates.max().item() == pytest.approx(-0.2, rel=1e-2), "two steps of Adam"
    resumed = RouterOptimizer(router, 0.1, torch.float16)
    resumed.load_state_dict(optimizer.state_dict())
    assert (resumed.skipped, resumed.scale) == (2, 16.0)


def test_the_scale_grows_again_but_not_above_its_first_value():
    router = Router(torch.zeros(1, 2, 4), None, 0)
    optimizer = RouterOptimizer(router, 0.1, torch.float16)
    optimizer.scale = 1024.0
    scales = []
    for _ in range(3):
        for _ in range(100):
            assert optimizer.step(router.gates.sum())
        scales.append(optimizer.scale)
    assert scales == [2048.0, 4096.0, 4096.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gradient_that_is_finite_at_no_scale_is_an_error_with_a_remedy(dtype):
    router = Router(torch.zeros(1, 2, 4), None, 0)
    optimizer = RouterOptimizer(router, 0.1, dtype)
    with pytest.raises(UserError, match=r"a finite gradient of the gates, got NaN or inf at \d+ updates.*fp32"):
        for _ in range(10):
            assert not optimizer.step((router.gates * torch.nan).sum())
    assert 3 <= optimizer.skipped <= 8 and not router.gates.any()


def test_the_reader_learns_faster_than_the_gates():
    router = Router(torch.zeros(1, 2, 4), 3, 0)
    rates = [group["lr"] for group in RouterOptimizer(router, 1e-4, torch.float32).adamw.param_groups]
    assert rates == pytest.approx([1e-4, 1e-3])


# ---- the comparison with the student ----


def run_with(scene: Scene, inputs: dict, gates: torch.Tensor) -> torch.Tensor:
    """Return the logits of the teacher with all experts weighed by some gates; m v, through the model's own head."""
    sources = ExpertSources(scene.online())
    with sources.experts.routed(lambda layer, hidden, _: all_experts(hidden @ gates[layer].T)):
        logits = scene.teacher.model(input_ids=inputs["teacher_input_ids"]).logits
    size = len(scene.data.teacher_tokenizer)
    return logits[..., :size].flatten(0, 1)[inputs["spans"].teacher_rows]


def event_probabilities(events: TokenEvents | PrefixEvents, logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the probabilities of events, added up and then tempered; float64, `[rows, num_events]`."""
    sums = logits.double().softmax(dim=-1)
    if isinstance(events, PrefixEvents):
        sums = sums @ torch.nn.functional.one_hot(events.groups, events.size + 1)[:, : events.size].double()
    # an event without a token is given next to nothing by `PrefixEvents`, and next to nothing is what it has here
    tempered = torch.where(sums > 0, sums.clamp(min=1e-300) ** (1.0 / temperature), 1e-38)
    return tempered / tempered.sum(dim=-1, keepdim=True)


def naive_kl(
    teacher_logits: torch.Tensor, student_logits: torch.Tensor, events: EventPair, temperature: float, direction: str
) -> torch.Tensor:
    teacher = event_probabilities(events.teacher, teacher_logits, temperature)
    student = event_probabilities(events.student, student_logits, temperature)
    first, second = (student, teacher) if direction == "student_teacher" else (teacher, student)
    return temperature**2 * (first * (first.log() - second.log())).sum(dim=-1).mean()


@pytest.mark.parametrize("chunk_bytes", [2**25, 2**13], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("direction", ["student_teacher", "teacher_student"])
@pytest.mark.parametrize("name", ["same", "two"])
def test_a_direction_is_what_its_name_says_on_full_logits_with_its_gradient(
    scenes, name, direction, chunk_bytes, monkeypatch
):
    monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", chunk_bytes)
    scene, temperature = scenes[name], 2.0
    inputs = scene.batch(ROWS)
    inputs["labels"][0, :6] = IGNORE_INDEX  # a prompt: in no loss
    student, spans = scene.look(inputs), inputs["spans"]
    events = make_events(ForwardKL() if name == "same" else ProjectedKL(), scene.data, DEVICE)
    sources = ExpertSources(scene.online())
    router = Router(sources.initial_gates, None, 0)
    with torch.no_grad():
        router.gates += random_logits(*router.gates.shape, dtype=torch.float32, scale=0.1)
    signals = sources.run(inputs, DEVICE, lambda layer, hidden, _: all_experts(router.logits(layer, hidden, None)))
    value = compare(signals, student, inputs, Comparison(events, temperature, direction))
    value.backward()

    gates = router.gates.detach().clone().requires_grad_()
    places = (student.targets != IGNORE_INDEX)[spans.student_starts[:-1]]
    assert 0 < places.sum() < len(places)
    teacher_logits = run_with(scene, inputs, gates)[spans.teacher_starts[:-1][places]]
    student_logits = scene.student(input_ids=inputs["input_ids"]).logits.detach().flatten(0, 1)[spans.student_rows]
    student_logits = student_logits[spans.student_starts[:-1][places]]
    expected = naive_kl(teacher_logits, student_logits, events, temperature, direction)
    (gradient,) = torch.autograd.grad(expected, gates)
    other = {"student_teacher": "teacher_student", "teacher_student": "student_teacher"}[direction]
    assert abs(naive_kl(teacher_logits, student_logits, events, temperature, other).item() / expected.item() - 1) > 1e-3
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert gradient.norm() > 1e-4
    assert torch.allclose(router.gates.grad, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())


def test_what_is_measured_is_what_both_models_lose_on_their_next_tokens(scene):
    inputs = scene.batch(ROWS)
    inputs["labels"][0, :6] = IGNORE_INDEX
    student, spans = scene.look(inputs), inputs["spans"]
    signals = scene.online().answer(inputs, DEVICE)
    events = make_events(ProjectedKL(), scene.data, DEVICE)
    measured = measure_rows(signals, student, inputs, Comparison(events, 1.0, "student_teacher"))
    places = (student.targets != IGNORE_INDEX)[spans.student_starts[:-1]]
    mine, theirs = spans.student_starts[:-1][places], spans.teacher_starts[:-1][places]
    assert torch.equal(measured.student_rows, mine)
    student_logits = student.head.logits(student.hidden)[mine]
    teacher_logits = signals.logits(theirs)
    nats = functional.cross_entropy(student_logits, student.targets[mine], reduction="none")
    assert torch.allclose(measured.student_loss, nats.detach(), atol=1e-5)
    targets = inputs["teacher_input_ids"].flatten()[spans.teacher_rows[theirs] + 1]
    nats = functional.cross_entropy(teacher_logits, targets, reduction="none")
    assert torch.allclose(measured.teacher_loss, nats, atol=1e-5)
    gap = naive_kl(teacher_logits, student_logits, events, 1.0, "teacher_student")
    assert measured.gap.mean().item() == pytest.approx(gap.item(), rel=1e-4)


def test_the_text_term_is_the_routed_teachers_cross_entropy_with_its_gradient(scene):
    inputs = scene.batch(ROWS)
    sources = ExpertSources(scene.online())
    router = Router(sources.initial_gates, None, 0)
    value = text_loss(
        sources.run(inputs, DEVICE, lambda layer, hidden, _: all_experts(router.logits(layer, hidden, None)))
    )
    value.backward()
    gates = router.gates.detach().clone().requires_grad_()
    targets = inputs["teacher_input_ids"].flatten()[inputs["spans"].teacher_rows + 1]
    expected = functional.cross_entropy(run_with(scene, inputs, gates), targets)
    (gradient,) = torch.autograd.grad(expected, gates)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.allclose(router.gates.grad, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())
