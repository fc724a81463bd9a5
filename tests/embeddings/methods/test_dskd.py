"""DSKD: what each option does."""

import pytest
import torch

from kdkit.embeddings.methods.base import PairFacts
from kdkit.errors import UserError
from kdkit.losses.sentences import cosine_distance, mse_of_units, similarity_mse
from tests.embeddings.methods.token_views import gradients, make, make_views


def test_dskd_sentence_term_is_the_distance_in_both_spaces():
    method, views = make("dskd"), make_views()
    student, teacher = views.student.pooled, views.teacher.pooled
    terms, target = method(views), method.to_student(teacher)
    expected = cosine_distance(method.to_teacher(student), teacher) + cosine_distance(student, target)
    torch.testing.assert_close(terms["sentence"], expected)
    torch.testing.assert_close(terms["anchor"], similarity_mse(target, teacher, off_diagonal=True))


def test_dskd_projector_learns_from_the_anchor_alone():
    method, views = make("dskd"), make_views()
    method(views)["sentence"].backward()
    assert method.to_student.weight.grad is None
    method(views)["anchor"].backward()
    assert method.to_student.weight.grad.abs().max() > 1e-4


def test_dskd_anchor_keeps_the_teachers_similarities():
    # 20 unit vectors in 8 dimensions that lie in 6 can be projected to 6 without loss
    method = make("dskd")
    teacher = torch.randn(20, 6) @ torch.linalg.qr(torch.randn(8, 6))[0].T
    optimizer = torch.optim.Adam(method.to_student.parameters(), lr=0.02)
    for _ in range(400):
        loss = similarity_mse(method.to_student(teacher), teacher, off_diagonal=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3


def test_dskd_has_no_projector_to_train_between_equal_widths():
    equal = PairFacts(8, 8, 3, 6)
    assert "anchor" not in make("dskd", equal).weights and "anchor" in make("dskd").weights
    assert "anchor" in make("dskd", equal, projection="random").weights


def test_dskd_seed_never_trains_its_projector():
    method = make("dskd", form="seed")
    gradients(method, make_views())
    assert "anchor" not in method.weights
    assert [key for key, parameter in method.named_parameters() if parameter.grad is None] == ["to_student.weight"]


def test_dskd_distance_may_be_the_mean_squared_error():
    method, views = make("dskd", distance="mse"), make_views()
    student, teacher = views.student.pooled, views.teacher.pooled
    expected = mse_of_units(method.to_teacher(student), teacher) + mse_of_units(student, method.to_student(teacher))
    torch.testing.assert_close(method(views)["sentence"], expected)


def test_dskd_offsets_compare_groups_in_the_teachers_space():
    method, views = make("dskd"), make_views((4,))
    student, teacher = views.student.hidden_states[-1][0], views.teacher.token_states[0]
    pairs = [(student[1], teacher[1]), (student[2], teacher[2:4].mean(dim=0))]  # [CLS] a b [SEP] | [CLS] a b1 b2 [SEP]
    expected = sum(cosine_distance(method.to_teacher(s), t) for s, t in pairs) / 2
    torch.testing.assert_close(method(views)["token"], expected)


@pytest.mark.parametrize("link", ["word_attention", "state_attention"])
def test_dskd_attention_sees_no_token_outside_groups(link):
    method, views = make("dskd", token_link=link), make_views((4,))
    before = method(views)["token"]
    with torch.no_grad():
        for tensor in (views.student.hidden_states[-1], views.student.word_embeddings):
            tensor[:, [0, 3]] = 7.0
        for tensor in (views.teacher.token_states, views.teacher_word_embeddings):
            tensor[:, [0, 4]] = 7.0
    torch.testing.assert_close(method(views)["token"], before)
    with torch.no_grad():
        views.student.hidden_states[-1][:, 1] = 7.0
    assert abs(method(views)["token"] - before) > 1e-3


def test_dskd_word_attention_equals_a_loop():
    method, views = make("dskd", token_link="word_attention"), make_views((5,))
    words, others = views.student.word_embeddings[0, 1:4], views.teacher_word_embeddings[0, 1:5]
    states, teacher_states = views.student.hidden_states[-1][0, 1:4], views.teacher.token_states[0, 1:5]
    queries = method.link.query(words / words.std(correction=0))
    scores = queries @ (others / others.std(correction=0)).T / 8**0.5
    expected = 0.0
    for i in range(3):
        taken = sum(p * method.to_student(t) for p, t in zip(scores[i].softmax(0), teacher_states, strict=True))
        expected += cosine_distance(states[i], taken) / 3
    for j in range(4):
        taken = sum(p * method.to_teacher(s) for p, s in zip(scores[:, j].softmax(0), states, strict=True))
        expected += cosine_distance(taken, teacher_states[j]) / 4
    torch.testing.assert_close(method(views)["token"], expected)


def test_dskd_word_embeddings_get_no_gradient():
    method, views = make("dskd", form="paper"), make_views()
    gradients(method, views)
    assert views.student.word_embeddings.grad is None
    assert method.link.query.weight.grad.abs().max() > 1e-5


def test_dskd_equal_words_find_each_other_at_the_start():
    method, views = make("dskd", PairFacts(64, 64, 3, 6), form="paper"), make_views((6,), PairFacts(64, 64, 3, 6))
    with torch.no_grad():
        method.link.query.weight.copy_(torch.eye(64))
    words = views.student.word_embeddings.detach() * 0.02
    is_word = views.student_group >= 0
    takes, _ = method.link(words, words, is_word, is_word)
    assert takes[0, 1:5].argmax(dim=-1).tolist() == [1, 2, 3, 4]
    assert takes[0, 1:5].amax(dim=-1).min() > 0.9


def test_dskd_word_attention_does_not_move_the_students_target():
    method, views = make("dskd", form="paper"), make_views()
    method(views)["token"].backward()
    assert method.to_student.weight.grad is None
    assert method.to_teacher.weight.grad.abs().max() > 1e-5


def test_dskd_without_word_embeddings_is_refused():
    views = make_views()
    views.teacher_word_embeddings = None
    with pytest.raises(UserError, match=r"method\.token_link: expected both models' word embeddings"):
        make("dskd", form="paper")(views)


def test_dskd_state_attention_equals_a_loop():
    method, views = make("dskd", form="seed"), make_views((5,))
    states, others = views.student.hidden_states[-1][0, 1:4], views.teacher.token_states[0, 1:5]
    expected = 0.0
    for link, own, other in (
        (method.student_from_teacher, states, others),
        (method.teacher_from_student, others, states),
    ):
        scores = (own @ link.query) @ (other @ link.key).T / 6**0.5
        expected += mse_of_units(own, scores.softmax(dim=-1) @ other @ link.value)
    torch.testing.assert_close(method(views)["token"], expected)
