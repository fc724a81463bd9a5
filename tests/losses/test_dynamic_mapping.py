"""CDM: exact time warping, groups of positions, token pairs by spelling, and the loss over them."""

import math
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdkit.alignment.warping import group_positions, warp
from kdkit.errors import UserError
from kdkit.losses import dynamic_mapping as da

STUDENT = [b"a", b" river", b"mount", b"ain", b" tea", b"cher", b" \xe4\xb8", b"\xad", None]
TEACHER = [b" mountain", b"a", b" rivers", b"teach", b"er", b"\xe4\xb8\xad", None, b" river"]


def distance(first: str, second: str) -> int:
    """Levenshtein, one cell at a time."""
    row = list(range(len(second) + 1))
    for i, x in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def spelling(piece: bytes | None) -> str:
    return (piece or b"").decode("latin-1").replace(" ", "")


def slow_warp(costs: list[list[float]]) -> tuple[list[tuple[int, int]], float]:
    """Fill the whole table cell by cell; of equal steps: diagonal, down, right."""
    best = {}
    for i in range(len(costs)):
        for j in range(len(costs[0])):
            steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
            known = [(best[cell][0], rank, cell) for rank, cell in enumerate(steps) if cell in best]
            total, _, cell = min(known, default=(0.0, 0, None))
            best[i, j] = costs[i][j] + total, cell
    path = [(len(costs) - 1, len(costs[0]) - 1)]
    while best[path[-1]][1] is not None:
        path.append(best[path[-1]][1])
    return path[::-1], best[path[0]][0]


def random_pair(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(rows * 100 + columns)
    return (
        (torch.randn(rows, len(STUDENT), generator=draw, dtype=torch.float64) * 2).to(dtype),
        (torch.randn(columns, len(TEACHER), generator=draw, dtype=torch.float64) * 2).to(dtype),
        torch.randint(0, len(STUDENT), (rows,), generator=draw),
        torch.randint(0, len(TEACHER), (columns,), generator=draw),
    )


@pytest.fixture
def matcher() -> da.TokenMatcher:
    return da.TokenMatcher(STUDENT, TEACHER, (8, 6))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.booleans())
def test_warping_finds_the_path_of_a_slow_table(num_rows, num_columns, seed, many_ties):
    draw = random.Random(seed)
    costs = [
        [float(draw.randrange(3)) if many_ties else draw.random() for _ in range(num_columns)] for _ in range(num_rows)
    ]
    rows, columns, total = warp(np.array(costs))
    path, best = slow_warp(costs)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == path
    assert total == pytest.approx(best, rel=1e-12)


def test_warping_costs_what_its_path_costs_and_moves_by_single_steps():
    costs = np.random.default_rng(0).random((60, 45))
    rows, columns, total = warp(costs)
    assert costs[rows, columns].sum() == pytest.approx(total, rel=1e-12)
    assert set(zip(np.diff(rows).tolist(), np.diff(columns).tolist(), strict=True)) <= {(0, 1), (1, 0), (1, 1)}


def test_positions_joined_without_a_diagonal_step_are_one_group():
    path = np.array([[0, 0], [1, 1], [1, 2], [2, 3], [3, 3], [4, 4]])
    rows, columns = group_positions(path[:, 0], path[:, 1])
    assert rows.tolist() == [0, 1, 2, 2, 3]
    assert columns.tolist() == [0, 1, 1, 2, 3]


def test_equal_texts_are_aligned_one_to_one(small_pair, documents):
    from kdkit.alignment.tokenizers import token_bytes

    table = token_bytes(small_pair[0])
    ids = np.array(small_pair[0](documents[0]).input_ids)
    rows, columns, total = warp(da.TokenMatcher(table, table).sequence_costs(ids, ids))
    assert total == 0 and rows.tolist() == columns.tolist() == list(range(len(ids)))


def test_split_words_fall_into_the_group_of_the_whole_word(matcher):
    costs = matcher.sequence_costs(np.array([0, 1, 2, 3]), np.array([1, 7, 0]))
    rows, columns, _ = warp(costs)
    groups = [group.tolist() for group in group_positions(rows, columns)]
    assert groups == [[0, 1, 2, 2], [0, 1, 2]]


def test_sequence_costs_and_distances_equal_a_slow_reference(matcher):
    students, teachers = np.arange(len(STUDENT)), np.arange(len(TEACHER))
    costs = matcher.sequence_costs(students, teachers)
    pairs = np.meshgrid(students, teachers, indexing="ij")
    relative = matcher.distances(pairs[0].ravel(), pairs[1].ravel()).reshape(costs.shape)
    for s, first in enumerate(map(spelling, STUDENT)):
        for t, second in enumerate(map(spelling, TEACHER)):
            assert costs[s, t] == distance(first, second)
            expected = distance(first, second) / len(first + second) if first + second else 1.0
            assert relative[s, t] == pytest.approx(expected, rel=1e-6)


def test_a_distance_is_measured_once(matcher, monkeypatch):
    first = matcher.distances(np.array([1, 2, 1]), np.array([2, 0, 2]))
    measured = []
    monkeypatch.setattr(matcher, "_measure", lambda keys: measured.append(keys) or np.full(len(keys), 0.5, np.float32))
    again = matcher.distances(np.array([4, 1, 2]), np.array([3, 2, 0]))
    assert again.tolist() == [0.5, first[0], first[1]]
    assert [keys.tolist() for keys in measured] == [[4 * len(TEACHER) + 3]]


def test_a_full_memory_starts_anew_and_still_answers(matcher, monkeypatch):
    monkeypatch.setattr(da, "MAX_CACHED_PAIRS", 1)
    ids = np.array([1, 2, 4]), np.array([2, 0, 3])
    first = matcher.distances(*ids)
    assert matcher.distances(*ids).tolist() == first.tolist()


def slow_pairs(matcher: da.TokenMatcher, student: list[int], teacher: list[int], limit: float) -> set[tuple[int, int]]:
    """Pair the likeliest tokens of one position: the token of the same bytes, else the nearest open one."""
    exact = {(s, t) for s, piece in enumerate(STUDENT) for t, other in enumerate(TEACHER) if piece and piece == other}
    exact.add((8, 6))
    open_students = [s for s in student if s not in {pair[0] for pair in exact}]
    open_teachers = [t for t in teacher if t not in {pair[1] for pair in exact}]
    pairs = {(s, t) for s, t in exact if s in student or t in teacher}

    def gap(s: int, t: int) -> float:
        texts = spelling(STUDENT[s]), spelling(TEACHER[t])
        return distance(*texts) / max(len(texts[0] + texts[1]), 1)

    for s in open_students:
        near = min(open_teachers, key=lambda t: gap(s, t), default=None)
        pairs |= {(s, near)} if near is not None and gap(s, near) < limit else set()
    for t in open_teachers:
        near = min(open_students, key=lambda s: gap(s, t), default=None)
        pairs |= {(near, t)} if near is not None and gap(near, t) < limit else set()
    return pairs


@pytest.mark.parametrize("top_k", [1, 3, 8, 100])
def test_token_pairs_equal_a_slow_reference(matcher, top_k):
    student, teacher, _, _ = random_pair(12, 12)
    student_ids, teacher_ids = da.map_top_tokens(student, teacher, matcher, top_k, 0.45)
    for row in range(12):
        found = [
            (s, t) for s, t in zip(student_ids[row].tolist(), teacher_ids[row].tolist(), strict=True) if min(s, t) >= 0
        ]
        orders = [sorted(range(z.shape[1]), key=lambda i: -z[row, i].item())[:top_k] for z in (student, teacher)]
        assert len(set(found)) == len(found)
        assert set(found) == slow_pairs(matcher, *orders, 0.45)


def test_the_nearest_spelling_counts_only_if_it_is_near_enough(matcher):
    student, teacher = torch.zeros(1, 9), torch.zeros(1, 8)
    student[0, 2], teacher[0, 0] = 9.0, 9.0  # "mount" and "mountain": 3 edits, 13 bytes
    assert [ids.tolist() for ids in da.map_top_tokens(student, teacher, matcher, 1, 0.25)] == [[[2, 2]], [[0, -1]]]
    assert [ids.tolist() for ids in da.map_top_tokens(student, teacher, matcher, 1, 0.2)] == [[[-1, 2]], [[0, -1]]]


def doubts(logits: torch.Tensor) -> list[float]:
    entropies = []
    for row in torch.softmax(logits, -1).tolist():
        entropies.append(-sum(p * math.log(p) for p in row))
    low, high = min(entropies), max(entropies)
    return [3 + 3 / (1 + math.exp(2 - 4 * (h - low) / (high - low if high > low else 1))) for h in entropies]


def reference(matcher: da.TokenMatcher, chunk: tuple[torch.Tensor, ...], top_k: int, limit: float, temperature: float):
    """Compute the loss group by group with plain Python numbers."""
    student, teacher, student_targets, teacher_targets = chunk
    weights = doubts(student), doubts(teacher)
    costs = [
        [
            distance(spelling(STUDENT[s]), spelling(TEACHER[t])) * weights[0][i] * weights[1][j]
            for j, t in enumerate(teacher_targets.tolist())
        ]
        for i, s in enumerate(student_targets.tolist())
    ]
    groups: list[tuple[set[int], set[int]]] = []
    last = None
    for i, j in slow_warp(costs)[0]:
        if last is None or (i > last[0] and j > last[1]):
            groups.append((set(), set()))
        groups[-1][0].add(i)
        groups[-1][1].add(j)
        last = i, j
    values = []
    for rows, columns in groups:
        q = student[sorted(rows)].mean(0).tolist()
        p = teacher[sorted(columns)].mean(0).tolist()
        orders = [sorted(range(len(z)), key=lambda i: -z[i])[:top_k] for z in (q, p)]
        pairs = sorted(slow_pairs(matcher, *orders, limit))
        powers = [(math.exp(q[s] / temperature), math.exp(p[t] / temperature)) for s, t in pairs]
        total_q, total_p = sum(x for x, _ in powers), sum(y for _, y in powers)
        values.append(temperature**2 * sum(y / total_p * math.log(y / total_p * total_q / x) for x, y in powers))
    return values


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (6, 4), (5, 9), (1, 7)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_equals_a_slow_reference(matcher, rows, columns, temperature):
    chunk = random_pair(rows, columns)
    values, groups = da.cdm(*chunk, matcher, top_k=5, max_distance=0.45, temperature=temperature)
    assert values.tolist() == pytest.approx(reference(matcher, chunk, 5, 0.45, temperature), rel=1e-9, abs=1e-12)
    assert groups.shape == (rows,) and groups.max() == len(values) - 1 and (groups.diff() >= 0).all()


def test_identical_models_differ_by_nothing():
    logits, targets = random_pair(6, 6, torch.float32)[0], torch.tensor([0, 1, 2, 3, 8, 5])
    values, groups = da.cdm(logits, logits.clone(), targets, targets, da.TokenMatcher(STUDENT, STUDENT, (8, 8)), 4)
    assert groups.tolist() == [0, 1, 2, 3, 4, 5]
    assert values.dtype == torch.float32 and values.abs().max() < 1e-6


def test_gradcheck_in_float64(matcher):
    student, teacher, *targets = random_pair(5, 6)
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: da.cdm(z, teacher, *targets, matcher, 5, 0.45, 1.5)[0], student)


def test_a_group_gives_its_own_rows_a_gradient_and_no_others(matcher):
    student, teacher, *targets = random_pair(6, 4)
    student.requires_grad_(True)
    values, groups = da.cdm(student, teacher, *targets, matcher, 5)
    values[1].backward()
    assert student.grad[groups == 1].abs().amax(dim=1).min() > 0
    assert student.grad[groups != 1].abs().max() == 0


def test_a_group_without_pairs_counts_nothing():
    matcher = da.TokenMatcher([b"aaaa", b"bbbb"], [b"cccc", b"dddd"])
    student = torch.randn(2, 2, requires_grad=True)
    values, _ = da.cdm(student, torch.randn(2, 2), torch.tensor([0, 1]), torch.tensor([0, 1]), matcher)
    values.sum().backward()
    assert values.abs().max() == 0 and student.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_at_the_end_of_their_range_stay_finite(matcher, dtype):
    student, teacher, *targets = random_pair(6, 4)
    student = (student.sign() * 6e4).to(dtype).requires_grad_(True)
    values, _ = da.cdm(student, (teacher.sign() * 6e4).to(dtype), *targets, matcher, 5)
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all() and torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(5, 3), "expected student logits of one sequence over 9 tokens"),
        (1, torch.zeros(2, 6, 8), "expected teacher logits of one sequence over 8 tokens"),
        (2, torch.zeros(4, dtype=torch.int64), "expected student logits .* a target for each row"),
        (1, torch.zeros(0, 8), "expected teacher logits of one sequence"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_in_one_line(matcher, place, value, message):
    chunk = list(random_pair(5, 6))
    chunk[place] = value
    with pytest.raises(UserError, match=f"cdm: {message}") as caught:
        da.cdm(*chunk, matcher)
    assert "\n" not in str(caught.value)


def test_a_missing_rapidfuzz_is_named_with_the_command_that_installs_it(matcher, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    with pytest.raises(UserError, match="pip install rapidfuzz"):
        da.cdm(*random_pair(2, 2), matcher)
