"""Settings of several teachers: what is refused, and how one of them becomes the only one."""

import pytest

from kdkit.config.language import config_from_values, dump_config
from kdkit.config.reading import read_values
from kdkit.errors import UserError

SOURCES = {"land": "land.txt", "sea": "sea.txt"}
TWO = [
    {"name": "farmer", "trained_on": ["land"]},
    {"name": "sailor", "path": "models/sailor", "loss": "alm", "weight": 2.0},
]


def make(teachers, **sections):
    return config_from_values({"data": {"sources": SOURCES}, "teachers": {"members": TWO} | teachers, **sections})


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"members": [TWO[0], TWO[0]]}, "'farmer' twice; rename one"),
        ({"members": [{"name": "a", "weight": 0.0}, {"name": "b", "weight": 0}]}, "got 0 for all of a, b"),
        ({"members": [{"name": "a b"}]}, r"teachers\.members\.0\.name"),
        ({"members": [{"path": "x"}]}, r"teachers\.members\.0\.name"),
        ({"members": [{"name": "a", "wieght": 1.0}]}, r"teachers\.members\.0\.wieght"),
        ({"members": [{"name": "a", "weight": -1.0}]}, "greater than or equal to 0"),
        ({"members": [{"name": "a", "sources": ["sky"]}]}, r"teachers\.members\.a\.sources: .*land, sea.*'sky'"),
        ({"members": [{"name": "a", "trained_on": ["sky"]}]}, r"teachers\.members\.a\.trained_on"),
        ({"members": [{"name": "a", "path": "x", "trained_on": ["sea"]}]}, "trained already; leave it out"),
        ({"combine": "add"}, "'sum', 'averaged', 'select' or 'dynamic'"),
        ({"combine": "select", "select_by": "size"}, "'loss', 'source' or 'router'"),
        ({"combine": "dynamic", "score": "luck"}, "'loss', 'entropy' or 'max_prob'"),
        (
            {"combine": "select", "select_by": "source"},
            "whose sources name 'land', got farmer, sailor",
        ),
        ({"only": "sailer"}, r"teachers\.only: .*did you mean 'sailor'\?"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(teachers, message):
    with pytest.raises(UserError, match=message) as error:
        make(teachers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"teacher": {"path": "models/one"}}, r"teacher\.path: expected none beside teachers\.members"),
        ({"router": {"kind": "all_experts"}}, r"router\.kind: expected none with teachers\.members"),
        ({"train": {"curriculum": "teacher_loss"}}, r"train\.curriculum: expected none with teachers\.members"),
    ],
)
def test_what_needs_one_teacher_is_refused(sections, message):
    with pytest.raises(UserError, match=message):
        make({}, **sections)


def test_a_view_has_one_teacher_with_its_own_settings():
    config = make({}, distill={"layer_map": {"sailor": {"0": 0}}})
    view = config.view("sailor")
    assert (view.teacher.path, view.distill.loss.name) == ("models/sailor", "alm")
    assert config.teachers.are_several and not view.teachers.are_several
    assert config.view("farmer").distill.loss.name == "auto"
    with pytest.raises(UserError, match="expected one of farmer, sailor"):
        config.view("cook")


def test_a_run_with_one_of_them_alone_is_written_and_read_again(tmp_path):
    config = make({"only": "sailor"})
    assert config.teacher.path == "models/sailor"
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert config_from_values(read_values(tmp_path / "config.yaml")) == config


def test_a_member_is_cached_or_not_by_its_own_setting():
    members = [{**TWO[0], "cached": False}, {**TWO[1], "cache_file": "sailor.h5"}]
    config = make({"members": members}, cache={"enabled": True})
    assert [config.view(name).cache.enabled for name in ("farmer", "sailor")] == [False, True]
    assert config.view("sailor").cache.file == "sailor.h5"
