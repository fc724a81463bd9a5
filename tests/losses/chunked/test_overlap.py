"""Overlap of two distributions, against sets and sums written out row by row."""

import math

import pytest
import torch

from kdkit.losses.chunked.overlap import sparse_overlap, top_k_overlap

ROWS, EVENTS, TOP_K = 7, 40, 5


@pytest.fixture
def pair():
    """Log-probabilities of a student and a teacher that agree in part."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(ROWS, EVENTS, generator=generator) * 2
    student = teacher + torch.randn(ROWS, EVENTS, generator=generator) * 1.5
    return student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)


def written_out(student, teacher, top_k):
    """Return the four values of each row, by sets."""
    rows = []
    for mine, theirs in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        best = {
            side: set(sorted(range(EVENTS), key=lambda i, p=p: -p[i])[:top_k]) for side, p in enumerate((mine, theirs))
        }
        shared = best[0] & best[1]
        entropies = [-sum(math.exp(p) * p for p in side) for side in (mine, theirs)]
        masses = [sum(math.exp(side[i]) for i in shared) for side in (theirs, mine)]
        rows.append([len(shared) / top_k, *masses, entropies[0] - entropies[1]])
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize("top_k", [1, TOP_K, EVENTS])
def test_it_is_what_sets_and_sums_say(pair, top_k):
    expected = written_out(*pair, top_k)
    torch.testing.assert_close(top_k_overlap(*pair, top_k), expected)
    if top_k == TOP_K:
        assert 0 < expected[:, 0].mean() < 1, "rows that all agree, or none, would prove little"


def test_a_student_like_its_teacher_shares_all_and_is_as_sure(pair):
    share, theirs, mine, gap = top_k_overlap(pair[1], pair[1], TOP_K).unbind(dim=-1)
    assert torch.equal(share, torch.ones(ROWS))
    assert torch.equal(theirs, mine)
    assert torch.equal(gap, torch.zeros(ROWS))


def test_a_student_that_expects_other_tokens_shares_none(pair):
    values = top_k_overlap((-pair[1]).log_softmax(dim=-1), pair[1], TOP_K)
    assert not values[:, :3].any()


def keep(teacher, count):
    """Return what a cache keeps of a teacher: ids in an order of its own, their log-probabilities, and the rest."""
    best = teacher.topk(count, dim=-1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    rest = torch.log1p(-best.values.double().exp().sum(dim=-1, keepdim=True)).float()
    return best.indices[:, order], best.values[:, order], rest


def test_a_cache_gives_the_same_share_and_masses(pair):
    student, teacher = pair
    found = sparse_overlap(student, *keep(teacher, 12), TOP_K)
    torch.testing.assert_close(found[:, :3], top_k_overlap(student, teacher, TOP_K)[:, :3])


def test_with_a_cache_all_that_is_not_kept_is_one_outcome(pair):
    student, teacher = pair
    ids, kept, rest = keep(teacher, 12)
    mine = student.double().gather(1, ids).exp()
    coarse = [torch.cat([p, 1 - p.sum(dim=1, keepdim=True)], dim=1) for p in (mine, kept.double().exp())]
    entropies = [-(p * p.log()).sum(dim=1) for p in coarse]
    gap = sparse_overlap(student, ids, kept, rest, TOP_K)[:, 3]
    torch.testing.assert_close(gap, (entropies[0] - entropies[1]).float())


def test_places_of_a_cache_that_are_not_used_count_nothing(pair):
    student, teacher = pair
    ids, kept, rest = keep(teacher, 12)
    padded = torch.cat([ids, ids[:, :3]], dim=1), torch.nn.functional.pad(kept, (0, 3), value=-torch.inf), rest
    torch.testing.assert_close(sparse_overlap(student, *padded, TOP_K), sparse_overlap(student, ids, kept, rest, TOP_K))


def test_a_student_that_is_certain_has_no_entropy(pair):
    certain = torch.full((ROWS, EVENTS), -torch.inf)
    certain[:, 3] = 0.0
    gap = top_k_overlap(certain, pair[1], TOP_K)[:, 3]
    assert bool(gap.isfinite().all()) and bool((gap < 0).all())
