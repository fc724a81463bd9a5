"""CDM: what each option does."""

import dataclasses

import pytest
import torch

from kdkit.losses.sentences import cosine_distance, mse_of_units
from tests.embeddings.methods.token_views import FACTS, make, make_views


def test_cdm_reads_the_last_of_several_tokens_of_a_causal_teacher():
    views = make_views((4,))
    student, teacher = views.student.hidden_states[-1][0], views.teacher.token_states[0]
    for causal, state, last in (
        (True, "auto", True),
        (False, "auto", False),
        (True, "mean", False),
        (False, "last", True),
    ):
        method = make("cdm", dataclasses.replace(FACTS, causal_teacher=causal), teacher_state=state)
        word = teacher[3] if last else teacher[2:4].mean(dim=0)
        pairs = ((student[1], teacher[1]), (student[2], word))
        expected = sum(cosine_distance(method.projection(s), t) for s, t in pairs) / 2
        torch.testing.assert_close(method(views)["token"], expected)


def test_cdm_leaves_out_words_that_one_side_has_cut_off():
    method, views = make("cdm"), make_views((5,))
    views.teacher_group[views.teacher_group == 2] = -1
    views.student_group[views.student_group == 0] = -1
    left = method.projection(views.student.hidden_states[-1][0, 2]), views.teacher.token_states[0, 2]
    torch.testing.assert_close(method(views)["token"], cosine_distance(*left))


def test_cdm_seed_has_one_projection_for_tokens_and_sentences():
    shared, separate = make("cdm", form="seed"), make("cdm")
    assert len(list(shared.parameters())) == 1 and len(list(separate.parameters())) == 2


def test_cdm_seed_weighs_the_mean_squared_error_of_tokens_fifty_times():
    method, views = make("cdm", form="seed"), make_views((4,))
    student, teacher = views.student.hidden_states[-1][0], views.teacher.token_states[0]
    pairs = [(student[1], teacher[1]), (student[2], teacher[2:4].mean(dim=0))]
    expected = sum(mse_of_units(method.projection(s), t) for s, t in pairs) / 2
    torch.testing.assert_close(method(views)["token"], expected)
    assert method.weights == {"token": 50.0, "sentence": 1.0, "task": 0.5}


@pytest.mark.parametrize("alignment", ["offsets", "dtw", "weighted_dtw"])
def test_cdm_passes_its_alignment_on(alignment):
    assert make("cdm", alignment=alignment).alignment == alignment
