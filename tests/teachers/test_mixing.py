"""Mixtures of teachers and of layers: a distribution in every row, with the gradient that full rows would give."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from kdkit.config.losses import ForwardKL, ProjectedKL
from kdkit.distill.choose_loss import make_events
from kdkit.errors import UserError
from kdkit.losses.chunked import engine as chunked
from kdkit.losses.chunked.events import EventPair, PrefixEvents, TokenEvents
from kdkit.models.experts import all_experts, given, top_k_choice
from kdkit.teachers.mixing import MixedSignals, last_layers
from kdkit.teachers.online import OnlineTeacher, StudentRows
from kdkit.teachers.router.training import Comparison, compare
from kdkit.teachers.sources import MixedSources, spread
from tests.references import random_logits
from tests.routed import DEVICE, Scene, make_mixture

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [0, 3, 5]


def teachers_of(scene: Scene, count: int = 3) -> list[OnlineTeacher]:
    size = len(scene.data.teacher_tokenizer)
    # a head with padding on one of them: rows that no token belongs to
    others = [OnlineTeacher(make_mixture(size + 5 * (seed == 2), seed), size) for seed in range(2, count + 1)]
    return [scene.online(), *others]


def own_probabilities(teacher: OnlineTeacher, inputs: dict) -> torch.Tensor:
    """Return what a model itself predicts at every teacher row; float64, m v."""
    logits = teacher.model(input_ids=inputs["teacher_input_ids"]).logits[..., : teacher.head.vocab_size]
    return logits.flatten(0, 1)[inputs["spans"].teacher_rows].double().softmax(dim=-1)


def weights_for(inputs: dict, count: int) -> torch.Tensor:
    """Return other weights for every row; in each second row the second source is left out."""
    logits = random_logits(len(inputs["spans"].teacher_rows), count, seed=4, scale=1.0, dtype=torch.float32)
    logits[::2, 1] = -torch.inf
    return logits.softmax(dim=-1)


def run_mixture(scene: Scene, inputs: dict, weights: torch.Tensor, teachers: list[OnlineTeacher]) -> MixedSignals:
    return MixedSources(teachers).run(inputs, DEVICE, lambda *_: given(weights))


def test_rows_of_a_mixture_are_the_weighed_probabilities_of_its_teachers(scene):
    inputs, teachers = scene.batch(ROWS), teachers_of(scene)
    weights = weights_for(inputs, 3)
    signals = run_mixture(scene, inputs, weights, teachers)
    each = torch.stack([own_probabilities(teacher, inputs) for teacher in teachers], dim=1)
    expected = (weights.double()[..., None] * each).sum(dim=1)
    rows = torch.arange(len(weights))
    for got in (signals.logits(rows).exp(), signals.logprobs(rows, TokenEvents(), 1.0).exp()):
        assert got.sum(dim=-1) == pytest.approx(1.0, abs=1e-5)
        assert torch.allclose(got.double(), expected, atol=1e-6)


def test_a_source_without_weight_has_no_part_in_a_mixture(scene):
    inputs, teachers = scene.batch(ROWS), teachers_of(scene, 2)
    only_second = torch.tensor([0.0, 1.0]).expand(len(inputs["spans"].teacher_rows), 2)
    signals = run_mixture(scene, inputs, only_second, teachers)
    assert torch.equal(signals.log_weights[:, 0], torch.full((len(only_second),), -torch.inf))
    got = signals.logits(torch.arange(len(only_second))).exp().double()
    assert torch.allclose(got, own_probabilities(teachers[1], inputs), atol=1e-6)


def test_equal_teachers_make_a_mixture_like_each_of_them(scene):
    inputs = scene.batch(ROWS)
    signals = MixedSources([scene.online(), scene.online()]).run(
        inputs, DEVICE, lambda _, __, zeros: all_experts(zeros)
    )
    got = signals.logits(torch.arange(len(signals.hidden))).exp().double()
    assert torch.allclose(got, own_probabilities(scene.online(), inputs), atol=1e-6)


def test_the_last_layer_alone_is_the_model(scene):
    inputs = scene.batch(ROWS)
    weights = torch.tensor([0.0, 1.0]).expand(len(inputs["spans"].teacher_rows), 2)
    signals = MixedSources([scene.online()], num_layers=2).run(inputs, DEVICE, lambda *_: given(weights))
    got = signals.logits(torch.arange(len(weights))).exp().double()
    assert torch.allclose(got, own_probabilities(scene.online(), inputs), atol=1e-6)
    assert torch.equal(signals.hidden, scene.online().answer(inputs, DEVICE).hidden), "the gate reads the last layer"


def test_an_earlier_layer_is_the_model_that_stops_there(scene):
    inputs, model = scene.batch(ROWS), scene.teacher.model
    states = model(input_ids=inputs["teacher_input_ids"], output_hidden_states=True).hidden_states
    hooks = len(model.model.layers[0]._forward_hooks)  # transformers leaves some of its own
    with last_layers(model, 2) as caught:
        scene.online().hidden(inputs)
    assert torch.allclose(caught[0], model.model.norm(states[1]), atol=1e-6)
    assert len(caught) == 2
    assert len(model.model.layers[0]._forward_hooks) == hooks


def test_more_layers_than_there_are_and_models_of_another_build_are_refused(scene):
    with pytest.raises(UserError, match=r"router.num_layers: expected at most 2, .* got 3"):
        MixedSources([scene.online()], num_layers=3)
    size = len(scene.data.teacher_tokenizer)
    other = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64)).eval()
    with pytest.raises(UserError, match=r"router.sources: expected .*layers.*norm.*got GPT2LMHeadModel"):
        MixedSources([OnlineTeacher(other, size)], num_layers=2)


def test_spreading_a_choice_puts_zeros_where_nothing_was_chosen():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    got = spread(top_k_choice(logits, 1), 3)
    assert got.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def naive_comparison(
    each: torch.Tensor,
    weights: torch.Tensor,
    student: StudentRows,
    inputs: dict,
    events: EventPair,
    comparison: Comparison,
) -> torch.Tensor:
    """Compare whole rows in float64; each is m n v."""
    spans, temperature = inputs["spans"], comparison.temperature
    mixture = (weights[..., None] * each).sum(dim=1)[spans.teacher_starts[:-1]]
    mine = student.head.logits(student.hidden).detach().double()[spans.student_starts[:-1]].log_softmax(dim=-1)
    taught, own = (
        group(side, logprobs, temperature)
        for side, logprobs in ((events.teacher, mixture.log()), (events.student, mine))
    )
    first, second = (own, taught) if comparison.direction == "student_teacher" else (taught, own)
    return temperature**2 * (first * (first.log() - second.log())).sum(dim=-1).mean()


def group(events: TokenEvents | PrefixEvents, logprobs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the probabilities of events, added up and then tempered; float64, `[rows, num_events]`."""
    sums = logprobs.softmax(dim=-1)
    if isinstance(events, PrefixEvents):
        sums = sums @ torch.nn.functional.one_hot(events.groups, events.size + 1)[:, : events.size].double()
    # an event without a token is given next to nothing by `PrefixEvents`, and next to nothing is what it has here
    tempered = torch.where(sums > 0, sums.clamp(min=1e-300) ** (1.0 / temperature), 1e-38)
    return tempered / tempered.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("chunk_bytes", [2**25, 2**13], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("direction", ["student_teacher", "teacher_student"])
@pytest.mark.parametrize("name", ["same", "two"])
def test_the_weights_of_a_mixture_get_the_gradient_of_full_rows(
    scenes, name, direction, temperature, chunk_bytes, monkeypatch
):
    monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", chunk_bytes)
    scene = scenes[name]
    inputs, teachers = scene.batch(ROWS), teachers_of(scene)
    events = make_events(ForwardKL() if name == "same" else ProjectedKL(), scene.data, DEVICE)
    comparison, student = Comparison(events, temperature, direction), scene.look(inputs)
    logits = random_logits(len(inputs["spans"].teacher_rows), 3, seed=4, scale=1.0, dtype=torch.float32)

    leaf = logits.clone().requires_grad_()
    value = compare(run_mixture(scene, inputs, leaf.softmax(dim=-1), teachers), student, inputs, comparison)
    (gradient,) = torch.autograd.grad(value, leaf)

    reference = logits.double().requires_grad_()
    each = torch.stack([own_probabilities(teacher, inputs) for teacher in teachers], dim=1)
    expected = naive_comparison(each, reference.softmax(dim=-1), student, inputs, events, comparison)
    (expected_gradient,) = torch.autograd.grad(expected, reference)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert expected_gradient.abs().max() > 1e-4
    assert torch.allclose(gradient.double(), expected_gradient, rtol=1e-3, atol=1e-6)


def test_sources_that_a_row_leaves_out_break_neither_the_loss_nor_its_gradient(scenes):
    scene = scenes["same"]
    inputs, teachers = scene.batch(ROWS), teachers_of(scene)
    comparison = Comparison(make_events(ForwardKL(), scene.data, DEVICE), 1.0, "student_teacher")
    logits = random_logits(len(inputs["spans"].teacher_rows), 3, seed=4, scale=1.0, dtype=torch.float32)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype).requires_grad_()
        weights = spread(top_k_choice(leaf, 2), 3)
        if dtype == torch.float32:
            value = compare(run_mixture(scene, inputs, weights, teachers), scene.look(inputs), inputs, comparison)
        else:
            each = torch.stack([own_probabilities(teacher, inputs) for teacher in teachers], dim=1)
            value = naive_comparison(each, weights, scene.look(inputs), inputs, comparison.events, comparison)
        results.append((value.item(), torch.autograd.grad(value, leaf)[0].double()))
    (value, gradient), (expected, expected_gradient) = results
    assert value == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-3, atol=1e-6)
