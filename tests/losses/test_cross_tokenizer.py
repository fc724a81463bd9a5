"""Losses between different tokenizers: slow references, hand-worked spans, gradients, independence of spans."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from kdkit.errors import UserError
from kdkit.losses import cross_tokenizer as ct

LOSSES = ["xtoken_p_kl", "xtoken_h_kl", "gold", "uld", "alm"]
V_STUDENT, V_TEACHER = 7, 9
STUDENT_SPANS, TEACHER_SPANS = [0, 0, 1, 2, 2, 2, 3], [0, 1, 1, 2, 3, 3]


@dataclass(frozen=True)
class Chunk:
    """What the engine hands to a loss, and what it knows about the two vocabularies."""

    student_logits: torch.Tensor
    teacher_logits: torch.Tensor
    student_spans: torch.Tensor
    teacher_spans: torch.Tensor
    student_targets: torch.Tensor
    teacher_targets: torch.Tensor
    projection_ids: torch.Tensor
    projection_weights: torch.Tensor
    num_kept: int
    student_ids: torch.Tensor
    teacher_ids: torch.Tensor

    def compute(self, name: str, temperature: float = 1.0) -> torch.Tensor:
        if name == "alm":
            sides = (self.student_logits, self.student_targets), (self.teacher_logits, self.teacher_targets)
            logprobs = [
                torch.log_softmax(z if z.dtype == torch.float64 else z.float(), -1).gather(1, x[:, None])[:, 0]
                for z, x in sides
            ]
            return ct.alm(*logprobs, self.student_spans, self.teacher_spans, 10.0 * temperature)
        rows = self.student_logits, self.teacher_logits, self.student_spans, self.teacher_spans
        if name == "xtoken_p_kl":
            return ct.xtoken_p_kl(*rows, self.projection_ids, self.projection_weights, temperature, self.num_kept)
        if name == "xtoken_h_kl":
            return ct.xtoken_h_kl(*rows, self.student_ids, self.teacher_ids, temperature, kept_uncommon=3)
        if name == "gold":
            targets = self.student_targets, self.teacher_targets
            return ct.gold(*rows, *targets, self.student_ids, self.teacher_ids, temperature, teacher_weight=0.3)
        return ct.uld(*rows, temperature)

    def select(self, spans: list[int]) -> "Chunk":
        """Return the chunk of some spans, renumbered."""
        student = torch.cat([(self.student_spans == span).nonzero()[:, 0] for span in spans])
        teacher = torch.cat([(self.teacher_spans == span).nonzero()[:, 0] for span in spans])
        return replace(
            self,
            student_logits=self.student_logits[student],
            teacher_logits=self.teacher_logits[teacher],
            student_targets=self.student_targets[student],
            teacher_targets=self.teacher_targets[teacher],
            student_spans=torch.unique(self.student_spans[student], return_inverse=True)[1],
            teacher_spans=torch.unique(self.teacher_spans[teacher], return_inverse=True)[1],
        )


@pytest.fixture
def chunk() -> Chunk:
    """Four spans of up to three rows, in float64; student token 6 projects nowhere, teacher token 8 is not reached."""
    draw = torch.Generator().manual_seed(3)
    weights = torch.rand(V_STUDENT, 4, generator=draw, dtype=torch.float64)
    weights[0] = torch.tensor([1.0, 0, 0, 0])
    weights[6] = 0
    return Chunk(
        torch.randn(7, V_STUDENT, generator=draw, dtype=torch.float64) * 2,
        torch.randn(6, V_TEACHER, generator=draw, dtype=torch.float64) * 2,
        torch.tensor(STUDENT_SPANS),
        torch.tensor(TEACHER_SPANS),
        torch.randint(0, V_STUDENT, (7,), generator=draw),
        torch.randint(0, V_TEACHER, (6,), generator=draw),
        torch.randint(0, 8, (V_STUDENT, 4), generator=draw),
        weights / weights.sum(1, keepdim=True).clamp(min=1e-9),
        4,
        torch.tensor([4, 0, 1]),
        torch.tensor([2, 8, 3]),
    )


def identical(rows: int, spans: list[int]) -> Chunk:
    """One model and one tokenizer on both sides."""
    logits = torch.randn(rows, 6, generator=torch.Generator().manual_seed(5)) * 3
    targets, spans, ids = torch.arange(rows) % 6, torch.tensor(spans), torch.zeros(6, 4, dtype=torch.int64)
    ids[:, 0] = torch.arange(6)
    weights = torch.tensor([1.0, 0, 0, 0]).repeat(6, 1)
    pairs = torch.tensor([1, 4, 2])
    return Chunk(
        logits, logits.clone(), spans, spans, targets, targets, ids, weights, 4, pairs, pairs
    )


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def sorted_l1(first: list[float], second: list[float], kept: int = 9) -> float:
    """Padded with zeros; beyond `kept` ranks only the two sums are compared."""
    first, second = (sorted(values, reverse=True) + [0.0] * (9 - len(values)) for values in (first, second))
    ranked = sum(abs(a - b) for a, b in zip(first[:kept], second[:kept], strict=True))
    return ranked + abs(sum(first[kept:]) - sum(second[kept:]))


def geometric_mean(rows: list[list[float]]) -> list[float]:
    means = [math.exp(sum(math.log(p) for p in column) / len(rows)) for column in zip(*rows, strict=True)]
    return [mean / sum(means) for mean in means]


def temper(values: list[float], temperature: float) -> list[float]:
    powers = [value ** (1 / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def reference_p_kl(one: Chunk, temperature: float) -> float:
    """Average and project at temperature 1, temper what came out on the teacher's likeliest tokens of the span."""
    q, p = ([softmax(z, 1.0) for z in side.tolist()] for side in (one.student_logits, one.teacher_logits))
    reached = [0.0] * V_TEACHER
    for s in range(V_STUDENT):
        mean = sum(row[s] for row in q) / len(q)
        for t, w in zip(one.projection_ids[s].tolist(), one.projection_weights[s].tolist(), strict=True):
            reached[t] += w * mean
    mean_p = geometric_mean(p)
    kept = sorted((t for t in range(V_TEACHER) if reached[t] > 0), key=lambda t: -mean_p[t])[: one.num_kept]
    student, teacher = (temper([side[t] for t in kept], temperature) for side in (reached, mean_p))
    return sum(a * math.log(a / b) for a, b in zip(teacher, student, strict=True))


def reference_h_kl(c: Chunk, q: list[list[float]], p: list[list[float]], q_ids: list[int], p_ids: list[int]) -> float:
    student, teacher = geometric_mean(q), geometric_mean(p)
    pairs = list(zip(c.student_ids.tolist(), c.teacher_ids.tolist(), strict=True))
    common = sum(teacher[t] * math.log(teacher[t] / student[s]) for s, t in pairs)
    other_student = [x for s, x in enumerate(student) if s not in c.student_ids.tolist()]
    other_teacher = [x for t, x in enumerate(teacher) if t not in c.teacher_ids.tolist()]
    return common + sorted_l1(other_student, other_teacher, 3)


def reference_gold(c: Chunk, q: list[list[float]], p: list[list[float]], q_ids: list[int], p_ids: list[int]) -> float:
    merged = []
    for rows, ids in ((q, q_ids), (p, p_ids)):
        factor = 1.0
        for row, token in zip(rows[:-1], ids[:-1], strict=True):
            factor *= row[token]
        merged.append([factor * x for x in rows[-1]])
    student, teacher = merged
    matched, w = 0.0, 0.3
    for s, t in zip(c.student_ids.tolist(), c.teacher_ids.tolist(), strict=True):
        a, b = teacher[t], student[s]
        m = w * a + (1 - w) * b
        matched += w * a * math.log(a / m) + (1 - w) * b * math.log(b / m)
    other_student = [x for s, x in enumerate(student) if s not in c.student_ids.tolist()]
    other_teacher = [x for t, x in enumerate(teacher) if t not in c.teacher_ids.tolist()]
    share = 3 / V_TEACHER
    return share * matched + (1 - share) * sorted_l1(other_student, other_teacher)


def reference_uld(c: Chunk, q: list[list[float]], p: list[list[float]], q_ids: list[int], p_ids: list[int]) -> float:
    return sorted_l1(q[0], p[0])


def reference(chunk: Chunk, name: str, temperature: float) -> list[float]:
    """Compute a loss with plain Python numbers, span after span."""
    values = []
    for span in range(4):
        one = chunk.select([span])
        ids = one.student_targets.tolist(), one.teacher_targets.tolist()
        if name == "alm":
            rows = [[softmax(z, 1.0) for z in side.tolist()] for side in (one.student_logits, one.teacher_logits)]
            student, teacher = (
                math.prod(row[x] for row, x in zip(side, i, strict=True)) ** (0.1 / temperature) * math.exp(-1e-6)
                for side, i in zip(rows, ids, strict=True)
            )
            cross = -teacher * math.log(student) - (1 - teacher) * math.log(1 - student)
            values.append(cross + teacher * math.log(teacher) + (1 - teacher) * math.log(1 - teacher))
            continue
        if name == "xtoken_p_kl":
            values.append(temperature**2 * reference_p_kl(one, temperature))
            continue
        q, p = ([softmax(z, temperature) for z in side.tolist()] for side in (one.student_logits, one.teacher_logits))
        function = {
            "xtoken_h_kl": reference_h_kl,
            "gold": reference_gold,
            "uld": reference_uld,
        }[name]
        values.append(temperature**2 * function(chunk, q, p, *ids))
    return values


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_equals_its_slow_reference(chunk, name, temperature):
    assert chunk.compute(name, temperature).tolist() == pytest.approx(reference(chunk, name, temperature), rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_in_float64(chunk, name):
    student = chunk.student_logits.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: replace(chunk, student_logits=z).compute(name, 1.5), student)


@pytest.mark.parametrize("name", LOSSES)
def test_identical_models_differ_by_nothing_at_spans_of_one_row(name):
    values = identical(5, [0, 1, 2, 3, 4]).compute(name, 2.0)
    assert values.shape == (5,) and values.abs().max() < 2e-6


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "xtoken_p_kl"])
def test_identical_models_differ_by_nothing_at_longer_spans(name):
    values = identical(5, [0, 0, 1, 1, 1]).compute(name, 2.0)
    assert values.shape == (2,) and values.abs().max() < 2e-6


@pytest.mark.parametrize("name", LOSSES)
def test_the_value_of_a_span_does_not_depend_on_the_other_spans(chunk, name):
    whole = chunk.compute(name)
    for spans in ([0], [3], [1, 2], [0, 2, 3]):
        assert torch.allclose(chunk.select(spans).compute(name), whole[spans], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_only_the_rows_of_a_span_get_a_gradient_from_it(chunk, name):
    student, teacher = chunk.student_logits.requires_grad_(True), chunk.teacher_logits.requires_grad_(True)
    replace(chunk, student_logits=student, teacher_logits=teacher).compute(name)[2].backward()
    assert student.grad[[0, 1, 2, 6]].abs().max() == 0
    # every row of the span has a say, except for ULD, which looks at the first
    assert student.grad[3:6].abs().amax(dim=1).min() > 0 or (name == "uld" and student.grad[3].abs().max() > 0)
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_at_the_end_of_their_range_stay_finite(chunk, name, dtype):
    signs = torch.where(torch.arange(49).reshape(7, 7) % 3 == 0, 6e4, -6e4)
    student = signs.to(dtype).requires_grad_(True)
    teacher = torch.where(torch.arange(54).reshape(6, 9) % 4 == 1, 6e4, -6e4).to(dtype)
    extreme = replace(chunk, student_logits=student, teacher_logits=teacher)
    values = replace(extreme, projection_weights=chunk.projection_weights.float()).compute(name)
    values.sum().backward()
    assert values.dtype == torch.float32 and values.shape == (4,)
    assert torch.isfinite(values).all() and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_chunk_without_spans_has_no_values_but_a_gradient_graph(chunk, name):
    student = chunk.student_logits[:0].requires_grad_(True)
    empty = torch.zeros(0, dtype=torch.int64)
    nothing = Chunk(student, chunk.teacher_logits[:0], empty, empty, empty, empty, *list(vars(chunk).values())[6:])
    values = nothing.compute(name)
    values.sum().backward()
    assert values.shape == (0,)


def test_p_kl_compares_the_arithmetic_mean_of_the_student_with_the_geometric_mean_of_the_teacher():
    ids, weights = torch.tensor([[0, 0], [1, 0]]), torch.tensor([[1.0, 0], [1, 0]])
    student = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    teacher = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    spans = torch.tensor([0, 0])
    value = ct.xtoken_p_kl(student, teacher, spans, spans, ids, weights)
    # student (0.375, 0.625); teacher sqrt(0.09) twice, so (0.5, 0.5)
    assert value.item() == pytest.approx(0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625), rel=1e-5)


def test_p_kl_spreads_a_student_token_over_its_pieces():
    # student: "a" 0.5, "ab" 0.5; teacher: "a", "b" and a token that no student token becomes
    ids, weights = torch.tensor([[0, 0], [0, 1]]), torch.tensor([[1.0, 0], [0.9, 0.1]])
    student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.76, 0.04, 0.2]]).log()
    spans = torch.tensor([0])
    # 0.95 and 0.05 are the teacher's odds without the third token
    assert ct.xtoken_p_kl(student, teacher, spans, spans, ids, weights).item() == pytest.approx(0, abs=1e-6)
    student[0] += torch.tensor([1.0, 0.0])
    assert ct.xtoken_p_kl(student, teacher, spans, spans, ids, weights).item() > 0.005
    # one token is certain among itself
    assert ct.xtoken_p_kl(student, teacher, spans, spans, ids, weights, kept_teacher_ids=1).item() == 0


def test_h_kl_is_never_negative_though_its_common_part_may_be():
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(200, 6, generator=draw, dtype=torch.float64) * 3
    teacher = torch.randn(200, 9, generator=draw, dtype=torch.float64) * 3
    spans, pairs = torch.arange(200), torch.tensor([0, 1, 2])
    values = ct.xtoken_h_kl(student, teacher, spans, spans, pairs, pairs, kept_uncommon=1)
    p, q = torch.softmax(teacher, -1)[:, :3], torch.softmax(student, -1)[:, :3]
    assert (p * (p / q).log()).sum(-1).min() < -0.1
    assert values.min() >= 0


def test_gold_multiplies_the_probabilities_of_the_true_tokens_before_the_last_row():
    # " func" 0.5, then "tion" 0.4 and "s" 0.6 for the student; the teacher has " function" in one token
    student = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.4, 0.5]]).log()
    teacher = torch.tensor([[0.2, 0.3, 0.4, 0.1]]).log()
    student_spans, teacher_spans = torch.tensor([0, 0]), torch.tensor([0])
    targets, pairs = (torch.tensor([0, 1]), torch.tensor([2])), (torch.tensor([1]), torch.tensor([2]))
    value = ct.gold(student, teacher, student_spans, teacher_spans, *targets, *pairs).item()
    # merged student: 0.05, 0.2, 0.25; matched: 0.2 against 0.4; others 0.25, 0.05, 0 against 0.3, 0.2, 0.1
    jsd = 0.5 * 0.4 * math.log(0.4 / 0.3) + 0.5 * 0.2 * math.log(0.2 / 0.3)
    assert value == pytest.approx(0.25 * jsd + 0.75 * (0.05 + 0.15 + 0.1), rel=1e-5)


def test_alm_compares_the_likelihood_of_the_whole_text_of_a_span():
    student, teacher = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25]).log()
    value = ct.alm(student, teacher, torch.tensor([0, 0]), torch.tensor([0]), likelihood_temperature=1.0)
    # 1/4 against 1/8
    assert value.item() == pytest.approx(0.25 * math.log(2) + 0.75 * math.log(0.75 / 0.875), rel=1e-4)


def test_alm_has_the_gradient_of_binary_cross_entropy(chunk):
    spans = torch.tensor([0])
    student, teacher = torch.tensor([-3.0], dtype=torch.float64), torch.tensor([-20.0], dtype=torch.float64)
    ct.alm(student.requires_grad_(True), teacher, spans, spans).sum().backward()
    p, q = math.exp(-0.2 - 1e-6), math.exp(-0.03 - 1e-6)
    assert student.grad.item() == pytest.approx((q - p) / (1 - q) / 100, rel=1e-9)


@pytest.mark.parametrize("student_logprob", [0.0, -1e-9, -1e5, -float("inf")])
@pytest.mark.parametrize("teacher_logprob", [0.0, -1e-9, -1e5, -float("inf")])
def test_alm_is_finite_for_certain_and_for_impossible_text(student_logprob, teacher_logprob):
    student = torch.tensor([student_logprob], requires_grad=True)
    spans = torch.tensor([0])
    value = ct.alm(student, torch.tensor([teacher_logprob]), spans, spans)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(student.grad).all()


def test_uld_takes_the_row_it_is_asked_for(chunk):
    spans = torch.tensor([0, 0, 0, 1, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 2, 2])
    p, q = torch.softmax(chunk.teacher_logits, -1).tolist(), torch.softmax(chunk.student_logits, -1).tolist()
    first = ct.uld(chunk.student_logits, chunk.teacher_logits, *spans, row="first")
    last = ct.uld(chunk.student_logits, chunk.teacher_logits, *spans, row="last")
    assert first[1].item() == pytest.approx(sorted_l1(q[3], p[1]), rel=1e-9)
    assert last[1].item() == pytest.approx(sorted_l1(q[5], p[2]), rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_spans": torch.tensor([0, 0, 1])}, "expected student rows of . dimensions? .*span number"),
        ({"teacher_spans": torch.tensor([0, 1, 1, 2, 3, 4])}, "same spans on both sides, got 4 .* 5"),
        ({"teacher_spans": torch.tensor([0, 1, 1, 3, 3, 3])}, "expected teacher spans 0, 1, .* without gaps"),
        ({"student_spans": torch.tensor([0, 0, 1, 2, 1, 2, 3])}, "expected student spans 0, 1, .* without gaps"),
        ({"student_spans": torch.tensor([1, 1, 2, 2, 2, 2, 3])}, "expected student spans 0, 1, .* without gaps"),
    ],
)
def test_spans_that_do_not_fit_are_refused_in_one_line(chunk, name, change, message):
    with pytest.raises(UserError, match=f"{name}: .*{message}") as caught:
        replace(chunk, **change).compute(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("xtoken_p_kl", {"projection_ids": torch.zeros(3, 4, dtype=torch.int64)}, "weights of 7 student tokens"),
        ("xtoken_p_kl", {"projection_weights": torch.zeros(7, 3)}, "weights of 7 student tokens"),
        ("xtoken_h_kl", {"student_ids": torch.tensor([1])}, "one teacher id per student id"),
        ("gold", {"teacher_ids": torch.tensor([1])}, "one teacher id per student id"),
        ("gold", {"teacher_targets": torch.tensor([1])}, "one target per teacher row"),
        ("uld", {"student_logits": torch.zeros(1, 7, 7)}, "expected student rows of 2 dimensions"),
    ],
)
def test_vocabularies_and_targets_that_do_not_fit_are_refused(chunk, name, change, message):
    with pytest.raises(UserError, match=f"{name}: .*{message}"):
        replace(chunk, **change).compute(name)


@pytest.mark.parametrize("name", LOSSES)
def test_a_temperature_of_zero_is_refused(chunk, name):
    with pytest.raises(UserError, match="temperature"):
        chunk.compute(name, 0.0)
