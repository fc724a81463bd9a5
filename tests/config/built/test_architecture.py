"""Settings of models that are built here: what goes together, and what is refused in one line."""

import pytest

from kdkit.config.built.architecture import sliding_layers
from kdkit.config.built.student import BuildStudentConfig
from kdkit.config.language import config_from_values
from kdkit.config.teachers import BuildTeacherConfig
from kdkit.errors import UserError


def refusal(**sections: dict) -> str:
    """Return the one line that refuses `build` settings of `student` or `teacher`."""
    with pytest.raises(UserError) as caught:
        config_from_values({name: {"build": build} for name, build in sections.items()})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ({"hidden_size": 64, "num_heads": 5}, "student.build.num_heads: expected hidden_size / num_heads"),
        (
            {"num_heads": 4, "num_key_value_heads": 3},
            "expected a divisor of num_heads = 4, got 3; choose one of 1, 2, 4",
        ),
        ({"sliding_window": 0}, "student.build.sliding_window: expected greater than or equal to 1, got 0"),
        ({"sliding_window": 513}, "expected at most 512 tokens, the length of a sequence (data.max_length), got 513"),
        (
            {"sliding_window": 8, "sliding_layers": "alternat"},
            "student.build.sliding_layers: did you mean 'alternate'?",
        ),
        ({"sliding_window": 8, "sliding_layers": [0, 3]}, "expected distinct layers from 0 to 2, at least one"),
        ({"sliding_window": 8, "sliding_layers": [-1]}, "expected distinct layers from 0 to 2, at least one"),
        ({"sliding_window": 8, "sliding_layers": [1, 1]}, "expected distinct layers from 0 to 2, at least one"),
        ({"sliding_window": 8, "sliding_layers": []}, "expected distinct layers from 0 to 2, at least one"),
        ({"sliding_layers": "alternate"}, "expected it beside a window"),
        (
            {"sliding_window": 8, "sliding_layers": "alternate", "num_layers": 1},
            "expected at least two layers for 'alternate', whose last one sees all, got num_layers = 1",
        ),
        ({"hidden_act": "relu"}, "student.build.hidden_act: did you mean 'relu2'?"),
        ({"rope_theta": 0}, "student.build.rope_theta: expected greater than 0"),
    ],
)
def test_a_student_that_cannot_be_built_is_refused(build, words):
    assert words in refusal(student=build)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        ({"num_key_value_heads": 3}, "teacher.build.num_key_value_heads: expected a divisor of num_heads = 4"),
        ({"qk_norm": False}, "teacher.build.qk_norm: expected true in a mixture of experts"),
        ({"intermediate_size": 64}, "teacher.build.intermediate_size: expected null"),
        ({"sliding_window": 8, "sliding_layers": [1]}, "teacher.build.sliding_layers: expected all"),
        ({"sliding_window": 1025}, "expected at most 1024 tokens, the length of a sequence (teacher.max_length)"),
        ({"num_experts": -1}, "teacher.build.num_experts: expected greater than or equal to 0"),
    ],
)
def test_a_teacher_that_cannot_be_built_is_refused(build, words):
    assert words in refusal(teacher=build)


def test_the_window_of_a_member_is_compared_with_its_own_length():
    member = {"name": "a", "max_length": 32, "build": {"sliding_window": 33}}
    with pytest.raises(UserError, match=r"teachers\.members\.a\.build\.sliding_window: expected at most 32"):
        config_from_values({"teachers": {"members": [member]}})


def test_a_window_is_no_matter_where_the_model_is_not_built():
    values = {"student": {"path": "somewhere", "build": {"sliding_window": 600}}}
    assert config_from_values(values).student.build.sliding_window == 600


@pytest.mark.parametrize(
    ("which", "num_layers", "layers"),
    [
        ("all", 3, [0, 1, 2]),
        ("alternate", 6, [0, 2, 4]),
        ("alternate", 5, [1, 3]),
        ([4, 1], 5, [1, 4]),
    ],
)
def test_the_last_of_alternating_layers_sees_all(which, num_layers, layers):
    build = BuildStudentConfig(sliding_window=4, sliding_layers=which, num_layers=num_layers, tokenizer="own")
    assert sliding_layers(build, num_layers) == layers


def test_a_teacher_built_before_the_new_settings_keeps_its_name_in_the_cache():
    assert BuildTeacherConfig().identity() == {
        "vocab_size": 2048,
        "hidden_size": 128,
        "num_layers": 4,
        "num_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "max_steps": 600,
        "batch_size": 16,
        "learning_rate": 2.0e-3,
    }


def test_a_changed_setting_makes_another_teacher():
    changed = BuildTeacherConfig(num_experts=0, qk_norm=False, rope_theta=5e4).identity()
    assert {"qk_norm": False, "rope_theta": 5e4, "num_experts": 0}.items() <= changed.items()
