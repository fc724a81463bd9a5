"""MaxSim and its contrast: against slow loops, sentence-transformers, and figures computed by hand."""

import math

import pytest
import torch

from kdkit.losses.ranking.late_interaction import NO_TOKENS, contrast_scores, maxsim


def draw(seed=0):
    """Draw three queries of up to 4 tokens and five documents of up to 6, width 8, with masks; one has no token."""
    generator = torch.Generator().manual_seed(seed)
    queries, documents = (torch.randn(*shape, 8, generator=generator) for shape in ((3, 4), (5, 6)))
    asked = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    found = torch.rand(5, 6, generator=generator) > 0.3
    found[:, 0], found[4] = True, False
    return queries, documents, asked, found


def slow(queries, documents, asked, found):
    """The definition, one token at a time."""
    scores = torch.full((len(queries), len(documents)), NO_TOKENS)
    for q in range(len(queries)):
        for d in range(len(documents)):
            tokens = [documents[d, j] for j in range(documents.shape[1]) if found[d, j]]
            if tokens:
                own = [queries[q, i] for i in range(queries.shape[1]) if asked[q, i]]
                scores[q, d] = sum(max(float(token @ other) for other in tokens) for token in own)
    return scores


@pytest.mark.parametrize("block_numbers", [1, 100, 2**24])
def test_maxsim_is_its_definition_in_blocks_of_any_size(block_numbers):
    torch.testing.assert_close(maxsim(*draw(), block_numbers=block_numbers), slow(*draw()), atol=1e-5, rtol=1e-6)


def test_the_mean_divides_by_the_tokens_that_count():
    sums, means = maxsim(*draw()), maxsim(*draw(), mean=True)
    torch.testing.assert_close(means[:, :4], sums[:, :4] / torch.tensor([[4.0], [2.0], [2.0]]))
    assert (means[:, 4] == NO_TOKENS).all()


@pytest.mark.parametrize("mean", [False, True])
def test_scores_are_those_of_sentence_transformers(mean):
    pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs sentence-transformers 6")
    from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

    queries, documents, asked, found = draw(1)
    theirs = colbert_scores(queries, documents[:4, None], asked, found[:4, None], length_normalize=mean)
    torch.testing.assert_close(maxsim(queries, documents[:4], asked, found[:4], mean=mean), theirs)


def test_the_gradient_is_that_of_the_largest_tokens_alone():
    queries, documents, asked, found = draw(2)
    queries.requires_grad_()
    documents.requires_grad_()
    maxsim(queries, documents, asked, found, block_numbers=30)[1, 2].backward()
    assert queries.grad[[0, 2]].abs().sum() == 0 and documents.grad[[0, 1, 3, 4]].abs().sum() == 0
    for token in range(2):
        best = max(
            (j for j in range(6) if found[2, j]), key=lambda j: float((queries[1, token] @ documents[2, j]).detach())
        )
        torch.testing.assert_close(queries.grad[1, token], documents[2, best].detach())
    assert queries.grad[1, 2:].abs().sum() == 0


def test_half_precision_is_scored_in_full():
    queries, documents, asked, found = draw(3)
    with torch.autocast("cpu", torch.bfloat16):
        scores = maxsim(queries, documents, asked, found)
    torch.testing.assert_close(scores, maxsim(queries, documents, asked, found))


def test_the_contrast_by_hand_leaves_out_what_is_no_negative():
    scores = torch.tensor([[1.0, 0.5, 0.9]])
    left_out = torch.tensor([[True, False, True]])  # the partner counts in any case
    loss = contrast_scores(scores, torch.tensor([0]), left_out, 0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp((0.5 - 1.0) / 0.5)), rel=1e-6)
