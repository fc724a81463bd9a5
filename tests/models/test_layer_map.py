"""Which student layer learns from which teacher layer: proportional, given in every form, and what is refused."""

import json
from contextlib import nullcontext

import pytest

from kdkit.errors import UserError
from kdkit.models.layer_map import check_layer_map, map_layers


@pytest.mark.parametrize(
    ("num_student", "num_teacher", "expected"),
    [
        (4, 4, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        (3, 5, [(0, 0), (1, 2), (2, 4)]),
        (5, 3, [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2)]),
        (1, 6, [(0, 5)]),
        (2, 1, [(0, 0), (1, 0)]),
    ],
)
def test_auto_is_proportional_first_to_first_and_last_to_last(num_student, num_teacher, expected):
    assert map_layers("auto", num_student, num_teacher, "teacher") == expected


def test_auto_maps_the_real_pair_from_end_to_end():
    pairs = map_layers("auto", 30, 28, "teacher")
    assert pairs[0] == (0, 0) and pairs[-1] == (29, 27)
    teachers = [teacher for _, teacher in pairs]
    assert teachers == sorted(teachers) and set(teachers) == set(range(28))


FLAT = {"0": 0, "8": 1}


@pytest.mark.parametrize(
    "setting",
    [
        FLAT,
        {0: 0, 8: 1},
        {8: "1", "0": 0},
        json.dumps(FLAT),
        {"models/llama": FLAT},
        {"llama": FLAT, "qwen": {"3": 1}},
        json.dumps({"llama": FLAT}),
    ],
)
def test_a_map_is_read_in_every_form(setting):
    assert map_layers(setting, 2, 9, "models/llama") == [(0, 0), (1, 8)]


def test_a_map_is_read_from_a_file(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"llama": FLAT}))
    assert map_layers(str(path), 2, 9, "models/llama") == [(0, 0), (1, 8)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"9": 1}, r"expected a teacher layer out of 0, 1, 2, 3, 4, 5, 6, 7, 8, got 9"),
        ({"8": 2}, r"expected a student layer out of 0, 1, got 2"),
        ({"-1": 1}, r"expected a teacher layer out of .*, got -1"),
        ({"2": 1, "5": 1}, r"expected one teacher layer for student layer 1, got 2, 5"),
        ({"first": 1}, r"expected the number of a teacher layer, got 'first'"),
        ({"2": 1.5}, r"expected the number of a student layer, got 1.5"),
        ({"2": True}, r"expected the number of a student layer, got True"),
        ({}, r"expected \"auto\", .*, got {}"),
        ("proportional", r"got 'proportional'"),
        ("[1, 2]", r"got \[1, 2\]"),
        ("nowhere.json", r"expected a file, got 'nowhere.json'"),
        ({"qwen": {"0": 0}}, r"expected an entry for the teacher 'models/llama', got entries for qwen"),
    ],
)
def test_a_wrong_map_is_refused_with_what_would_be_right(setting, message):
    with pytest.raises(UserError, match=message):
        map_layers(setting, 2, 9, "models/llama")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"llama": FLAT, "mistral": FLAT},
            "an entry for the teacher 'reader', got entries for llama, mistral",
        ),
        ("missing.json", "expected a file, got 'missing.json'"),
        ({}, "name a pair of layers"),
    ],
)
def test_what_needs_no_model_is_refused_before_one_is_loaded(setting, message):
    with pytest.raises(UserError, match=message):
        check_layer_map(setting, ["reader", "models/qwen"])
    check_layer_map("auto", ["reader", "models/qwen"])
    check_layer_map({"llama": FLAT}, ["reader", "models/llama"])


@pytest.mark.parametrize(("sizes", "is_refused"), [(None, False), ((2, 9), False), ((2, 8), True), ((1, 9), True)])
def test_layers_are_checked_as_soon_as_their_numbers_are_known(sizes, is_refused):
    with pytest.raises(UserError, match=r"layer out of") if is_refused else nullcontext():
        check_layer_map({"llama": FLAT, "qwen": {"99": 99}}, ["models/llama"], sizes)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "lama",
            r"expected entries for the teachers one, models/llama, two, got one for 'lama'; did you mean 'llama'\?",
        ),
        ("qwen", r"got one for 'qwen'; leave it out"),
    ],
)
def test_an_entry_for_none_of_several_teachers_is_refused_and_of_another_run_is_not(extra, message):
    maps = {"one": FLAT, "two": FLAT, extra: FLAT}
    with pytest.raises(UserError, match=message):
        check_layer_map(maps, ["one", "models/llama"], None, ["one", "models/llama", "two"])
    check_layer_map(maps, ["one", "models/llama"])
    check_layer_map({"llama": FLAT, "two": FLAT}, ["one", "models/llama"], None, ["one", "models/llama", "two"])
    check_layer_map(FLAT, ["one"], (2, 9), ["one", "two"])
