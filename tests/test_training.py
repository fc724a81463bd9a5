"""The conventions of every loss: shifted once, fp32, per token, reduced once per optimizer step."""

import math

import numpy as np
import pytest
import torch

from kdkit.data.packing import PAD, Windows
from kdkit.distill.train import make_trainer
from kdkit.runs import fingerprint
from kdkit.teacher.batches import IGNORE_INDEX, WindowCollator
from kdkit.teacher.scoring import score_windows
from kdkit.teacher.training import cross_entropy, masked_mean, shift_labels
from tests.tiny import CPU, make_config, make_data, make_llama, make_run, make_teacher


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


def trajectory(folder, batch_size, accumulation, with_teacher, loss="auto"):
    """Train six steps of eight sequences and return what was logged and the final weights."""
    student = {"build": {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}}
    if loss == "forward_kl":
        student["build"]["tokenizer"] = "teacher"
    config = make_config(
        folder,
        train={"batch_size": batch_size, "gradient_accumulation_steps": accumulation},
        distill={"loss": loss, "temperature": 2.0},
        student=student,
    )
    data = make_data(config, folder)
    run = make_run(folder, fingerprint(batch_size, with_teacher, loss))
    teacher = make_teacher(data) if with_teacher else None
    trainer = make_trainer(config, run, data, teacher, CPU, "student", steps=6)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry], trainer.model


@pytest.mark.parametrize(
    ("with_teacher", "loss"), [(False, "auto"), (True, "overlap_kl"), (True, "projected_kl"), (True, "forward_kl")]
)
def test_one_batch_of_eight_equals_eight_of_one_in_loss_and_gradient_norm(tmp_path, with_teacher, loss):
    whole, first = trajectory(tmp_path, 8, 1, with_teacher, loss)
    parts, second = trajectory(tmp_path, 1, 8, with_teacher, loss)
    names = ["loss", "grad_norm", "ce_loss"] + ["kd_loss"] * with_teacher
    for name in names:
        a, b = np.array([line[name] for line in whole]), np.array([line[name] for line in parts])
        assert a == pytest.approx(b, rel=2e-4), name
        # a one-sided drift is the signature of a wrong divisor, even when it is small
        assert abs(np.mean((a - b) / a)) < 1e-4, name
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-4)


def test_with_one_tokenizer_the_loss_is_the_weighted_sum_of_its_terms(tmp_path):
    lines, _ = trajectory(tmp_path, 4, 2, True, "forward_kl")
    for line in lines:
        assert line["loss"] == pytest.approx(0.5 * line["ce_loss"] + 0.5 * line["kd_loss"], rel=1e-4)
