"""A routed teacher on small data: a mixture of experts or a dense model, a student to look at, uneven batches."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from kdkit.config.language import Config
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.distill.route_teacher import make_online_teacher
from kdkit.losses.cross_entropy import shift_labels
from kdkit.models.heads import find_head, last_hidden_state
from kdkit.teachers.online import OnlineTeacher, StudentRows
from kdkit.teachers.prepare import Teacher
from kdkit.teachers.router.teacher import RoutedTeacher
from tests.crossed import cut_unevenly
from tests.tiny import make_config, make_data, make_llama, make_session, plan_stages

DEVICE = torch.device("cpu")
SAME_TOKENIZER = {"student": {"build": {"tokenizer": "teacher", "hidden_size": 16, "num_layers": 1}}}


def make_mixture(vocab_size: int, seed: int = 1, *, normalised: bool = True) -> PreTrainedModel:
    """Make an untrained mixture of four experts, of which it chooses two itself."""
    set_seed(seed)
    architecture = Qwen3MoeConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        initializer_range=0.3,
        norm_topk_prob=normalised,
    )
    return Qwen3MoeForCausalLM(architecture).eval().requires_grad_(False)


@dataclass(frozen=True)
class Scene:
    """Prepared data, a teacher and a student, both untrained."""

    config: Config
    data: PreparedData
    teacher: Teacher
    student: PreTrainedModel

    def route(self, kind: str, *, steps: int = 10, **router: Any) -> RoutedTeacher:
        """Prepare the teacher of the first stage, routed as the settings say."""
        config = self.config
        config = config.model_copy(update={"router": config.router.model_copy(update={"kind": kind} | router)})
        stage = replace(plan_stages(config, self.data)[0], steps=steps)
        return make_online_teacher(
            make_session(config),
            self.data,
            self.teacher,
            stage,
            self.student.config.hidden_size,
        )

    def online(self) -> OnlineTeacher:
        """Return the teacher as it is."""
        return OnlineTeacher(self.teacher.model, len(self.data.teacher_tokenizer))

    def batch(self, rows: list[int], windows: Windows | None = None) -> dict[str, Any]:
        """Collate training windows, or others."""
        return WindowCollator(windows or self.data.train, with_teacher=True)(rows)

    def look(self, inputs: dict[str, Any], step: int = 0) -> StudentRows:
        """Run the student over a batch."""
        rows = inputs["spans"].student_rows
        hidden = last_hidden_state(self.student, inputs["input_ids"]).flatten(0, 1)[rows].detach()
        targets = shift_labels(inputs["labels"]).flatten()[rows]
        return StudentRows(hidden, find_head(self.student, len(self.data.student_tokenizer)), targets, step)

    def ask(self, teacher: RoutedTeacher, rows: list[int], step: int = 0) -> tuple:
        """Let a routed teacher answer about training windows."""
        inputs = self.batch(rows)
        return teacher.answer(inputs, DEVICE, self.look(inputs, step))


def make_scene(folder: Path, *, normalised: bool = True, model: PreTrainedModel | None = None, **changes: Any) -> Scene:
    """Prepare a scene with windows of very different lengths.

    Args:
        normalised: whether the mixture's own weights sum to 1.
        model: another teacher than the mixture.
    """
    config = make_config(folder, **changes)
    data = cut_unevenly(make_data(config, folder))
    model = model or make_mixture(len(data.teacher_tokenizer), normalised=normalised)
    return Scene(config, data, Teacher(model, "tiny", True), make_llama(len(data.student_tokenizer)))
