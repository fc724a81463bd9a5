"""Losses of scores against sentence-transformers' own, by hand, and where documents are missing."""

import pytest
import torch

from kdkit.errors import UserError
from kdkit.losses.sentences import list_kl, margin_mse

NAN = float("nan")


class Fixed(torch.nn.Module):
    """A model whose vectors are given."""

    def forward(self, features):
        """Return them as they came."""
        return {"sentence_embedding": features["vectors"]}


@pytest.fixture
def vectors():
    """One query and four documents a row, `[6, 5, 8]`, and a teacher's scores of the documents, `[6, 4]`."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((6, 5, 8), (6, 4)))


@pytest.fixture
def losses():
    """Return the losses of sentence-transformers."""
    return pytest.importorskip("sentence_transformers.losses", reason="needs sentence-transformers")


def test_margin_mse_is_that_of_sentence_transformers(vectors, losses):
    embedded, teacher = vectors
    columns = [{"vectors": embedded[:, place]} for place in range(5)]
    expected = losses.MarginMSELoss(Fixed())(columns, teacher[:, :1] - teacher[:, 1:])
    scores = (embedded[:, 1:] * embedded[:, :1]).sum(dim=-1)
    torch.testing.assert_close(margin_mse(scores, teacher), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_list_kl_is_that_of_sentence_transformers(vectors, losses, temperature):
    embedded, teacher = vectors
    columns = [{"vectors": embedded[:, place]} for place in range(5)]
    expected = losses.DistillKLDivLoss(Fixed(), temperature=temperature)(columns, teacher)
    scores = (embedded[:, 1:] * embedded[:, :1]).sum(dim=-1)
    torch.testing.assert_close(list_kl(scores, teacher, temperature) * temperature**2, expected)


@pytest.mark.parametrize("loss", [margin_mse, lambda student, teacher: list_kl(student, teacher, 0.1)])
def test_a_document_that_is_not_there_counts_nothing_and_gets_no_gradient(loss):
    student = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.3, 0.2]], requires_grad=True)
    teacher = torch.tensor([[0.8, 0.4, NAN], [0.5, NAN, NAN]])
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(student.grad).all()
    assert (student.grad[teacher.isnan()] == 0).all() and (student.grad[0, :2] != 0).all()
    shorter = loss(student.detach()[:1, :2], teacher[:1, :2])
    rows = 1 if loss is margin_mse else 2  # margins are averaged over documents, lists over lists
    torch.testing.assert_close(value.detach(), shorter / rows)


def test_margins_by_hand():
    student, teacher = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[3.0, 2.0, 2.5]])
    assert float(margin_mse(student, teacher)) == pytest.approx(((0.5 - 1.0) ** 2 + (1.0 - 0.5) ** 2) / 2)


def test_scores_of_other_lists_are_refused():
    with pytest.raises(UserError, match=r"margin_mse: expected scores \[B, L\] of the same lists, got \(2, 3\)"):
        margin_mse(torch.zeros(2, 3), torch.zeros(2, 4))
