"""Losses of sentence vectors: golden values computed apart in float64, references, and bad batches."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from kdkit.losses.layers import layer_similarity
from kdkit.losses.sentences import (
    cosine_distance,
    info_nce,
    mse_of_units,
    ranking_loss,
    rkd_angle,
    rkd_distance,
    similarities,
    similarity_kl,
    similarity_mse,
    unit,
)
from tests.memory import Allocations

INDEX = torch.arange(4, dtype=torch.float64)
ROW_S = torch.sin(1 + 4 * INDEX[:, None] + INDEX)
ROW_T = torch.cos(0.5 * (4 * INDEX[:, None] + INDEX))
S, T = unit(ROW_S), unit(ROW_T)

GOLDEN = {
    "cosine": (lambda: cosine_distance(S, T), 0.833181616),
    "mse": (lambda: mse_of_units(S, T), 0.416590808),
    "similarity": (lambda: similarity_mse(S, T), 0.105930777),
    "ranking": (lambda: ranking_loss(S, T, 0.015, 15), 0.170065230),
    "info_nce": (lambda: info_nce(S, T, 0.05), 14.133199066),
    "rkd_distance": (lambda: rkd_distance(S, T), 0.012396348),
    "rkd_angle": (lambda: rkd_angle(S, T), 0.066878953),
    "layers_sum": (lambda: layer_similarity([ROW_S, ROW_T, ROW_S + ROW_T], "sum"), 2.600441184),
    "layers_mean": (lambda: layer_similarity([ROW_S, ROW_T, ROW_S + ROW_T], "mean"), 0.162527574),
}

LOSSES = {
    "cosine": lambda s, t: cosine_distance(s, t[:, : s.shape[1]]),
    "mse": lambda s, t: mse_of_units(s, t[:, : s.shape[1]]),
    "info_nce": lambda s, t: info_nce(s, t[:, : s.shape[1]], 0.05, torch.arange(len(s))),
    "similarity": similarity_mse,
    "off_diagonal": lambda s, t: similarity_mse(s, t, off_diagonal=True),
    "ranking": lambda s, t: ranking_loss(s, t, 0.015, 128, torch.arange(len(s))),
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "kl": lambda s, t: similarity_kl(s, t, 0.05, 0.05),
    "layers": lambda s, t: layer_similarity([s, t]),
    "one_layer": lambda s, t: layer_similarity([s]),
}
"""Every loss as a function of the student's and the teacher's vectors; the teacher's are wider."""

BATCHES = {
    "one": lambda: torch.randn(1, 6),
    "two": lambda: torch.randn(2, 6),
    "equal": lambda: torch.randn(1, 6).repeat(5, 1),
    "nearly_equal": lambda: torch.randn(1, 6) + 1e-7 * torch.randn(5, 6),
    "zero": lambda: torch.zeros(5, 6),
    "one_zero": lambda: torch.cat([torch.zeros(1, 6), torch.randn(4, 6)]),
    "huge": lambda: 1e4 * torch.randn(5, 6),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_value(name):
    compute, expected = GOLDEN[name]
    value = compute()
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LOSSES)
def test_finite_with_a_bounded_gradient(name, batch):
    torch.manual_seed(0)
    student = BATCHES[batch]().requires_grad_()
    loss = LOSSES[name](student, torch.randn(len(student), 9))
    loss.backward()
    assert loss.isfinite()
    # 1e6 would be the gradient of a division by the smallest norm
    assert student.grad.abs().max() < 1e4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_inputs_under_autocast_are_computed_in_fp32(name, dtype):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 6).to(dtype), torch.randn(6, 9).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(LOSSES[name](student.float(), teacher.float()).item(), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("info_nce", "layers", "ranking")])
def test_zero_for_equal_vectors(name):
    vectors = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).double()
    assert LOSSES[name](vectors, vectors).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["similarity", "off_diagonal", "ranking", "rkd_distance", "rkd_angle", "kl"])
def test_rotation_of_the_student_changes_no_relation(name):
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    before, after = LOSSES[name](student, teacher), LOSSES[name](student @ rotation * 3, teacher)
    assert after.item() == pytest.approx(before.item(), abs=1e-10)
    assert before > 1e-4


@pytest.mark.parametrize("name", ["cosine", "mse", "info_nce", "similarity", "rkd_distance", "rkd_angle", "kl"])
def test_gradient_equals_finite_differences(name):
    student = ROW_S.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, ROW_T), (student,))


def test_cosine_distance_equals_torch():
    torch.testing.assert_close(cosine_distance(ROW_S, ROW_T), F.cosine_embedding_loss(ROW_S, ROW_T, torch.ones(4)))


def test_mse_is_two_over_width_times_the_cosine_distance():
    torch.testing.assert_close(mse_of_units(ROW_S, ROW_T), cosine_distance(ROW_S, ROW_T) * 2 / 4)


def test_unit_keeps_zero_without_gradient():
    vectors = torch.zeros(1, 3, requires_grad=True)
    unit(vectors).sum().backward()
    assert unit(vectors).tolist() == [[0, 0, 0]] and vectors.grad.tolist() == [[0, 0, 0]]


def test_info_nce_has_no_negatives_of_the_same_text():
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    text_ids = [7, 3, 7, 5, 3]
    expected = 0.0
    for i in range(5):
        cosines = [torch.cosine_similarity(first[i], second[j], dim=0).item() / 0.1 for j in range(5)]
        others = [cosines[j] for j in range(5) if j == i or text_ids[j] != text_ids[i]]
        expected += (math.log(sum(math.exp(value) for value in others)) - cosines[i]) / 5
    assert info_nce(first, second, 0.1, torch.tensor(text_ids)).item() == pytest.approx(expected, abs=1e-12)


def test_info_nce_has_no_negatives_of_the_texts_of_a_pair():
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    text_ids, second_ids = [0, 1, 2, 3, 0], [5, 0, 5, 6, 7]
    expected = 0.0
    for i in range(5):
        own = {text_ids[i], second_ids[i]}
        kept = [j for j in range(5) if j == i or (text_ids[j] != text_ids[i] and second_ids[j] not in own)]
        cosines = [torch.cosine_similarity(first[i], second[j], dim=0).item() / 0.1 for j in range(5)]
        expected += (math.log(sum(math.exp(cosines[j]) for j in kept)) - cosines[i]) / 5
    loss = info_nce(first, second, 0.1, torch.tensor(text_ids), torch.tensor(second_ids))
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_info_nce_of_one_text_only_is_zero():
    first = torch.randn(4, 6, requires_grad=True)
    loss = info_nce(first, torch.randn(4, 6), 0.05, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert first.grad.abs().max() < 1e-5


def ranking_reference(student, teacher, margin, text_ids):
    """Loop over all comparisons of two pairs."""
    pairs = [pair for pair in itertools.combinations(range(len(student)), 2) if text_ids[pair[0]] != text_ids[pair[1]]]

    def cosine(vectors, pair):
        return torch.cosine_similarity(vectors[pair[0]], vectors[pair[1]], dim=0).item()

    values = [
        max(0.0, cosine(student, low) - cosine(student, high) + margin)
        for high, low in itertools.permutations(pairs, 2)
        if cosine(teacher, high) > cosine(teacher, low)
    ]
    return sum(values) / len(values)


def test_ranking_equals_a_loop_without_pairs_of_equal_texts():
    generator = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    text_ids = torch.tensor([0, 1, 0, 2, 3, 1])
    expected = ranking_reference(student, teacher, 0.1, text_ids.tolist())
    assert ranking_loss(student, teacher, 0.1, 1000, text_ids).item() == pytest.approx(expected, abs=1e-12)


def test_ranking_draws_an_unbiased_sample_of_the_comparisons():
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(12, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    everything = ranking_loss(student, teacher, 0.015, 10_000).item()  # 66 pairs, 2145 comparisons
    drawn = [ranking_loss(student, teacher, 0.015, 500, generator=generator).item() for _ in range(100)]
    assert sum(drawn) / 100 == pytest.approx(everything, rel=0.02)
    assert len(set(drawn)) == 100


def test_ranking_draws_the_same_with_the_same_seed():
    student, teacher = torch.randn(20, 4), torch.randn(20, 4)
    first, second = (
        ranking_loss(student, teacher, 0.015, 50, generator=torch.Generator().manual_seed(9)) for _ in range(2)
    )
    assert first == second


def test_ranking_of_256_sentences_takes_less_than_500_megabytes():
    student, teacher = torch.randn(256, 16, requires_grad=True), torch.randn(256, 16)
    with Allocations(student, teacher) as allocations:
        ranking_loss(student, teacher, 0.015, 16384).backward()
    assert 256 * 256 * 4 < allocations.peak_bytes < 20e6


def test_no_ranking_below_three_sentences():
    student = torch.randn(2, 4, requires_grad=True)
    loss = ranking_loss(student, torch.randn(2, 4), 0.015, 100)
    loss.backward()
    assert loss == 0 and student.grad.abs().max() == 0


def test_rkd_distance_equals_a_loop():
    generator = torch.Generator().manual_seed(6)
    sides = [unit(torch.randn(5, width, generator=generator, dtype=torch.float64)) for width in (3, 4)]
    tables = []
    for vectors in sides:
        table = [[(a - b).norm().item() for b in vectors] for a in vectors]
        mean = sum(map(sum, table)) / 20
        tables.append([[value / mean for value in row] for row in table])
    differences = [abs(tables[0][i][j] - tables[1][i][j]) for i in range(5) for j in range(5)]
    expected = sum(d * d / 2 if d < 1 else d - 0.5 for d in differences) / 25
    assert rkd_distance(*sides).item() == pytest.approx(expected, abs=1e-12)


def test_rkd_angle_is_measured_at_the_corner():
    # corners of a right-angled triangle on the unit sphere against one that is not
    right = torch.eye(3, dtype=torch.float64)
    obtuse = unit(torch.tensor([[1.0, 0, 0], [-1, 0.1, 0], [0, 1, 0]], dtype=torch.float64))
    expected = 0.0
    for i, j, k in itertools.product(range(3), repeat=3):
        cosines = []
        for vectors in (right, obtuse):
            a, b = vectors[i] - vectors[j], vectors[k] - vectors[j]
            cosines.append(float(a @ b / (a.norm() * b.norm())) if i != j and k != j else 0.0)
        difference = abs(cosines[0] - cosines[1])
        expected += (difference**2 / 2 if difference < 1 else difference - 0.5) / 27
    assert rkd_angle(right, obtuse).item() == pytest.approx(expected, abs=1e-12)


def test_similarity_kl_equals_a_loop_over_the_others():
    sides = [similarities(ROW_S), similarities(ROW_T)]
    expected = 0.0
    for i in range(4):
        others = [j for j in range(4) if j != i]
        q = torch.softmax(sides[0][i, others] / 0.2, dim=0)
        p = torch.softmax(sides[1][i, others] / 0.1, dim=0)
        expected += float((p * (p / q).log()).sum()) / 4
    assert similarity_kl(ROW_S, ROW_T, 0.2, 0.1).item() == pytest.approx(expected, abs=1e-12)


def test_equal_layers_have_equal_similarities():
    assert layer_similarity([ROW_S, ROW_S * 2, ROW_S]).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("detach_upper", [True, False])
def test_upper_layer_learns_from_the_lower_only_if_asked(detach_upper):
    lower, upper = ROW_S.clone().requires_grad_(), ROW_T.clone().requires_grad_()
    layer_similarity([lower, upper], detach_upper=detach_upper).backward()
    assert lower.grad.abs().max() > 0.01
    assert (upper.grad is None or upper.grad.abs().max() == 0) == detach_upper


def test_off_diagonal_mean_divides_by_the_entries_off_the_diagonal():
    layers = [ROW_S, ROW_T]
    torch.testing.assert_close(layer_similarity(layers, "off_diagonal") * 12, layer_similarity(layers, "sum"))
    torch.testing.assert_close(similarity_mse(ROW_S, ROW_T, off_diagonal=True) * 12, similarity_mse(S, T) * 16)
