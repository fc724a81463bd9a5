"""Methods on lists: what their terms are, and that texts of a list are read as they are alone."""

import numpy as np
import pytest
import torch

from kdkit.config.methods import ListKL, MarginMse
from kdkit.embeddings.methods.base import BatchViews, PairFacts, StudentView
from kdkit.embeddings.methods.ranking import ListKLMethod, MarginMseMethod
from kdkit.embeddings.teacher.answers import TeacherView
from kdkit.embeddings.teacher.lists import RankingLists
from kdkit.embeddings.training.batches import make_views
from tests.embedders import TEACHER_WIDTH, WIDTH, TableTeacher, make_data, make_embedder

pytestmark = pytest.mark.usefixtures("one_thread")
FACTS = PairFacts(6, 6, 2, 4, False)


def random_views(seed=0):
    """Return a batch of two lists of three documents, the last of which the second list has not."""
    draw = torch.Generator().manual_seed(seed)
    query, teacher = (torch.randn(2, 6, generator=draw) for _ in range(2))
    lists, vectors = (torch.randn(2, 3, 6, generator=draw) for _ in range(2))
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.3, float("nan")]])
    view = StudentView(query, torch.ones(2, 1))
    return BatchViews(
        view, TeacherView(teacher), torch.arange(2), lists=lists, list_scores=scores, list_vectors=vectors
    )


def cosine(first, second):
    return torch.nn.functional.cosine_similarity(first, second, dim=-1)


@pytest.mark.parametrize(("settings", "method"), [(ListKL, ListKLMethod), (MarginMse, MarginMseMethod)])
def test_the_cosine_is_that_of_the_query_or_of_all_documents_that_are_there(settings, method):
    views = random_views()
    of_query = method(settings(cosine_of="query"), FACTS)(views)["cosine"]
    of_all = method(settings(), FACTS)(views)["cosine"]
    query = cosine(views.student.pooled, views.teacher.pooled)
    documents = cosine(views.lists, views.list_vectors).flatten()[:5]
    assert float(of_query) == pytest.approx(float((1 - query).mean()), abs=1e-6)
    assert float(of_all) == pytest.approx(float((1 - torch.cat([query, documents])).mean()), abs=1e-6)


def test_margins_are_those_of_cosines():
    views = random_views()
    scores = cosine(views.student.pooled[:, None], views.lists)
    errors = [
        float(scores[row, 0] - scores[row, place] - views.list_scores[row, 0] + views.list_scores[row, place]) ** 2
        for row, place in ((0, 1), (0, 2), (1, 1))
    ]
    found = MarginMseMethod(MarginMse(), FACTS)(views)["list"]
    assert float(found) == pytest.approx(np.mean(errors), abs=1e-6)


def test_a_term_without_weight_is_left_out():
    for settings, terms in (({"list_weight": 0}, {"cosine"}), ({"cosine_weight": 0}, {"list"})):
        assert set(ListKLMethod(ListKL(**settings), FACTS)(random_views())) == terms


def test_a_text_of_a_list_has_the_vector_it_has_alone():
    student, data, teacher = make_embedder(dropout=0.0).eval(), make_data(), TableTeacher(40)
    texts = np.array([[7, 3, 3], [9, 7, 20], [1, 2, 30], [5, 5, 5]])
    lists = RankingLists(np.tile(texts, (10, 1)), np.zeros((40, 3), np.float32))
    method = ListKLMethod(ListKL(), PairFacts(WIDTH, TEACHER_WIDTH, 3, 4, False))
    with torch.no_grad():
        views = make_views(student, method, data, teacher, np.arange(4), lists=lists)
        for row, place in np.ndindex(texts.shape):
            ids = torch.from_numpy(data.student_tokens[texts[row, place]])[None]
            alone = student(ids, torch.ones_like(ids)).pooled[0]
            torch.testing.assert_close(views.lists[row, place], alone, atol=1e-5, rtol=1e-5)
            np.testing.assert_array_equal(views.list_vectors[row, place], teacher.vectors[texts[row, place]])
