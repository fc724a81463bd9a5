"""What the tokens of own text count: a first share of them, early ones more, or a constant advantage."""

import math

import pytest
import torch

from kdkit.config.language import config_from_values
from kdkit.errors import UserError
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.losses.own_tokens import constant_advantages, importance_weights
from tests.distill.own_text import PROMPT, batches_of, writes

pytestmark = pytest.mark.usefixtures("one_thread")

# truncated


@pytest.mark.parametrize("name", ["same", "two"])
@pytest.mark.parametrize(("share", "kept"), [(0.3, 3), (0.31, 4), (0.05, 1), (1.0, 10)])
def test_the_first_share_of_a_texts_own_tokens_is_read(trainer_of, monkeypatch, name, share, kept):
    trainer = trainer_of(name, first_share=share)
    tokenizer = trainer.data.student_tokenizer
    word = tokenizer("a").input_ids
    assert len(word) == 1
    writes(monkeypatch, trainer, word * 10)
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    own = [row[row != IGNORE_INDEX].tolist() for row in batch["labels"]]
    assert own == [word * kept] * len(own) and num_items == kept * len(own)
    assert batch["input_ids"].shape[1] == 1 + PROMPT + kept


def test_the_share_is_one_of_each_text_not_of_the_longest(trainer_of, monkeypatch):
    trainer = trainer_of("same", first_share=0.5)
    end, (word,) = trainer.data.student_tokenizer.eos_token_id, trainer.data.student_tokenizer(" a").input_ids
    writes(monkeypatch, trainer, [word] * 8, [word] * 3 + [end])
    (batch, *_), _, _ = batches_of(trainer, 1)
    own = [int((row != IGNORE_INDEX).sum()) for row in batch["labels"]]
    assert own == ([4, 2] * len(own))[: len(own)]


# importance


def reference_weights(gaps: list[float], gamma: float) -> list[float]:
    """Algorithm 1 of arXiv:2606.22600, token by token."""
    total = max(sum(gaps), 1e-8)
    return [1 + gamma * (1 - sum(gaps[:t]) / total) for t in range(len(gaps))]


def rows_by_window(batch: dict) -> list[list[int]]:
    """Return, sequence by sequence, the positions in the flattened batch that predict an own token."""
    labels = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX)
    width = labels.shape[1]
    return [[i * width + j for j in range(width) if row[j] != IGNORE_INDEX] for i, row in enumerate(labels.tolist())]


@pytest.mark.parametrize("loss", ["reverse_kl", "forward_kl"])
@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_with_one_tokenizer_each_token_weighs_as_in_the_paper(trainer_of, parts_of, loss, gamma):
    trainer, teacher = trainer_of("same", loss=loss, importance=gamma), parts_of["same"][2]
    (batch, *_), _, _ = batches_of(trainer, 1)
    loss_value, terms = trainer.compute_step(trainer.model, batch, 37)
    q = torch.log_softmax(trainer.model(input_ids=batch["input_ids"]).logits.double(), dim=-1).flatten(0, 1)
    p = torch.log_softmax(teacher.model(input_ids=batch["input_ids"]).logits.double(), dim=-1).flatten(0, 1)
    following = torch.nn.functional.pad(batch["input_ids"][:, 1:], (0, 1)).flatten()
    first, second = (p, q) if loss == "forward_kl" else (q, p)
    values = (first.exp() * (first - second)).sum(dim=-1)
    expected = raw = 0.0
    for rows in rows_by_window(batch):
        gaps = [(p[row, following[row]] - q[row, following[row]]).abs().item() for row in rows]
        weights = reference_weights(gaps, gamma)
        assert weights[0] == 1 + gamma and weights == sorted(weights, reverse=True)
        expected += sum(w * values[row] for w, row in zip(weights, rows, strict=True)) / 37
        raw += values[rows].sum() / 37
    assert loss_value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["kd_loss"].item() == pytest.approx(raw.item(), rel=1e-5)  # the logged divergence is not weighed
    assert terms["kd_weighted"].item() == pytest.approx(expected.item(), rel=1e-5)
    loss_value.backward()
    (gradient,) = torch.autograd.grad(expected, trainer.model.lm_head.weight)
    assert torch.allclose(trainer.model.lm_head.weight.grad, gradient.float(), atol=1e-6)


def test_text_of_the_data_is_not_weighed(trainer_of):
    plain, weighed = (trainer_of("same", importance=gamma) for gamma in (0.0, 3.0))
    own, num_items, given = batches_of(weighed, 1)
    weighed.compute_step(weighed.model, own[0], num_items)
    plain.model.load_state_dict(weighed.model.state_dict())
    got, expected = (trainer.compute_step(trainer.model, given[0], 50)[0].item() for trainer in (weighed, plain))
    assert got == expected


@pytest.mark.parametrize("loss", ["projected_kl", "overlap_kl", "alm", "uld", "gold"])
def test_with_two_tokenizers_a_loss_is_between_that_with_the_least_and_the_largest_weight(trainer_of, loss):
    plain, weighed = (trainer_of("two", loss=loss, importance=gamma) for gamma in (0.0, 2.0))
    weighed.model.load_state_dict(plain.model.state_dict())
    (batch, *_), num_items, _ = batches_of(plain, 1)
    small, large = (trainer.compute_step(trainer.model, batch, num_items)[0].item() for trainer in (plain, weighed))
    assert 1.05 * small < large < 3 * small


def test_with_two_tokenizers_the_disagreement_is_that_about_the_text_of_a_span(trainer_of):
    trainer = trainer_of("two", importance=1.0)
    (batch, *_), _, _ = batches_of(trainer, 1)
    spans = batch["spans"]
    generator = torch.Generator().manual_seed(0)
    student, teacher = (-torch.rand(len(r), generator=generator) for r in (spans.student_rows, spans.teacher_rows))
    labels = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    counted = labels[spans.student_rows] != IGNORE_INDEX
    got = importance_weights(spans, student, teacher, counted, 0.7)
    assert int((spans.student_lengths > 1).sum()) > 0
    expected = torch.empty_like(got)
    for a, b in zip(spans.sequence_starts.tolist(), spans.sequence_starts.tolist()[1:], strict=False):
        bounds = [
            (slice(*spans.student_starts[n : n + 2]), slice(*spans.teacher_starts[n : n + 2])) for n in range(a, b)
        ]
        gaps = [abs(float(teacher[t].sum() - student[s].sum())) * bool(counted[s].any()) for s, t in bounds]
        for (rows, _), weight in zip(bounds, reference_weights(gaps, 0.7), strict=True):
            expected[rows] = weight
    assert torch.allclose(got, expected, atol=1e-5)


# the control


def test_the_control_makes_the_least_likely_fifth_less_likely_and_asks_no_teacher(trainer_of, monkeypatch):
    trainer = trainer_of("two", advantage="constant")
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    monkeypatch.setattr(trainer.teacher, "answer", lambda *_: 1 / 0)
    logprobs = torch.log_softmax(trainer.model(input_ids=batch["input_ids"]).logits[:, :-1].double(), dim=-1)
    labels = batch["labels"][:, 1:]
    own = logprobs.gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels != IGNORE_INDEX]
    least = own.sort().values[: round(0.2 * len(own))]
    assert 0 < len(least) < len(own)
    expected = 0.5 * least.sum() / num_items  # -(-0.5) * log q
    loss, terms = trainer.compute_step(trainer.model, batch, num_items)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["ce_loss"].item() == pytest.approx(-own.sum().item() / int(num_items), rel=1e-5)
    loss.backward()
    (gradient,) = torch.autograd.grad(expected, trainer.model.lm_head.weight)
    assert torch.allclose(trainer.model.lm_head.weight.grad, gradient.float(), atol=1e-6)


def test_the_control_trains_and_the_text_gets_likelier(trainer_of):
    trainer = trainer_of("same", advantage="constant", max_steps=12, learning_rate=0.02)
    trainer.train()
    losses = [line["ce_loss"] for line in trainer.state.log_history if "ce_loss" in line]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]


def test_no_token_of_the_prompt_is_suppressed():
    logprobs = torch.tensor([-9.0, -1.0, -3.0, -2.0, -0.5, -0.1])
    counted = torch.tensor([False, True, True, True, True, True])
    assert constant_advantages(logprobs, counted).tolist() == [0.0, 0.0, -0.5, 0.0, 0.0, 0.0]


# settings


def stage(**options):
    return {"train": {"stages": [{"name": "own", "max_steps": 1, "on_policy": options}]}}


@pytest.mark.parametrize("option", ["repetition_penalty", "top_p", "min_p", "do_sample", "num_beams", "temperature"])
def test_an_option_that_would_change_the_distribution_is_refused(option):
    with pytest.raises(
        UserError, match=rf"expected on_policy with .*got '{option}'; leave it out.*generation_temperature"
    ):
        config_from_values(stage(**{option: 1.1}))


@pytest.mark.parametrize(
    "options", [{"first_share": 0.0}, {"first_share": 1.1}, {"importance": -0.1}, {"advantage": "none"}]
)
def test_a_weighting_out_of_range_is_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        config_from_values(stage(**options))


def test_a_constant_advantage_cannot_be_weighed_by_a_teacher():
    with pytest.raises(UserError, match=r"importance=0 with advantage=constant.*got 0\.5"):
        config_from_values(stage(advantage="constant", importance=0.5))
