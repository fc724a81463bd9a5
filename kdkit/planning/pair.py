"""A student and one teacher, as the planner sees them: what decides how much they take."""

from dataclasses import dataclass

from kdkit.config.language import BUILD, Config
from kdkit.data.build import teacher_max_length
from kdkit.distill.layer_terms import active_parts
from kdkit.machine.hardware import DTYPES
from kdkit.models.layer_map import map_layers
from kdkit.models.lora import count_adapters
from kdkit.planning.devices import Device
from kdkit.planning.shapes import Shapes


@dataclass(frozen=True)
class Pair:
    """A student and one teacher, with what decides how much they take."""

    config: Config
    device: Device
    student: Shapes
    teacher: Shapes

    @property
    def step_sequences(self) -> int:
        """Sequences in an optimizer step, the largest of a schedule."""
        train = self.config.train
        sizes = train.batch_schedule.values() or [train.per_device_train_batch_size]
        return max(sizes) * train.gradient_accumulation_steps

    @property
    def batch(self) -> int:
        """Sequences in a micro-batch; where its tokens are limited, as many long ones as have room, rounded up."""
        train = self.config.train
        if train.micro_batch_tokens is None:
            return self.step_sequences // train.gradient_accumulation_steps
        return min(self.step_sequences, -(-train.micro_batch_tokens // self.config.data.max_length))

    @property
    def accumulates(self) -> bool:
        """Whether a step consists of several micro-batches; cut by tokens it may, whatever has room."""
        return self.step_sequences > (self.batch if self.config.train.micro_batch_tokens is None else 1)

    @property
    def student_tokens(self) -> int:
        """Student tokens of a micro-batch."""
        return self.batch * self.config.data.max_length

    @property
    def teacher_tokens(self) -> int:
        """Teacher tokens of a micro-batch, at most."""
        return self.batch * teacher_max_length(self.config)

    @property
    def half(self) -> bool:
        """Whether the student's products run in 16 bits."""
        return self.device.hardware.precision != "fp32"

    @property
    def teacher_bytes(self) -> int:
        """Bytes of one of the teacher's numbers while a student is trained."""
        return DTYPES[self.device.hardware.answer_precision].itemsize

    @property
    def adapters(self) -> int | None:
        """Parameters of the student's adapters, which alone learn; None: it has none."""
        settings = self.config.student.lora
        return None if settings is None else count_adapters(self.student.architecture, settings)

    @property
    def is_online(self) -> bool:
        """Whether the teacher is in memory beside the student."""
        return not self.config.cache.enabled and self.config.distill.kd_ratio > 0.0

    @property
    def same_tokenizer(self) -> bool:
        """Whether both models read with one tokenizer, as far as a configuration says it."""
        config = self.config
        if config.student.path == BUILD:
            return config.student.tokenizer == "teacher"
        return config.student.path == config.teacher.path or self.student.vocab_size == self.teacher.vocab_size

    @property
    def parts(self) -> list[str]:
        """Parts of the loss that compare layers."""
        return active_parts(self.config.distill.weights) if self.is_online else []

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Student and teacher layers that are compared."""
        names = self.config.teacher.path, self.config.teachers.only
        return map_layers(self.config.distill.layer_map, self.student.layers, self.teacher.layers, *filter(None, names))

    @property
    def state_layers(self) -> int:
        """Teacher layers whose hidden states are compared."""
        if not set(self.parts) - {"attention"}:
            return 0
        return len({layer for _, layer in self.pairs}) if "layerwise" in self.parts else 1

    @property
    def mean_heads(self) -> bool:
        """Whether attention maps are averaged over heads as they are caught."""
        return self.config.distill.attention_heads == "mean"

    @property
    def map_numbers(self) -> int:
        """Numbers of one head's attention maps of a micro-batch."""
        return self.student_tokens * self.config.data.max_length
