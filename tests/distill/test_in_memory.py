"""Two models in memory: the student learns, from the teacher, and is refused what does not fit."""

import copy

import pytest
import torch

import kdkit
from kdkit import distill_models
from kdkit.errors import UserError
from tests.tiny import make_llama


@pytest.fixture(scope="module")
def teacher_and_student(small_pair):
    return make_llama(len(small_pair[1]), seed=1), make_llama(len(small_pair[0]), seed=2)


def loss_on(model, tokenizer, text):
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :64].to(model.device)
    with torch.no_grad():
        return model(ids, labels=ids).loss.item()


def train(models, pair, documents, **options):
    teacher, student = models[0], copy.deepcopy(models[1])
    options = {"max_steps": 12, "learning_rate": 2e-2, "max_length": 32, **options}
    return distill_models(teacher, student, pair[1], pair[0], documents, **options)


def test_the_student_learns_and_the_teacher_stays_as_it_was(teacher_and_student, small_pair, documents):
    before = copy.deepcopy(teacher_and_student[0].state_dict())
    student = train(teacher_and_student, small_pair, documents, kd_ratio=0.2)
    assert (
        loss_on(student, small_pair[0], documents[0])
        < loss_on(teacher_and_student[1], small_pair[0], documents[0]) - 0.3
    )
    assert all(torch.equal(value, before[name]) for name, value in teacher_and_student[0].state_dict().items())
    assert not student.training


def test_the_teachers_signal_and_the_loss_change_what_is_learned(teacher_and_student, small_pair, documents):
    weights = [
        train(teacher_and_student, small_pair, documents, **options).lm_head.weight
        for options in ({"kd_ratio": 0.0}, {"kd_ratio": 0.9}, {"kd_ratio": 0.9, "loss": "alm"})
    ]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_one_tokenizer_takes_a_divergence_with_options(small_pair, documents):
    pair, models = (
        (small_pair[0], small_pair[0]),
        (make_llama(len(small_pair[0]), 1), make_llama(len(small_pair[0]), 2)),
    )
    student = train(models, pair, documents, loss={"name": "jsd", "teacher_weight": 0.2}, max_steps=2)
    assert not torch.equal(student.lm_head.weight, models[1].lm_head.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "forward_kl"}, "expected one tokenizer for 'forward_kl'"),
        ({"loss": "kl"}, "distill.loss: expected 'auto', 'forward_kl'"),
        ({"kd_ratio": 2.0}, "distill.kd_ratio"),
        ({"max_steps": 0}, "train.max_steps"),
    ],
)
def test_what_does_not_fit_is_one_sentence(teacher_and_student, small_pair, documents, options, message):
    with pytest.raises(UserError, match=message):
        train(teacher_and_student, small_pair, documents, **options)


def test_swapped_tokenizers_and_no_text_are_refused(teacher_and_student, small_pair, documents):
    teacher, student = teacher_and_student
    with pytest.raises(UserError, match="expected a student for its tokenizer's"):
        distill_models(teacher, student, small_pair[0], small_pair[1], documents)
    with pytest.raises(UserError, match="expected text of at least one token, got 1 texts"):
        distill_models(teacher, student, small_pair[1], small_pair[0], [""])
    with pytest.raises(UserError, match="expected a list of documents, got one string of 6 characters"):
        distill_models(teacher, student, small_pair[1], small_pair[0], "a text")


def test_the_package_has_no_other_lazy_name():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        kdkit.distil  # noqa: B018
