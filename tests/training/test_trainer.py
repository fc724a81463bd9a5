"""The conventions of every loss: shifted once, fp32, per token, reduced once per optimizer step; cached as online."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from kdkit.config.language import Config
from kdkit.config.losses import loss_options
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.distill import open_teacher as source
from kdkit.losses.closed_forms import MEASURES
from kdkit.losses.cross_entropy import IGNORE_INDEX, cross_entropy, masked_mean, shift_labels
from kdkit.runs.folder import fingerprint
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.prepare import Teacher
from kdkit.training.scoring import score_windows
from tests.crossed import cross_data, cut_unevenly
from tests.tiny import make_config, make_data, make_llama, make_plan, make_run, make_teacher, make_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def data(folder):
    return make_data(make_config(folder), folder)


def test_shift_pairs_six_tokens_with_a_known_answer_boundary():
    # tokens 10..15; 10, 11, 12 are the prompt, 13, 14, 15 the answer
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 13, 14, 15]])
    targets = shift_labels(labels)
    # the first answer token is predicted at position 2, the last prompt token; nothing is predicted at position 5
    assert targets.tolist() == [[IGNORE_INDEX, IGNORE_INDEX, 13, 14, 15, IGNORE_INDEX]]
    logits = torch.zeros(1, 6, 20)
    logits[0, 2, 13] = 9.0
    values = cross_entropy(logits, targets)
    assert values[0, 2] < 0.01 < values[0, 3]
    assert values[0, [0, 1, 5]].tolist() == [0, 0, 0]


def test_cross_entropy_is_per_token_in_nats_and_zero_where_ignored():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    values = cross_entropy(logits, torch.tensor([[1, IGNORE_INDEX]]))
    assert values.tolist() == [[pytest.approx(math.log(4)), 0.0]]


def test_cross_entropy_of_half_logits_is_computed_in_fp32():
    # 32k equal logits: every probability is 3e-5, below what fp16 holds to three digits
    values = cross_entropy(torch.zeros(1, 1, 32_768, dtype=torch.float16), torch.zeros(1, 1, dtype=torch.long))
    assert values.dtype == torch.float32
    assert values.item() == pytest.approx(math.log(32_768), rel=1e-6)


def test_masked_mean_divides_by_the_whole_step():
    values, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[True, True, False]])
    assert masked_mean(values, mask).item() == 1.5
    assert masked_mean(values, mask, num_items_in_batch=6).item() == 0.5


def test_masked_mean_of_nothing_is_zero_and_backpropagates():
    values = torch.tensor([[1.0, math.inf]], requires_grad=True)
    loss = masked_mean(values, torch.zeros(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert values.grad.tolist() == [[0.0, 0.0]]


def test_masked_positions_get_zero_gradient(data):
    model = make_llama(len(data.student_tokenizer))
    batch = WindowCollator(data.train)([0, 1, 2])
    batch["labels"][1] = IGNORE_INDEX
    logits = model(input_ids=batch["input_ids"]).logits
    logits.retain_grad()
    targets = shift_labels(batch["labels"])
    masked_mean(cross_entropy(logits, targets), targets != IGNORE_INDEX).backward()
    assert logits.grad[1].abs().max() == 0
    assert logits.grad[0].abs().max() > 0


def test_padding_changes_no_score(data):
    model = make_llama(len(data.student_tokenizer))
    together = score_windows(model, data.evaluation, "student", batch_size=8)
    one_by_one = score_windows(model, data.evaluation, "student", batch_size=1)
    assert len(set((data.evaluation.student_ids != PAD).sum(axis=1).tolist())) > 1, "windows must differ in length"
    assert together.window_nats == pytest.approx(one_by_one.window_nats, rel=1e-5)


def test_bits_per_byte_of_a_uniform_model_is_known():
    windows = Windows(
        student_ids=np.array([[0, 1, 2, PAD]], dtype=np.int32),
        teacher_ids=np.array([[0, 1, PAD]], dtype=np.int32),
        teacher_positions=np.array([[0, PAD, PAD, PAD]], dtype=np.int32),
        same_token=np.zeros((1, 4), dtype=bool),
        num_bytes=np.array([4]),
    )
    model = make_llama(16)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    score = score_windows(model, windows, "student", batch_size=1)
    # two tokens of log2(16) = 4 bits each over 4 bytes
    assert score.bits_per_byte == pytest.approx(2.0)
    assert score.perplexity == pytest.approx(16.0)
    assert score.num_tokens == 2


@dataclass(frozen=True)
class Lesson:
    """A teacher, text for it and its student, and what was trained on them so far."""

    folder: Path
    same: tuple[PreparedData, Teacher]
    """One tokenizer."""
    crossed: tuple[PreparedData, Teacher]
    """Two, neither finer than the other."""
    done: dict[str, tuple[list[dict[str, float]], dict[str, torch.Tensor]]] = field(default_factory=dict)

    def configure(self, loss: str | None, batch_size: int = 8, accumulation: int = 1, **changes) -> Config:
        distill = {"loss": loss or "auto", "temperature": 1.0 if loss in ("alm", "auto") else 2.0}
        steps = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "save_every": 100}
        return make_config(self.folder, train=steps, distill=distill, **changes)

    def data_for(self, loss: str | None) -> tuple[PreparedData, Teacher]:
        return self.same if loss in MEASURES else self.crossed

    def train(self, config: Config, data: PreparedData, teacher: object) -> tuple[list[dict[str, float]], dict]:
        """Train three steps of eight sequences; return what was logged and the final weights."""
        key = fingerprint(config.model_dump(), data.key, teacher is None)
        if key not in self.done:
            trainer = make_trainer(config, make_run(self.folder, key), data, teacher, steps=3)
            trainer.train()
            lines = [entry for entry in trainer.state.log_history if "loss" in entry]
            self.done[key] = lines, trainer.model.state_dict()
        return self.done[key]

    def trajectory(self, loss: str | None, batch_size: int, accumulation: int) -> tuple[list[dict[str, float]], dict]:
        """Train with a loss; None: without a teacher."""
        data, teacher = self.data_for(loss)
        return self.train(self.configure(loss, batch_size, accumulation), data, teacher if loss else None)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lesson")
    same = cut_unevenly(make_data(make_config(folder, student={"build": {"tokenizer": "teacher"}}), folder))
    crossed = cut_unevenly(cross_data(make_config(folder), folder))
    return Lesson(folder, (same, make_teacher(same)), (crossed, make_teacher(crossed)))


@pytest.mark.parametrize(
    ("loss", "batch_size"),
    [
        *((loss, 2) for loss in (None, *loss_options())),
        *((loss, 1) for loss in (None, "forward_kl", "overlap_kl", "projected_kl")),
    ],
)
def test_one_batch_of_eight_equals_several_smaller_in_loss_and_gradient_norm(lesson, loss, batch_size):
    whole, first = lesson.trajectory(loss, 8, 1)
    parts, second = lesson.trajectory(loss, batch_size, 8 // batch_size)
    assert len(whole) == len(parts) == 3
    names = ["loss", "grad_norm", "ce_loss"] + ["kd_loss"] * (loss is not None)
    for name in names:
        a, b = np.array([line[name] for line in whole]), np.array([line[name] for line in parts])
        assert a == pytest.approx(b, rel=2e-4), name
        # a one-sided drift is the signature of a wrong divisor, even when it is small
        assert abs(np.mean((a - b) / a)) < 1e-4, name
    assert all(torch.allclose(value, second[name], atol=2e-4) for name, value in first.items())


@pytest.mark.parametrize("loss", ["forward_kl", "alm"])
def test_where_the_teacher_is_asked_everywhere_the_loss_is_the_weighted_sum_of_its_terms(lesson, loss):
    for line in lesson.trajectory(loss, 8, 1)[0]:
        assert line["loss"] == pytest.approx(0.5 * line["ce_loss"] + 0.5 * line["kd_loss"], rel=1e-4)


CACHES = {
    "forward_kl": {"mode": "top_k", "top_k": 320, "tail": "keep_mass"},
    "jsd": {"mode": "top_k", "top_k": 320},
    "projected_kl": {"mode": "top_k", "top_k": 290},
    "overlap_kl": {"mode": "top_k", "top_k": None},
    "alm": {"mode": "true_token"},
}


@pytest.mark.parametrize("loss", CACHES)
def test_training_from_a_cache_of_everything_equals_training_with_the_teacher(lesson, loss, monkeypatch):
    (data, teacher), cache = lesson.data_for(loss), CACHES[loss]
    if "top_k" in cache:
        cache = cache | {"top_k": cache["top_k"] or len(data.overlap.student_ids)}
    config = lesson.configure(loss, 2, 4, cache=cache | {"enabled": True, "samples_per_chunk": 8})
    with monkeypatch.context() as patch:
        patch.setattr(source, "prepare_teacher", lambda *_: teacher)
        signals = source.open_teacher(make_plan(config, make_run(lesson.folder, f"cache {loss}"), data))
    assert isinstance(signals, CachedSignals)
    cached, _ = lesson.train(config, data, signals)
    online, _ = lesson.trajectory(loss, 2, 4)
    for name, tolerance in (("loss", 2e-3), ("ce_loss", 1e-4), ("grad_norm", 5e-3), ("kd_loss", 5e-3)):
        # a kept log-probability is rounded to a sixteenth of a nat
        expected = pytest.approx([line[name] for line in online], abs=tolerance)
        assert [line[name] for line in cached] == expected, name
