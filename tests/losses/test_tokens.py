"""Losses of token states and attention maps: golden values, loops as reference, empty sentences."""

import pytest
import torch

from kdkit.losses.tokens import (
    attention_distance,
    group_means,
    group_weights,
    importance,
    linear_cka,
    most_important,
    vector_distance,
)

INDEX = torch.arange(4, dtype=torch.float64)
S = torch.sin(1 + 4 * INDEX[:, None] + INDEX)
T = torch.cos(0.5 * (4 * INDEX[:, None] + INDEX))
ALL = torch.ones(4, dtype=torch.bool)


def random_rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_group_means_equal_a_loop_over_sentences():
    states = random_rows(2, 5, 3)
    group = torch.tensor([[-1, 0, 1, 1, -1], [2, 2, 2, 0, -1]])
    means, mask = group_means(states, group, 4)
    assert mask.tolist() == [[True, True, False, False], [True, False, True, False]]
    for sentence in range(2):
        for number in range(4):
            members = states[sentence, group[sentence] == number]
            expected = members.mean(dim=0) if len(members) else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(means[sentence, number], expected)


def test_last_member_stands_for_its_group():
    states = random_rows(1, 5, 3)
    means, mask = group_means(states, torch.tensor([[0, 0, 1, 2, 2]]), 4, "last")
    torch.testing.assert_close(means[0, :3], states[0, [1, 2, 4]])
    assert mask.tolist() == [[True, True, True, False]]


def test_weights_of_a_group_add_up_to_one():
    weights = group_weights(torch.tensor([[0, 0, 0, 1, -1]]), 3)
    assert weights.sum(dim=-1).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_every_group_of_the_batch_counts_alike(distance):
    student, teacher, mask = random_rows(2, 3, 4), random_rows(2, 3, 4, seed=1), torch.zeros(2, 3, dtype=torch.bool)
    mask[0, 0] = mask[1, 0] = mask[1, 1] = True
    singles = [vector_distance(student[i, j], teacher[i, j], distance).item() for i, j in ((0, 0), (1, 0), (1, 1))]
    assert vector_distance(student, teacher, distance, mask).item() == pytest.approx(sum(singles) / 3, abs=1e-12)


def test_mse_of_groups_is_two_over_width_times_the_cosine_distance():
    cosine, mse = (vector_distance(S, T, distance) for distance in ("cosine", "mse"))
    assert cosine.item() == pytest.approx(0.833181616, abs=1e-8)
    assert mse.item() == pytest.approx(0.416590808, abs=1e-8)


def test_no_groups_are_zero_with_a_gradient_of_zero():
    student = torch.randn(2, 3, 4, requires_grad=True)
    loss = vector_distance(student, torch.randn(2, 3, 4), "cosine", torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and student.grad.abs().max() == 0


@pytest.mark.parametrize(("debiased", "expected"), [(False, 0.851165504), (True, 0.528642321)])
def test_golden_cka(debiased, expected):
    assert linear_cka(S, T, ALL, debiased).item() == pytest.approx(expected, abs=1e-8)
    assert linear_cka(S, S, ALL, debiased).item() == pytest.approx(1, abs=1e-12)


def test_golden_attention_distance_is_one_minus_the_root_of_cka():
    value = attention_distance(S[None, None], T[None, None], ALL[None], "biased")
    assert value.item() == pytest.approx(1 - 0.922586312, abs=1e-8)


def debiased_reference(first, second):
    """Song et al. 2012, equation 5, as written there."""
    grams = [rows @ rows.T for rows in (first, second)]
    grams = [gram - torch.diag(gram.diagonal()) for gram in grams]
    n, one = len(first), torch.ones(len(first), dtype=torch.float64)

    def hsic(k, l):  # noqa: E741
        value = (k @ l).trace() + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return (value - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))

    return hsic(*grams) / (hsic(grams[0], grams[0]) * hsic(grams[1], grams[1])).sqrt()


def biased_reference(first, second):
    """Kornblith et al. 2019: Frobenius norms of the features' products."""
    first, second = (rows - rows.mean(dim=0) for rows in (first, second))
    return (first.T @ second).norm() ** 2 / (first.T @ first).norm() / (second.T @ second).norm()


@pytest.mark.parametrize(("debiased", "reference"), [(False, biased_reference), (True, debiased_reference)])
def test_padded_batch_of_cka_equals_its_formula_row_by_row(debiased, reference):
    first, second = random_rows(3, 9, 5), random_rows(3, 9, 7, seed=1) + random_rows(3, 9, 5) @ random_rows(5, 7)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 5:] = mask[2, ::2] = False  # 9, 5 and 4 rows
    values = linear_cka(first, second, mask, debiased)
    expected = [reference(first[i][mask[i]], second[i][mask[i]]).item() for i in range(3)]
    assert values.tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_sees_neither_rotation_nor_scale_nor_shift(debiased):
    rotation = torch.linalg.qr(random_rows(4, 4, seed=3))[0]
    changed = linear_cka(S @ rotation * 1e-4 + 2, T, ALL, debiased)
    assert changed.item() == pytest.approx(linear_cka(S, T, ALL, debiased).item(), abs=1e-8)


def test_biased_cka_of_chance_is_large_and_debiased_is_not():
    first, second = random_rows(500, 4, 18), random_rows(500, 4, 18, seed=1)
    mask = torch.ones(500, 4, dtype=torch.bool)
    assert linear_cka(first, second, mask, False).sqrt().mean() > 0.8
    assert abs(linear_cka(first, second, mask, True).mean()) < 0.1


def test_attention_over_many_tokens_keeps_its_digits_in_fp32():
    # 100 tokens: differences from uniform attention of 1e-3 relative
    first, second = 0.01 * (1 + 1e-3 * random_rows(8, 100)), 0.01 * (1 + 1e-3 * random_rows(8, 100, seed=1))
    mask = torch.ones(8, dtype=torch.bool)
    single = linear_cka(first.float(), second.float(), mask, True)
    assert single.item() == pytest.approx(linear_cka(first, second, mask, True).item(), abs=1e-3)


def test_negative_cka_is_no_farther_than_none():
    student, teacher, mask = random_rows(1, 1, 6, 5), random_rows(1, 1, 6, 5, seed=5), torch.ones(1, 6).bool()
    assert linear_cka(student[0], teacher[0], mask, True) < -0.1
    assert attention_distance(student, teacher, mask, "debiased") == 1


@pytest.mark.parametrize(("cka", "fewest"), [("debiased", 4), ("biased", 2)])
def test_sentences_with_too_few_rows_are_left_out(cka, fewest):
    student = random_rows(2, 1, 6, 5)
    teacher = student + 0.5 * random_rows(2, 1, 6, 5, seed=1)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, fewest - 1 :] = False
    expected = attention_distance(student[:1], teacher[:1], mask[:1], cka)
    assert attention_distance(student, teacher, mask, cka).item() == pytest.approx(expected.item(), abs=1e-12)
    mask[1, fewest - 1] = True
    assert attention_distance(student, teacher, mask, cka).item() != pytest.approx(expected.item(), abs=1e-3)


@pytest.mark.parametrize("cka", ["debiased", "biased"])
@pytest.mark.parametrize("rows", ["none", "equal", "one"])
def test_attention_without_anything_to_compare_is_finite(cka, rows):
    student = torch.rand(2, 1, 6, 5)
    student = (student[:, :, :1].repeat(1, 1, 6, 1) if rows == "equal" else student).requires_grad_()
    mask = torch.full((2, 6), rows == "equal")
    mask[0, 0] = rows != "none"
    loss = attention_distance(student, torch.rand(2, 1, 6, 5), mask, cka)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3


def sink_maps(strength, length=8):
    """Causal attention, so much of it on the first token and the rest even."""
    even = torch.ones(length, length).tril()
    even[1:, 0] = 0
    even = even / even.sum(dim=-1, keepdim=True)
    maps = (1 - strength) * even
    maps[:, 0] += strength
    return maps[None].double()


def test_softmax_gives_a_sink_all_of_the_mass():
    mask = torch.ones(1, 8)
    assert importance(sink_maps(0.6), mask, "softmax", mask.bool())[0, 0] > 0.8


def test_corrected_importance_does_not_see_the_strength_of_a_sink():
    mask = torch.ones(1, 8)
    weak, strong = (importance(sink_maps(strength), mask, "corrected", mask.bool()) for strength in (0.1, 0.9))
    torch.testing.assert_close(weak, strong)
    assert weak[0, 0] == 0 and weak[0, 1:].min() > 0


@pytest.mark.parametrize("how", ["corrected", "softmax"])
def test_importance_adds_up_to_one_over_the_real_tokens(how):
    maps = torch.rand(3, 6, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])  # left, right, all padding
    values = importance(maps, mask, how, mask.bool())
    torch.testing.assert_close(values.sum(dim=-1), torch.tensor([1.0, 1.0, 0.0]))
    assert values[mask == 0].abs().max() == 0
    if how == "corrected":  # the first real token, wherever the padding stands
        assert values[0, 2] == 0 and values[1, 0] == 0


def test_importance_ignores_what_padding_attends_to():
    maps, mask = torch.rand(1, 4, 4), torch.tensor([[1, 1, 1, 0]])
    changed = maps.clone()
    changed[:, 3] = 5.0
    for how in ("corrected", "softmax"):
        torch.testing.assert_close(*(importance(m, mask, how, mask.bool()) for m in (maps, changed)))


def test_tokens_in_no_group_have_no_corrected_importance():
    is_aligned = torch.tensor([[False, True, True, False]])
    values = importance(torch.rand(1, 4, 4), torch.ones(1, 4), "corrected", is_aligned)
    assert (values > 0).tolist() == is_aligned.tolist()


def test_equal_importance_where_none_is_left():
    values = importance(torch.rand(1, 3, 3), torch.tensor([[1, 1, 0]]), "corrected", torch.zeros(1, 3).bool())
    assert values.tolist() == [[0.5, 0.5, 0.0]]


def test_most_important_are_the_largest_that_may_be_chosen():
    values = torch.tensor([[0.1, 0.4, 0.3, 0.9], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [False, True, False, False]])
    chosen = most_important(values, mask, torch.tensor([2, 1]))
    assert chosen.tolist() == [[False, True, True, False], [False, True, False, False]]
