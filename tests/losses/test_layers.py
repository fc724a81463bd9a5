"""The parts that compare layers: pooled by hand, against loops, with gradcheck."""

from itertools import pairwise

import pytest
import torch

from kdkit.alignment.spans import Spans
from kdkit.losses import layers as losses


def by_hand() -> Spans:
    """Make two sequences: 3 student and 3 teacher rows in 2 spans, 2 and 3 rows in 1 span.

    The student's positions are 0 1 2 3 and 4 5 6 7, the teacher's 0 1 2 3 and 4 5 6 7; rows are the first ones.
    """
    return Spans(
        student_rows=torch.tensor([0, 1, 2, 4, 5]),
        teacher_rows=torch.tensor([0, 1, 2, 4, 5, 6]),
        student_starts=torch.tensor([0, 1, 3, 5]),
        teacher_starts=torch.tensor([0, 2, 3, 6]),
        same_token=torch.zeros(3, dtype=torch.bool),
        sequence_starts=torch.tensor([0, 2, 3]),
    )


def random_states(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_maps(batch: int, heads: int, width: int, seed: int = 0) -> torch.Tensor:
    """Make causal attention maps, b k s s."""
    scores = random_states(batch, heads, width, width, seed=seed)
    return scores.masked_fill(torch.ones(width, width).triu(1).bool(), -torch.inf).softmax(dim=-1)


def test_pooled_states_of_a_hand_worked_example():
    student, teacher = losses.lay_out(by_hand(), 4, 4)
    states = torch.arange(8.0).reshape(2, 4, 1) * torch.tensor([1.0, 10.0])
    # student spans: row 0; rows 1 2; rows 4 5. teacher spans: rows 0 1; row 2; rows 4 5 6
    assert losses.pool_states(states, student).tolist() == [[0, 0], [1.5, 15], [4.5, 45]]
    assert losses.pool_states(states, teacher).tolist() == [[0.5, 5], [2, 20], [5, 50]]


def test_pooled_maps_of_a_hand_worked_example():
    student, teacher = losses.lay_out(by_hand(), 4, 4)
    first = [[1.0, 0, 0, 0], [0.4, 0.6, 0, 0], [0.2, 0.3, 0.5, 0], [0.1, 0.2, 0.3, 0.4]]
    maps = torch.tensor([first, first])[:, None]
    # the student reads  start|a|b|c: its first span is the token a, its second b and c; queries: row 0; mean of 1 and 2
    expected = [[[0, 0, 1], [0.45, 0.25, 0.3]], [[0.3, 0, 0.7], [0, 0, 0]]]
    assert torch.allclose(losses.pool_maps(maps, student)[:, 0], torch.tensor(expected))
    # the teacher's first span is two tokens, its second one; the other sequence's only span is three
    expected = [[[0.3, 0, 0.7], [0.8, 0, 0.2]], [[(0.6 + 0.8) / 3, 0, 1.6 / 3], [0, 0, 0]]]
    assert torch.allclose(losses.pool_maps(maps, teacher)[:, 0], torch.tensor(expected))


def test_with_one_tokenizer_pooling_takes_maps_as_they_are():
    lengths = torch.arange(4)
    spans = Spans(torch.arange(3), torch.arange(3), lengths, lengths, torch.ones(3).bool(), torch.tensor([0, 3]))
    layout, _ = losses.lay_out(spans, 4, 4)
    maps = random_maps(1, 2, 4)
    pooled = losses.pool_maps(maps, layout)
    assert torch.equal(pooled[..., :3], maps[:, :, :3, 1:]) and torch.equal(pooled[..., 3], maps[:, :, :3, 0])


def test_spans_count_once_per_student_row_in_the_loss():
    counted = torch.tensor([True, True, False, True, True])
    assert losses.span_weights(by_hand(), counted, 8.0).tolist() == [1 / 8, 1 / 8, 2 / 8]


def rows_of_spans(spans: Spans) -> list[tuple[list[int], list[int]]]:
    """Return the student's and the teacher's rows of each span, in plain lists."""
    starts = zip(pairwise(spans.student_starts.tolist()), pairwise(spans.teacher_starts.tolist()), strict=True)
    students, teachers = spans.student_rows.tolist(), spans.teacher_rows.tolist()
    return [(students[a:b], teachers[c:d]) for (a, b), (c, d) in starts]


def sequences(spans: Spans) -> list[list[int]]:
    return [list(range(a, b)) for a, b in pairwise(spans.sequence_starts.tolist())]


def normalised(state: torch.Tensor) -> torch.Tensor:
    return (state - state.mean()) / state.std(correction=0)


def test_state_error_equals_a_loop(spans):
    spans, widths = spans
    sides = losses.lay_out(spans, *widths)
    student, teacher = random_states(5, widths[0], 6), random_states(5, widths[1], 6, seed=1)
    got = losses.state_error(*(losses.pool_states(*side) for side in zip((student, teacher), sides, strict=True)))
    expected = []
    for rows in rows_of_spans(spans):
        states = (side.flatten(0, 1)[where].mean(dim=0) for side, where in zip((student, teacher), rows, strict=True))
        first, second = (normalised(state) for state in states)
        expected.append((first - second).square().mean())
    assert torch.allclose(got, torch.stack(expected), atol=1e-6)


def test_state_error_does_not_depend_on_scale():
    student, teacher = random_states(4, 6), random_states(4, 6, seed=1)
    expected, got = losses.state_error(student, teacher), losses.state_error(student * 50, teacher * 0.1 + 3)
    assert torch.allclose(got, expected, rtol=1e-4)


def test_map_divergence_equals_a_loop(spans):
    spans, widths = spans
    sides = losses.lay_out(spans, *widths)
    maps = [random_maps(5, 2, width, seed) for seed, width in enumerate(widths)]
    pooled = [losses.pool_maps(*side) for side in zip(maps, sides, strict=True)]
    got = losses.map_divergence(*pooled, sides[0])
    rows, expected = rows_of_spans(spans), []
    for place, members in enumerate(sequences(spans)):
        for span in members:
            total = 0.0
            for head in range(2):
                shares = []
                for side in (0, 1):
                    queries = maps[side][place, head][[row % widths[side] for row in rows[span][side]]].mean(dim=0)
                    keys = [[row % widths[side] + 1 for row in rows[other][side]] for other in members]
                    shares.append(torch.stack([queries[key].sum() for key in keys] + [queries[0]]))
                student, teacher = shares
                assert student.sum().item() == pytest.approx(1.0) and teacher.sum().item() == pytest.approx(1.0)
                present = teacher > 0
                total += (teacher[present] * (teacher[present].log() - student[present].log().clamp(min=-20.72))).sum()
            expected.append(total / 2)
    assert torch.allclose(got, torch.stack(expected), atol=1e-3)


def test_contrast_equals_a_loop(spans):
    spans, widths = spans
    layout, _ = losses.lay_out(spans, *widths)
    student, teacher = (random_states(len(layout.sequence), 6, seed=seed) for seed in (0, 1))
    got = losses.contrast(student, teacher, layout, 0.3)
    expected = []
    for members in sequences(spans):
        for span in members:
            scores = [torch.cosine_similarity(student[span], teacher[other], dim=0) / 0.3 for other in members]
            expected.append(torch.stack(scores).logsumexp(dim=0) - scores[members.index(span)])
    assert torch.allclose(got, torch.stack(expected))


def test_contrast_does_not_depend_on_the_rest_of_the_batch(spans):
    spans, widths = spans
    layout, _ = losses.lay_out(spans, *widths)
    student, teacher = (random_states(len(layout.sequence), 6, seed=seed) for seed in (0, 1))
    others = layout.sequence != 2
    changed = teacher.clone()
    changed[others] = random_states(int(others.sum()), 6, seed=2)
    first, second = (losses.contrast(student, states, layout, 0.1)[~others] for states in (teacher, changed))
    assert torch.equal(first, second)


def test_gradients_of_all_losses_pass_gradcheck():
    sides = losses.lay_out(by_hand(), 4, 4)
    teacher = losses.pool_states(random_states(2, 4, 3, seed=1), sides[1])
    states = random_states(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.state_error(losses.pool_states(x, sides[0]), teacher), states)
    assert torch.autograd.gradcheck(
        lambda x: losses.contrast(losses.pool_states(x, sides[0]), teacher, sides[0], 0.5), states
    )
    pooled = losses.pool_maps(random_maps(2, 2, 4, seed=1), sides[1])
    scores = random_states(2, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: losses.map_divergence(losses.pool_maps(x.softmax(dim=-1), sides[0]), pooled, sides[0]), scores
    )


def test_heads_are_averaged_or_mapped_in_proportion():
    student, teacher = random_maps(1, 2, 3), random_maps(1, 5, 3, seed=1)
    first, second = losses.match_heads(student, teacher, "mean")
    assert torch.allclose(first[:, 0], student.mean(dim=1)) and torch.allclose(second[:, 0], teacher.mean(dim=1))
    first, second = losses.match_heads(student, teacher, "mapped")
    assert torch.equal(first, student) and torch.equal(second, teacher[:, [0, 4]])


def test_depth_weights_grow_and_sum_to_one():
    assert losses.depth_weights(4) == [0.1, 0.2, 0.3, 0.4]
    assert sum(losses.depth_weights(30)) == pytest.approx(1.0)
