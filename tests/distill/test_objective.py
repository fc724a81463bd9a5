"""What a loss compares where, how it is blended with cross-entropy, and what the teacher was asked for."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from kdkit.alignment.prefixes import group_tokens
from kdkit.config.losses import ALM, ForwardKL
from kdkit.data.batches import find_spans
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.distill.choose_loss import check_temperature_is_taken
from kdkit.distill.objective import Objective
from kdkit.distill.span_objective import SpanLoss
from kdkit.errors import UserError
from kdkit.losses import cross_tokenizer as ct
from kdkit.losses.chunked.engine import Head, chunked_loss
from kdkit.losses.chunked.events import EventPair, TokenEvents
from kdkit.losses.chunked.signals import DenseSignals, SparseSignals
from kdkit.losses.closed_forms import MEASURES
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels
from kdkit.losses.dynamic_mapping import cdm
from kdkit.losses.measures import make_measure
from tests.distill.objectives import CPU, Batch, every_loss, objective_for, pair_for, settings_of
from tests.references import plain_divergence, random_logits, softmax
from tests.tiny import make_config, make_run, make_trainer

SPAN_LOSSES = ["xtoken_p_kl", "xtoken_h_kl", "alm", "gold", "uld", "cdm"]


def six_tokens(teacher_positions: list[int], same_token: list[bool]) -> tuple[Windows, torch.Tensor]:
    """Return one window of six tokens, and the labels of an answer that begins at its fourth."""
    ids = np.arange(6, dtype=np.int32)[None]
    windows = Windows(ids, ids, np.array([teacher_positions]), np.array([same_token]), np.array([5]))
    labels = torch.tensor([[IGNORE_INDEX] * 3 + [3, 4, 5]])
    return windows, labels


def test_the_first_answer_token_is_the_first_that_counts_and_nothing_past_the_end_does():
    windows, labels = six_tokens([0, 1, 2, 3, 4, PAD], [True] * 5 + [False])
    spans = find_spans(windows, [0], 6, 6)
    targets = shift_labels(labels).flatten()[spans.student_rows]
    hidden = random_logits(5, 8).requires_grad_()
    teacher = random_logits(5, 8, seed=1)
    identity = Head(torch.eye(8).double(), 8)
    objective = Objective(1.0, 0.5, 8, EventPair(TokenEvents(), TokenEvents(), 8, "tokens"), make_measure(ForwardKL()))

    def compute(teacher: torch.Tensor) -> torch.Tensor:
        signals = DenseSignals(teacher, identity, CPU, targets, torch.zeros(5, dtype=torch.int64))
        chunk_loss, chunks = objective.loss_of(spans, targets, signals, num_items=3)
        return chunked_loss(hidden, identity, chunk_loss, chunks)[0]

    loss = compute(teacher)
    # positions 2, 3, 4 predict the answer's tokens 3, 4, 5
    expected = 0.0
    for position, target in ((2, 3), (3, 4), (4, 5)):
        p, q = softmax(teacher[position].tolist(), 1.0), softmax(hidden[position].tolist(), 1.0)
        expected += (0.5 * -math.log(q[target]) + 0.5 * plain_divergence(ForwardKL(), p, q)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    gradient = torch.autograd.grad(loss, hidden)[0]
    assert (gradient != 0).any(dim=1).tolist() == [False, False, True, True, True]
    for position in range(5):
        changed = teacher.clone()
        changed[position, 0] += 1.0
        assert (compute(changed).item() != loss.item()) is (position >= 2), position


def test_a_span_that_reaches_into_the_prompt_is_left_to_cross_entropy():
    # spans of the rows 0 | 1 2 | 3 4; the answer begins with what row 2 predicts, in the middle of the second
    windows, labels = six_tokens([0, 1, PAD, 3, PAD, PAD], [True] + [False] * 5)
    spans = find_spans(windows, [0], 6, 6)
    targets = shift_labels(labels).flatten()[spans.student_rows]
    hidden, teacher, identity = random_logits(5, 8).requires_grad_(), random_logits(5, 8, seed=1), torch.eye(8).double()
    signals = DenseSignals(
        teacher, Head(identity, 8), CPU, torch.tensor([1, 2, 3, 4, 5]), torch.zeros(5, dtype=torch.int64)
    )
    nothing = torch.zeros(0, dtype=torch.int64)
    objective = Objective(1.0, 0.6, 8, span_loss=SpanLoss(ALM(), 1.0, nothing, nothing))
    chunk_loss, chunks = objective.loss_of(spans, targets, signals, num_items=3)
    loss, terms = chunked_loss(hidden, Head(identity, 8), chunk_loss, chunks)
    student, expected_teacher = torch.log_softmax(hidden, -1), torch.log_softmax(teacher, -1)
    true = student[[2, 3, 4], [3, 4, 5]]
    one_span = torch.zeros(2, dtype=torch.int64)
    value = ct.alm(true[1:], expected_teacher[[3, 4], [4, 5]], one_span, one_span, 100.0).sum()
    assert terms.tolist() == pytest.approx(
        [(-true[0] - 0.4 * true[1:].sum() + 0.6 * 2 * value).item() / 3, -true.sum().item() / 3, 2 * value.item() / 3]
    )
    gradient = torch.autograd.grad(loss, hidden)[0]
    assert (gradient != 0).any(dim=1).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize(
    ("loss", "pair"),
    [
        ("", "same"),
        ("overlap_kl", "crossed"),
        ("projected_kl", "finer student"),
        ("projected_kl", "finer teacher"),
        ("projected_kl", "crossed"),
    ],
)
def test_the_loss_blends_token_by_token_and_leaves_unaligned_tokens_their_cross_entropy(
    pairs, loss, pair, divergence, tmp_path
):
    data, teacher = pairs[pair].data, pairs[pair].teacher
    loss = {"name": loss, "divergence": divergence} if loss else divergence
    settings, temperature = settings_of(divergence), 2.0
    config = make_config(tmp_path, distill={"loss": loss, "kd_ratio": 0.9, "temperature": temperature})
    trainer = make_trainer(config, make_run(tmp_path), data, teacher)
    rows = [0, 1, 2]
    batch = trainer.data_collator(rows)
    got, terms = trainer.compute_step(trainer.model, batch, None)
    with torch.no_grad():
        student_logits = trainer.model(input_ids=batch["input_ids"]).logits
        teacher_logits = teacher.model(input_ids=batch["teacher_input_ids"]).logits
    events = slow_events(loss if isinstance(loss, str) else loss["name"], data)
    total = ce = kd = tokens = aligned = 0
    for place, row in enumerate(rows):
        for i in range(batch["input_ids"].shape[1] - 1):
            target, position = batch["labels"][place, i + 1].item(), int(data.train.teacher_positions[row, i])
            if target == IGNORE_INDEX:
                continue
            student = student_logits[place, i]
            value = -math.log(softmax(student.tolist(), 1.0)[target])
            ce += value
            if position != PAD and (data.train.same_token[row, i] or "overlap_kl" not in str(loss)):
                p, q = (
                    gather(softmax(logits.tolist(), 1.0), groups, temperature)
                    for logits, groups in zip((teacher_logits[place, position], student), events, strict=True)
                )
                kd_value = temperature**2 * plain_divergence(settings, p, q)
                value = 0.1 * value + 0.9 * kd_value + 0.9 * open_part(student, events[1], target, loss)
                kd += kd_value
                aligned += 1
            total, tokens = total + value, tokens + 1
    assert (0 < aligned < tokens) if loss != divergence and pair != "finer teacher" else aligned > 0
    assert got.item() == pytest.approx(total / tokens, rel=1e-4)
    assert terms["ce_loss"].item() == pytest.approx(ce / tokens, rel=1e-4)
    assert terms["kd_loss"].item() == pytest.approx(kd / tokens, rel=1e-4)


def open_part(logits: torch.Tensor, events: list[list[int]], target: int, loss: str | dict) -> float:
    """Return -log probability of a token given that its event comes; tokens without one are together."""
    if "projected_kl" not in str(loss):
        return 0.0
    lonely = set(range(len(logits))) - {token for tokens in events for token in tokens}
    tokens = next((tokens for tokens in events if target in tokens), lonely)
    q = softmax(logits.tolist(), 1.0)
    return math.log(math.fsum(q[token] for token in tokens)) - math.log(q[target])


def slow_events(loss: str, data: PreparedData) -> tuple[list[list[int]], list[list[int]]]:
    """Return the teacher's and the student's tokens of every event, one list per event."""
    sizes = len(data.teacher_tokenizer), len(data.student_tokenizer)
    if loss == "overlap_kl":
        return [[token] for token in data.overlap.teacher_ids], [[token] for token in data.overlap.student_ids]
    if loss != "projected_kl":
        return tuple([[token] for token in range(size)] for size in sizes)
    facts = data.manifest["train"]
    tokenizers = data.teacher_tokenizer, data.student_tokenizer
    student_is_finer = facts["student_tokens"] > facts["teacher_tokens"]
    fine, coarse = tokenizers[::-1] if student_is_finer else tokenizers
    groups = group_tokens(fine, coarse).tolist()
    own = [[token] for token in range(len(fine))]
    grouped = [[token for token, group in enumerate(groups) if group == event] for event in range(len(fine))]
    return (grouped, own) if student_is_finer else (own, grouped)


def gather(probabilities: list[float], events: list[list[int]], temperature: float) -> list[float]:
    """Add up probabilities by event, temper the sums, renormalise; no token: fp32's smallest number."""
    least = torch.finfo(torch.float32).tiny * max(probabilities) ** (1 / temperature)
    sums = [math.fsum(probabilities[token] for token in tokens) ** (1 / temperature) or least for tokens in events]
    return [value / math.fsum(sums) for value in sums]


@pytest.mark.parametrize("loss", SPAN_LOSSES)
def test_the_value_of_a_span_counts_once_for_each_of_its_student_rows(pairs, loss):
    pair = pairs["crossed"]
    objective = objective_for(loss, pair.data)
    batch = Batch(pair, [5, 2])
    terms, _ = batch.compute(objective, num_items=10.0)
    kd = sum(len(rows) * value for rows, value in slow_span_values(objective, batch))
    ce = batch.cross_entropies().sum().item()
    expected = [0.4 * ce + 0.6 * kd, ce, kd]
    assert terms.tolist() == pytest.approx([value / 10.0 for value in expected], rel=1e-4)


def slow_span_values(objective: Objective, batch: Batch) -> list[tuple[list[int], float]]:
    """Return the student rows and the value of each span, each computed alone (CDM: each sequence alone)."""
    spans, bound, results = batch.spans, objective.span_loss, []
    student, teacher = batch.student_logits(), batch.teacher_logits()
    bounds = [spans.student_starts.tolist(), spans.teacher_starts.tolist()]
    if objective.span_loss.settings.name == "cdm":
        for first, last in pairwise(spans.sequence_starts.tolist()):
            a, b = (slice(side[first], side[last]) for side in bounds)
            options = {"top_k": objective.span_loss.settings.top_k, "temperature": objective.temperature}
            values, groups = cdm(
                student[a], teacher[b], batch.targets[a], batch.signals.targets[b], bound.matcher, **options
            )
            results += [([row], value) for row, value in enumerate(values[groups].tolist())]
        return results
    for (a, c), (b, d) in zip(*map(pairwise, bounds), strict=True):
        logits, numbers = (student[a:c], teacher[b:d]), tuple(torch.zeros(n, dtype=torch.int64) for n in (c - a, d - b))
        targets = batch.targets[a:c], batch.signals.targets[b:d]
        value = slow_span_value(objective, logits, numbers, targets)
        results.append((list(range(a, c)), value.item()))
    return results


def slow_span_value(objective: Objective, logits, numbers, targets) -> torch.Tensor:
    """Compute the loss of one span."""
    settings, bound, temperature = objective.span_loss.settings, objective.span_loss, objective.temperature
    pairs = bound.student_ids, bound.teacher_ids
    match settings.name:
        case "alm":
            true = (torch.log_softmax(z, -1).gather(1, x[:, None])[:, 0] for z, x in zip(logits, targets, strict=True))
            return ct.alm(*true, *numbers, settings.likelihood_temperature)
        case "uld":
            return ct.uld(*logits, *numbers, temperature)
        case "gold":
            return ct.gold(*logits, *numbers, *targets, *pairs, temperature, settings.teacher_weight)
        case "xtoken_h_kl":
            return ct.xtoken_h_kl(*logits, *numbers, *pairs, temperature, settings.kept_uncommon)
    matrix = torch.from_numpy(bound.projection.ids), torch.from_numpy(bound.projection.weights)
    return ct.xtoken_p_kl(*logits, *numbers, *matrix, temperature, settings.kept_teacher_ids)


@pytest.fixture(scope="module")
def rows_by_hand(pairs):
    """Return a call that adds up a teacher's probabilities by hand, so that a mistake of the whole rows is not kept."""

    @cache
    def add_up(pair, loss, made_at):
        batch = Batch(pairs[pair], [0, 1, 2], masked={1: 4})
        events = slow_events(loss, pairs[pair].data)[0]
        logits = batch.teacher_logits()[batch.spans.teacher_starts[:-1]].double().tolist()
        return [gather(softmax(row, 1.0), events, made_at) for row in logits]

    return lambda pair, loss, made_at: add_up(pair, "forward_kl" if loss in MEASURES else loss, made_at)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("made_at", [1.0, 2.0])
@pytest.mark.parametrize(
    ("loss", "pair", "tail"),
    [
        *((loss, "same", "ghost") for loss in MEASURES),
        *(("forward_kl", "same", tail) for tail in ("keep_mass", "renormalise")),
        *((loss, "crossed", tail) for loss in ("overlap_kl", "projected_kl") for tail in ("ghost", "keep_mass")),
        *(("projected_kl", f"finer {side}", "ghost") for side in ("student", "teacher")),
    ],
)
def test_kept_answers_about_everything_give_the_loss_of_the_whole_rows(
    pairs, rows_by_hand, loss, pair, tail, made_at, temperature
):
    rows, pair = rows_by_hand(pair, loss, made_at), pairs[pair]
    objective = replace(objective_for(loss, pair.data, temperature=temperature), tail=tail)
    batch = Batch(pair, [0, 1, 2], masked={1: 4})
    expected = batch.compute(objective)
    firsts = batch.spans.teacher_starts[:-1]
    logprobs = torch.tensor(rows, dtype=torch.float64).log().float()
    ids = torch.arange(logprobs.shape[1]).expand(len(firsts), -1)
    # any order will do
    ids, logprobs = ids.flip(1), logprobs.flip(1)
    batch.signals = SparseSignals(ids, logprobs, torch.full((len(firsts), 1), -6e4), made_at)
    terms, gradients = batch.compute(objective)
    assert torch.allclose(terms, expected[0], rtol=1e-5)
    for got, wanted in zip(gradients, expected[1], strict=True):
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_rows_at_which_the_teacher_is_not_asked_are_in_no_loss_if_that_is_wanted(pairs):
    pair = pairs["crossed"]
    batch = Batch(pair, [0, 1])
    objective = replace(objective_for("projected_kl", pair.data), kd_ratio=1.0, ce_elsewhere=False)
    terms, (gradient, _) = batch.compute(objective)
    first_rows = torch.zeros(len(batch.targets), dtype=torch.bool)
    first_rows[batch.spans.student_starts[:-1]] = True
    assert ((gradient != 0).any(dim=1) == first_rows).all()
    assert terms[0].item() == pytest.approx(terms[2].item())


@every_loss
@pytest.mark.parametrize("kd_ratio", [0.25, 1.0])
def test_the_ratio_weighs_cross_entropy_and_the_teacher_where_it_is_asked(pairs, loss, kd_ratio):
    pair = pair_for(pairs, loss)
    batch = Batch(pair, [0, 1])
    terms, _ = batch.compute(objective_for(loss, pair.data, kd_ratio))
    asked = torch.ones(len(batch.targets), dtype=torch.bool)
    if loss in ("projected_kl", "overlap_kl"):
        firsts = batch.spans.student_starts[:-1]
        asked = torch.zeros_like(asked)
        asked[firsts[batch.spans.same_token] if loss == "overlap_kl" else firsts] = True
    ce = batch.cross_entropies() / 10.0
    expected = (1 - kd_ratio) * ce[asked].sum() + ce[~asked].sum() + kd_ratio * terms[2]
    assert terms[0].item() == pytest.approx(expected.item(), rel=1e-4)
    assert terms[1].item() == pytest.approx(ce.sum().item(), rel=1e-4)


@every_loss
def test_a_temperature_changes_a_loss_or_is_refused(pairs, loss):
    pair = pair_for(pairs, loss)
    batch = Batch(pair, [0, 1])
    if loss == "alm":
        with pytest.raises(UserError, match=r"temperature: expected 1 for 'alm'"):
            check_temperature_is_taken(settings_of(loss), 0.5)
        return
    check_temperature_is_taken(settings_of(loss), 0.5)
    values = [batch.compute(objective_for(loss, pair.data, temperature=t))[0][2].item() for t in (0.5, 1.0, 4.0)]
    assert len({round(value, 4) for value in values}) == 3


def test_without_a_ratio_the_teacher_is_not_asked(pairs, tmp_path):
    pair = pairs["crossed"]
    config = make_config(tmp_path, distill={"loss": "projected_kl", "kd_ratio": 0.0})
    trainer = make_trainer(config, make_run(tmp_path), pair.data, pair.teacher)
    trainer.teacher.answer = lambda *_: pytest.fail("asked")
    loss, terms = trainer.compute_step(trainer.model, trainer.data_collator([0, 1]), None)
    assert loss.item() == pytest.approx(terms["ce_loss"].item())
    assert terms["kd_loss"].item() == 0
