"""Who teaches what: weights by settings, by the teachers' losses and by scores."""

import numpy as np
import pytest
import torch

from kdkit.config.teachers import MemberConfig
from kdkit.data.windows import PAD
from kdkit.distill.committee.scores import bytes_of_pieces, score_member, score_pieces
from kdkit.distill.committee.weights import given_weights, normalise, select, share_out, weigh
from kdkit.distill.open_teacher import open_teacher
from kdkit.teachers.prepare import prepare_teacher
from tests.committees import committee_config
from tests.tiny import make_data, make_plan, make_run


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Return the plan of a run with two teachers."""
    place = tmp_path_factory.mktemp("weights")
    config = committee_config(place, {"combine": "select"})
    return make_plan(config, make_run(place), make_data(config, place))


def member(name, **settings):
    return MemberConfig(name=name, **settings)


def test_given_weights_follow_the_kinds_that_a_teacher_teaches():
    members = [member("a", weight=3.0), member("b", sources=["sea"]), member("c", sources=["land"], weight=0.0)]
    kinds = np.array([[0, 1, PAD]])
    weights = normalise(given_weights(members, kinds, ("land", "sea")))
    np.testing.assert_allclose(weights, [[[1, 0, 0], [0.75, 0.25, 0], [0, 0, 0]]])
    np.testing.assert_allclose(normalise(given_weights(members[:1], np.zeros((2, 1), int), ())), np.ones((2, 1, 1)))


def test_select_takes_the_lowest_loss_among_those_that_may_teach():
    weights = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    losses = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert select(weights, losses).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 30.0])
def test_dynamic_weights_are_a_softmax_that_sums_to_one(alpha):
    scores = np.random.default_rng(0).normal(size=(5, 4, 3))
    weights = weigh(np.ones_like(scores), scores, alpha)
    np.testing.assert_allclose(weights, torch.softmax(alpha * torch.from_numpy(scores), dim=-1).numpy())
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0)


def test_dynamic_weights_keep_those_of_the_settings():
    weights = weigh(np.array([[3.0, 1.0, 0.0]] * 2), np.array([[0.2, 0.2, 9.0], [-5000.0, -5000.0, 1.0]]), 2.0)
    np.testing.assert_allclose(weights, [[0.75, 0.25, 0.0]] * 2)
    assert weigh(np.zeros((1, 2)), np.ones((1, 2)), 1.0).tolist() == [[0.0, 0.0]]


def test_scores_are_sums_over_the_tokens_of_a_piece(plan):
    """The sums of a window's pieces, beside a plain forward pass."""
    own = plan.members[1].plan
    teacher, windows = prepare_teacher(own.session, own.data), own.data.train
    model, rows = teacher.model, [2, 7, 11]
    scores = score_pieces(teacher.reader(), windows, len(own.data.teacher_tokenizer), 2, rows)
    for row in rows:
        ids = torch.from_numpy(windows.teacher_ids[row][windows.teacher_ids[row] != PAD].astype(np.int64))
        with torch.no_grad():
            logprobs = model(ids[None]).logits[0, :-1, : len(own.data.teacher_tokenizer)].double().log_softmax(-1)
        starts = [int(place) for place in windows.pieces[row, :, 2] if place != PAD]
        for piece, (start, stop) in enumerate(zip(starts, [*starts[1:], len(ids) - 1], strict=True)):
            part = logprobs[start:stop]
            loss = -part.gather(1, ids[start + 1 : stop + 1, None]).sum().item()
            assert scores.loss[row, piece] == pytest.approx(loss, rel=1e-4)
            assert scores.entropy[row, piece] == pytest.approx(-(part.exp() * part).sum().item(), rel=1e-4)
            assert scores.max_prob[row, piece] == pytest.approx(-part.amax(dim=-1).sum().item(), rel=1e-4)
    assert not scores.loss[[row for row in range(len(windows)) if row not in rows]].any()


def test_select_gives_every_piece_to_the_teacher_that_knows_it_best(plan):
    rows = list(range(len(plan.data.train)))
    scores = [score_member(each.plan, rows) for each in plan.members]
    chosen = share_out(plan, scores, rows)
    known = plan.data.train.pieces[:, :, 0] != PAD
    losses = np.stack([score.loss for score in scores], axis=-1)
    assert (chosen[known].sum(axis=-1) == 1.0).all() and not chosen[~known].any()
    assert (chosen[known].argmax(axis=-1) == losses[known].argmin(axis=-1)).all()
    assert len(set(chosen[known].argmax(axis=-1))) == 2


@pytest.mark.parametrize("score", ["loss", "entropy", "max_prob"])
def test_dynamic_weights_act_by_the_score_per_byte(plan, score):
    rows = list(range(len(plan.data.train)))
    scores = [score_member(each.plan, rows) for each in plan.members]
    settings = {"combine": "dynamic", "score": score, "alpha": 3.0}
    changed = plan.session.config.teachers.model_copy(update=settings)
    config = plan.session.config.model_copy(update={"teachers": changed})
    weights = share_out(make_plan(config, plan.session.run, plan.data), scores, rows)
    known = plan.data.train.pieces[:, :, 0] != PAD
    opinions = [-getattr(each, score) / bytes_of_pieces(plan.data.train) for each in scores]
    ratio = np.log(weights[..., 0] / np.where(known, weights[..., 1], 1.0), where=known, out=np.zeros(known.shape))
    np.testing.assert_allclose(ratio[known], 3.0 * (opinions[0] - opinions[1])[known], atol=1e-4)
    np.testing.assert_allclose(weights[known].sum(axis=-1), 1.0, atol=1e-6)


def test_a_teacher_is_asked_for_its_opinion_once(plan, monkeypatch):
    open_teacher(plan)

    def never(*_):
        raise AssertionError("asked again")

    monkeypatch.setattr("kdkit.distill.committee.scores.score_pieces", never)
    open_teacher(plan)
