"""A teacher that is an average of the student's own weights: it follows the student, slowly."""

from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kdkit.teachers.online import OnlineTeacher


class AveragedTeacher(OnlineTeacher):
    """Moves to `decay * own + (1 - decay) * student` after every optimizer step; the model is as large as the student.

    Source: Tarvainen & Valpola 2017 (mean teacher), arXiv:1703.01780; as a language model's teacher, Shenfeld et al.
    2026 (SDFT), arXiv:2601.19897.
    """

    def __init__(
        self, model: PreTrainedModel, vocab_size: int, autocast_dtype: torch.dtype | None = None, *, decay: float
    ):
        """Prepare the teacher, with the weights that it has.

        Args:
            model: of the student's architecture, in fp32: in half precision small steps would vanish.
            vocab_size: see `OnlineTeacher`.
            autocast_dtype: see `OnlineTeacher`.
            decay: 0 < decay < 1.
        """
        super().__init__(model, vocab_size, autocast_dtype)
        self.decay = decay

    @torch.no_grad()
    def follow(self, student: PreTrainedModel) -> None:
        """Take a step towards the student."""
        with_names = dict(student.named_parameters())
        for name, own in self.model.named_parameters():
            own.lerp_(with_names[name].to(own.device, own.dtype), 1.0 - self.decay)
        self.head.drop_copies()


class FollowStudent(TrainerCallback):
    """Lets a teacher follow after each optimizer step, before anything is saved."""

    def __init__(self, teacher: AveragedTeacher, student: PreTrainedModel):
        """Remember both."""
        self.teacher, self.student = teacher, student

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the teacher; Trainer's hook."""
        self.teacher.follow(self.student)
