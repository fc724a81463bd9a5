"""The layer map of a run, as notebook 02 shows it and notebook 04 compares along it."""

from typing import Any

from transformers import PreTrainedModel

from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.distill.layer_map import map_layers
from kdkit.distill.layer_terms import active_parts
from kdkit.distill.student import make_student
from kdkit.machine.session import Session
from kdkit.teachers.prepare import Teacher


def plan_layers(config: Config, student: PreTrainedModel, teacher: Teacher) -> list[tuple[int, int]]:
    """Return the pairs of student layer and teacher layer that `distill.layer_map` means, by student layer.

    Raises:
        UserError: see `map_layers`.
    """
    return map_layers(config.distill.layer_map, _num_layers(student), _num_layers(teacher.model), teacher.path)


def describe_layer_map(session: Session[Config], data: PreparedData, teacher: Teacher) -> dict[str, Any]:
    """Write `teacher/layer_map.json`, before anything is trained.

    Returns:
        `student_layers` and `teacher_layers`, their numbers; `pairs` of a student and a teacher layer; `used_by`,
        the parts of the loss that compare them, without `logits`.

    Raises:
        UserError: see `map_layers` and `make_student`.
    """
    student = make_student(session.config, data)
    facts = {
        "student_layers": _num_layers(student),
        "teacher_layers": _num_layers(teacher.model),
        "pairs": plan_layers(session.config, student, teacher),
        "used_by": active_parts(session.config.distill.weights),
    }
    session.run.write_json("teacher/layer_map.json", facts)
    return facts


def _num_layers(model: PreTrainedModel) -> int:
    return model.config.get_text_config().num_hidden_layers
