"""Layer map: which layer of the student learns from which layer of the teacher."""

import difflib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kdkit.config.types import LAYER_MAP_FORMS as FORMS
from kdkit.errors import UserError


def map_layers(
    setting: str | dict[Any, Any], num_student_layers: int, num_teacher_layers: int, *teacher_names: str
) -> list[tuple[int, int]]:
    """Resolve `distill.layer_map` for a pair of models.

    Args:
        setting: `auto`; a map from teacher layer to student layer, both counted from 0; such a map per teacher;
            a .json file with either, or its content.
        teacher_names: path or hub name of the teacher, of which the last component will do as a key; before it, its
            name among several teachers.

    Returns:
        Pairs of student layer and teacher layer, by student layer.

    Raises:
        UserError: not such a map, no entry for the teacher, a layer that there is not, a student layer mapped twice.
    """
    if setting == "auto":
        return proportional(num_student_layers, num_teacher_layers)
    table = _for_teacher(_read(setting), teacher_names)
    pairs = [
        (
            _layer(student, num_student_layers, "student"),
            _layer(teacher, num_teacher_layers, "teacher"),
        )
        for teacher, student in table.items()
    ]
    students = [student for student, _ in pairs]
    for student in students:
        if students.count(student) > 1:
            teachers = ", ".join(str(teacher) for other, teacher in pairs if other == student)
            raise UserError(
                f"distill.layer_map: expected one teacher layer for student layer {student}, got {teachers}; keep one"
            )
    return sorted(pairs)


def check_layer_map(
    setting: str | dict[Any, Any],
    teacher_names: Collection[str],
    sizes: tuple[int, int] | None = None,
    all_names: Collection[str] = (),
) -> None:
    """Check what needs no model: that it is a map, of teachers that there are, with an entry and layers of this one.

    Args:
        setting: see `map_layers`; `teacher_names` too.
        sizes: layers of student and teacher; None: not known yet.
        all_names: what several teachers may be called; empty: the map may hold entries for teachers of other runs.

    Raises:
        UserError: it is none, its file is not there, it names an unknown teacher or layer, it has no entry.
    """
    if setting == "auto":
        return
    table = _read(setting)
    known = [key for name in all_names for key in (name, Path(name).name)]
    if known and _is_per_teacher(table) and (unknown := [str(key) for key in table if key not in known]):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "leave it out"
        raise UserError(
            f"distill.layer_map: expected entries for the teachers {', '.join(all_names)}, got one for {unknown[0]!r}; "
            f"{remedy}"
        )
    if sizes is None:
        _for_teacher(table, teacher_names)
    else:
        map_layers(table, *sizes, *teacher_names)


def proportional(num_student_layers: int, num_teacher_layers: int) -> list[tuple[int, int]]:
    """Map every student layer: first to first, last to last, the others in proportion; an only one to the last."""
    if num_student_layers == 1:
        return [(0, num_teacher_layers - 1)]
    scale = (num_teacher_layers - 1) / (num_student_layers - 1)
    return [(layer, round(layer * scale)) for layer in range(num_student_layers)]


def _read(setting: str | dict[Any, Any]) -> dict[Any, Any]:
    """Return the map, from a file or from JSON where it is a string."""
    if isinstance(setting, dict):
        table = setting
    else:
        text = setting.strip()
        if text.endswith(".json"):
            path = Path(text)
            if not path.is_file():
                raise UserError(
                    f"distill.layer_map: expected a file, got {text!r}, which is not there; correct the path"
                )
            text = path.read_text(encoding="utf-8")
        try:
            table = json.loads(text)
        except json.JSONDecodeError:
            raise UserError(f"distill.layer_map: expected {FORMS}, got {setting!r}; correct it") from None
    if not isinstance(table, dict) or not table:
        raise UserError(f"distill.layer_map: expected {FORMS}, got {table!r}; name a pair of layers, or set auto")
    return table


def _is_per_teacher(table: dict[Any, Any]) -> bool:
    """Return whether it holds a map for every teacher."""
    return all(isinstance(value, dict) for value in table.values())


def _for_teacher(table: dict[Any, Any], teacher_names: Collection[str]) -> dict[Any, Any]:
    """Return the map of one teacher out of those of several."""
    if not _is_per_teacher(table):
        return table
    for name in teacher_names:
        for key in (name, Path(name).name):
            if table.get(key):
                return table[key]
    raise UserError(
        f"distill.layer_map: expected an entry for the teacher {next(iter(teacher_names))!r}, "
        f"got entries for {', '.join(map(str, table))}; name it by its name in "
        "teachers.members, by its path, or by the last part of that"
    )


def _layer(value: object, num_layers: int, side: str) -> int:
    """Return a layer's number, checked against the layers that there are."""
    digits = str(value).strip()
    if isinstance(value, bool) or not digits.removeprefix("-").isdigit():
        raise UserError(f"distill.layer_map: expected the number of a {side} layer, got {value!r}; use {FORMS}")
    if not 0 <= int(digits) < num_layers:
        layers = ", ".join(map(str, range(num_layers)))
        raise UserError(
            f"distill.layer_map: expected a {side} layer out of {layers}, got {digits}; name one of these "
            "(teacher layer: student layer)"
        )
    return int(digits)
