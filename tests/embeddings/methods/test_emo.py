"""EMO: what each option does."""

import dataclasses
import time

import pytest
import torch

from kdkit.embeddings.methods.base import PairFacts
from kdkit.errors import UserError
from tests.embeddings.methods.token_views import make, make_views, total


def test_emo_more_layers_than_the_student_has_are_refused():
    with pytest.raises(UserError, match=r"method\.num_layers: expected at most the student's 3 layers, got 4"):
        make("emo", num_layers=4)


def test_emo_takes_the_last_of_more_layers_than_it_asked_for():
    method = make("emo")
    many, one = make_views(layers=3), make_views(layers=3)
    one.teacher.attentions = one.teacher.attentions[:, -1:]
    assert method.needs.attention_layers == 1
    torch.testing.assert_close(method(many)["attention"], method(one)["attention"])


def test_emo_two_layers_are_the_mean_of_both():
    views = make_views((9, 8), layers=2)
    both = make("emo", num_layers=2, cka="biased")(views)["attention"]
    single = []
    for layer in (0, 1):
        one = make_views((9, 8), layers=2)
        one.student.attentions = (views.student.attentions[layer + 1],)
        one.teacher.attentions = views.teacher.attentions[:, layer : layer + 1]
        single.append(make("emo", cka="biased")(one)["attention"])
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def test_emo_published_attention_compares_the_top_third():
    # 12 student tokens, 10 of them words: the 4 most important of them
    method, views = make("emo", form="paper", num_layers=1), make_views((12,))
    teacher_map = views.teacher.attentions[0, -1]
    share = teacher_map.sum(dim=0).softmax(dim=0)
    mass = torch.stack([*share[1:10], share[10] + share[11]])
    top = mass.argsort(descending=True)[:4]
    student_rows = views.student.attentions[-1][0].mean(dim=0)[1:11][top]
    teacher_rows = torch.cat([teacher_map[1:10], teacher_map[10:12].mean(dim=0, keepdim=True)])[top]
    x, y = (rows - rows.mean(dim=0) for rows in (student_rows, teacher_rows))
    expected = 1 - (x.T @ y).norm() / ((x.T @ x).norm() * (y.T @ y).norm()).sqrt()
    torch.testing.assert_close(method(views)["attention"], expected)


def test_emo_attention_gradient_reaches_the_last_layers_only():
    method, views = make("emo", num_layers=2, cka="biased"), make_views()
    method(views)["attention"].backward()
    assert [layer.grad is not None for layer in views.student.attentions] == [False, True, True]


def test_emo_special_tokens_and_sinks_carry_no_mass_worth_mentioning():
    method, views = make("emo"), make_views((7,))
    with torch.no_grad():
        views.teacher.attentions[:, :, :, [0, 7]] = 100.0  # all look at the first and the last, which are special
    before = method(views)["transport"]
    with torch.no_grad():
        views.student.hidden_states[-1][:, [0, 6]] = 5.0
    assert abs(method(views)["transport"] - before) < 5e-3


def test_emo_transport_without_attention_still_asks_for_the_teachers_last_map():
    method = make("emo", attention_weight=0.0)
    assert method.needs.attention_layers == 1 and method.alignment == "offsets"
    torch.testing.assert_close(method(make_views())["transport"], make("emo")(make_views())["transport"])


def test_emo_sentences_of_padding_do_not_count():
    method, views = make("emo"), make_views((6, 0))
    alone = make_views((6, 0))
    for side in (alone.student, alone.teacher):
        for field in dataclasses.fields(side):
            value = getattr(side, field.name)
            if isinstance(value, torch.Tensor):
                setattr(side, field.name, value[:1])
    alone.student.hidden_states = tuple(states[:1] for states in alone.student.hidden_states)
    alone.student.attentions = tuple(layer[:1] for layer in alone.student.attentions)
    alone.student_group, alone.teacher_group = alone.student_group[:1], alone.teacher_group[:1]
    alone.second, alone.text_ids = alone.second[:1], alone.text_ids[:1]
    for term in ("transport", "attention"):
        torch.testing.assert_close(method(views)[term], method(alone)[term])


def test_emo_transport_falls_when_states_come_closer():
    facts, values = PairFacts(8, 8, 3, 6), []
    for share in (0.0, 0.5, 1.0):
        close = make_views((4, 6), facts)
        states = close.student.hidden_states[-1].detach().clone()
        for row in range(2):
            for number in range(int(close.student_group[row].max()) + 1):
                target = close.teacher.token_states[row, close.teacher_group[row] == number].mean(dim=0)
                where = close.student_group[row] == number
                states[row, where] = share * target + (1 - share) * states[row, where]
        close.student.hidden_states = (states,)
        values.append(make("emo", facts)(close)["transport"].item())
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("option", [{"importance": "softmax"}, {"cost": "softmax"}, {"sinkhorn_regularisation": 1.0}])
def test_emo_option_changes_the_transport(option):
    views = make_views()
    assert abs(make("emo", **option)(views)["transport"] - make("emo")(views)["transport"]) > 1e-3


@pytest.mark.parametrize("option", [{"cka": "biased"}, {"rows": "top_third", "cka": "biased"}, {"num_layers": 3}])
def test_emo_option_changes_the_attention_term(option):
    views = make_views((12, 12, 12))
    assert abs(make("emo", **option)(views)["attention"] - make("emo")(views)["attention"]) > 1e-3


def test_emo_loss_of_32_sentences_is_fast():
    facts = PairFacts(384, 384, 3, 6)
    method, views = make("emo", facts), make_views((24,) * 32, facts, layers=1)
    fastest = float("inf")
    for _ in range(3):
        start = time.process_time()
        total(method, views).backward()
        fastest = min(fastest, time.process_time() - start)
    assert fastest < 0.25  # 0.03 s on one quiet core
