"""Learning curves as metrics.jsonl holds them."""

import pytest

from kdkit.runs.curves import gap_closed_so_far, read_curves, teacher_level
from tests.tiny import make_run


def test_curves_are_read_by_phase_from_language_models_and_embeddings(tmp_path):
    run = make_run(tmp_path)
    run.append_metrics({"phase": "student", "step": 0, "evaluation_bits_per_byte": 8.0})
    run.append_metrics({"phase": "student", "step": 5, "loss": 1.0})
    run.append_metrics({"phase": "student", "step": 10, "evaluation_bits_per_byte": 3.0})
    run.append_metrics({"phase": "dskd", "step": 4, "tasks": {"a": 60.0, "b": 80.0}})
    assert read_curves(run) == {"student": [(0, 8.0), (10, 3.0)], "dskd": [(4, 70.0)]}


def test_the_teachers_level_is_that_of_the_training_before_that_of_the_probe(tmp_path):
    run = make_run(tmp_path)
    assert teacher_level(run) is None
    run.write_json("teacher/probe.json", {"teacher_on_curve": 2.0})
    assert teacher_level(run) == 2.0
    run.write_json("training.json", {"teacher_on_curve": 1.9})
    assert teacher_level(run) == 1.9


@pytest.mark.parametrize(
    ("baseline", "level", "expected"),
    [
        ([(0, 8.0), (10, 4.0)], 2.0, (10, 0.5)),
        ([(0, 8.0)], 2.0, None),
        ([], 2.0, None),
        ([(10, 4.0)], None, None),
        ([(10, 4.0)], 5.0, None),
    ],
)
def test_the_gap_closed_so_far_is_that_of_the_last_common_step(baseline, level, expected):
    curves = {"student": [(0, 8.0), (10, 3.0), (20, 2.5)], "baseline": baseline}
    assert gap_closed_so_far(curves, level) == expected
