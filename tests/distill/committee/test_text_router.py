"""The router that guesses from the tokens who knows a text best."""

import numpy as np
import pytest
import torch

from kdkit.data.windows import PAD
from kdkit.distill.committee.scores import asked_rows, score_member
from kdkit.distill.committee.text_router import Bags, bags_of, estimate, guess_losses, learn_votes
from kdkit.distill.committee.weights import share_out
from kdkit.distill.open_teacher import open_teacher
from tests.committees import committee_config
from tests.tiny import make_data, make_plan, make_run


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Return the plan of a run with two teachers and a router that sees a third of the text."""
    place = tmp_path_factory.mktemp("router")
    config = committee_config(place, {"combine": "select", "select_by": "router", "asked_share": 0.34})
    return make_plan(config, make_run(place), make_data(config, place))


def make_bags(texts):
    counts = torch.tensor([0, *map(len, texts)][:-1])
    return Bags(torch.tensor([token for text in texts for token in text]), counts.cumsum(0))


def test_bags_hold_every_token_of_the_student_but_the_first_of_each_window(plan):
    windows = plan.data.train
    bags = bags_of(windows)
    ids = np.asarray(windows.student_ids)[:, 1:]
    assert torch.equal(bags.ids, torch.from_numpy(ids[ids != PAD].astype(np.int64)))
    pieces = windows.pieces.shape[1]
    assert len(bags.offsets) == len(windows) * pieces
    for row in (0, 3, len(windows) - 1):
        own = bags.select(np.arange(row * pieces, (row + 1) * pieces))
        assert own.ids.tolist() == ids[row][ids[row] != PAD].tolist()
        starts = [int(start) for start in windows.pieces[row, :, 1] if start != PAD]
        assert own.offsets[: len(starts)].tolist() == starts


def test_votes_follow_the_tokens_and_leave_out_who_may_not_teach():
    generator = np.random.default_rng(0)
    best = generator.integers(0, 3, size=90)
    # tokens 0 to 2 say who is best, the other seven nothing
    texts = [[int(who), *generator.integers(3, 10, size=6).tolist()] for who in best]
    allowed = torch.ones(90, 3, dtype=torch.bool)
    votes = learn_votes(make_bags(texts), torch.from_numpy(best), allowed, 11)
    assert votes[:3].argmax(dim=1).tolist() == [0, 1, 2]
    assert votes[3:10].abs().max() < votes[:3].max() / 4
    assert not votes[10].any()  # was never read
    new = [[who, *generator.integers(3, 10, size=9).tolist()] for who in (2, 0, 1, 1)]
    assert estimate(make_bags(new), votes).argmax(axis=1).tolist() == [2, 0, 1, 1]


def test_only_a_share_is_asked_and_its_opinion_counts_as_it_is(plan, monkeypatch):
    rows = asked_rows(plan)
    assert len(rows) < 0.5 * len(plan.data.train) and rows == asked_rows(plan)
    scores = [score_member(each.plan, rows) for each in plan.members]
    others = [row for row in range(len(plan.data.train)) if row not in rows]
    assert not scores[0].loss[others].any()
    weights = share_out(plan, scores, rows)
    known = plan.data.train.pieces[:, :, 0] != PAD
    assert (weights[known].sum(axis=-1) == 1.0).all() and not weights[~known].any()
    losses = np.stack([score.loss for score in scores], axis=-1)[rows]
    assert (weights[rows].argmax(axis=-1) == losses.argmin(axis=-1))[known[rows]].all()


def test_the_router_guesses_whom_the_loss_would_choose(plan):
    """Land and sea share hardly a word, so a piece's tokens say whose it is."""
    everything = list(range(len(plan.data.train)))
    kinds = plan.data.kinds.train[np.maximum(plan.data.train.pieces[:, :, 0], 0)]
    losses = np.stack([kinds == 1, kinds == 0], axis=-1) * 3.0 + 1.0
    rows = asked_rows(plan)
    shown = np.zeros_like(losses)
    shown[rows] = losses[rows]
    guessed, agreement = guess_losses(
        plan.data.train, shown, np.ones_like(losses), rows, len(plan.data.student_tokenizer)
    )
    others = [row for row in everything if row not in rows]
    known = (plan.data.train.pieces[:, :, 0] != PAD)[others]
    right = guessed[others].argmin(axis=-1) == losses[others].argmin(axis=-1)
    assert right[known].mean() > 0.85 and agreement > 0.8
    # with opinions that have nothing to do with the text it knows no better than chance, and says so
    shuffled = np.zeros_like(losses)
    shuffled[rows] = 1.0 + np.random.default_rng(1).random(losses[rows].shape)
    _, agreement = guess_losses(plan.data.train, shuffled, np.ones_like(losses), rows, len(plan.data.student_tokenizer))
    assert agreement < 0.75


def test_a_teacher_that_may_not_teach_a_kind_is_not_guessed_for_it(plan):
    losses = np.ones((*plan.data.train.pieces.shape[:2], 2)) * [1.0, 2.0]
    weights = np.ones_like(losses)
    weights[::2, :, 0] = 0.0
    rows = asked_rows(plan)
    guessed, _ = guess_losses(plan.data.train, losses, weights, rows, len(plan.data.student_tokenizer))
    assert np.isfinite(guessed).all()


def test_opening_the_teachers_asks_about_the_share_alone(plan, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        "kdkit.distill.open_teacher.score_member",
        lambda own, rows: asked.append(rows) or score_member(own, rows),
    )
    committee = open_teacher(plan)
    assert asked == [asked_rows(plan)] * 2
    assert "teachers asked about" in capsys.readouterr().out
    assert committee.shares.any(axis=(0, 1)).all()
