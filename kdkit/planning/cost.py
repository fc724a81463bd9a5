"""The time and the disk of a run, roughly, and what crosses between two GPUs."""

import math
from dataclasses import dataclass

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import BUILD, Config
from kdkit.data.build import teacher_max_length
from kdkit.models.built.size import FP32, ModelSize
from kdkit.planning.devices import BETWEEN_GPUS, Device, Speed
from kdkit.planning.embedding import make_method, sentences_per_row
from kdkit.planning.pair import Pair
from kdkit.planning.shapes import Shapes, embedding_shapes, language_shapes

FORWARD, TRAINED, CHECKPOINTED = 2, 6, 8
"""Operations of a token for every weight that it meets: read; and differentiated; and read again for that."""
SEQUENCES = 1000
"""Assumed where a configuration does not say how much is read."""


@dataclass(frozen=True)
class Time:
    """Seconds of a training, roughly."""

    step: float
    """An optimizer step of the student with its teacher."""
    teacher_share: float
    """Share of it that is the teacher's."""
    steps: int
    sequences: str
    """How many sequences are read and where the number comes from."""
    once: float
    """The teacher's answers, where they are cached, or its training, where it is built."""
    trainings: float
    """Trainings of a student, in trainings without a teacher: baselines are 1 each."""
    crossing: float
    """Bytes from one GPU to the other in an optimizer step."""
    speed: Speed

    @property
    def baseline_step(self) -> float:
        """Seconds of an optimizer step without the teacher."""
        return self.step * (1.0 - self.teacher_share)

    @property
    def total(self) -> float:
        """Seconds of the run's trainings."""
        return self.once + self.steps * (self.step + self.trainings * self.baseline_step)


def plan_time(config: Config | EmbeddingConfig, device: Device) -> Time:
    """Estimate the time of a run's trainings from operations and bytes."""
    if isinstance(config, EmbeddingConfig):
        return _embedding_time(config, device)
    train, speed = config.train, device.speed()
    members = [config.view(member.name) for member in config.teachers.members] or [config]
    pairs = [Pair(view, device, *language_shapes(view)) for view in members]
    student = pairs[0].student
    step_sequences, size = pairs[0].step_sequences, student.measure()
    tokens = step_sequences * config.data.max_length
    kind = CHECKPOINTED if train.gradient_checkpointing else TRAINED
    own = _seconds(student, size, tokens, config.data.max_length, kind, speed) + _step_bytes(size) / speed.bandwidth
    teachers, once = 0.0, 0.0
    sequences, why = _sequences(config)
    for pair in pairs:
        length = teacher_max_length(pair.config)
        per_sequence = _seconds(pair.teacher, pair.teacher.measure(), length, length, FORWARD, speed)
        if pair.is_online:
            teachers += per_sequence * step_sequences
        elif pair.config.cache.enabled:
            once += per_sequence * sequences
        if pair.config.teacher.path == BUILD:
            build = pair.config.teacher.build
            once += 3 * per_sequence * build.batch_size * build.max_steps
    steps = train.max_steps or math.ceil(sequences * train.num_train_epochs / step_sequences)
    crossing = sum(step_sequences / pair.batch * crossing_bytes(pair) for pair in pairs if pair.is_online)
    step = own + teachers + crossing / BETWEEN_GPUS
    baselines = 3.0 if config.distill.equal_time_baseline else 1.0
    return Time(step, 1.0 - own / step, steps, why, once, baselines, crossing, speed)


def _embedding_time(config: EmbeddingConfig, device: Device) -> Time:
    student, teacher = embedding_shapes(config)
    speed, train = device.speed(), config.train
    sequences, why = _sequences(config)
    batch = train.per_device_train_batch_size * train.gradient_accumulation_steps
    steps = train.max_steps or math.ceil(sequences * train.num_train_epochs / batch)
    method = make_method(config.method, config, student, teacher)
    tokens = batch * sentences_per_row(config, method) * config.data.max_length
    own = 0.0
    if student is not None:
        size = student.measure()
        passes = 1 if method.sharpness is None else 2
        own = passes * _seconds(student, size, tokens, config.data.max_length, TRAINED, speed)
        own += _step_bytes(size) / speed.bandwidth
    asked, once = 0.0, 0.0
    if teacher is not None:
        length = config.teacher.max_length or config.data.max_length
        each = _seconds(teacher, teacher.measure(), length, length, FORWARD, speed)
        asked, once = (0.0, each * sequences) if config.teacher.cache else (each * batch, 0.0)
    step = max(own + asked, 1e-6)
    return Time(step, asked / step, steps, why, once, float(len(config.compare)), 0.0, speed)


def _seconds(shapes: Shapes, size: ModelSize, tokens: int, length: int, kind: int, speed: Speed) -> float:
    """Return the seconds of some tokens: products with weights, and of attention half, which is masked."""
    weights = size.active - size.embeddings + (0 if shapes.encoder else shapes.vocab_size * shapes.width)
    attention = shapes.layers * shapes.width * length
    return tokens * kind * (weights + attention) / speed.flops


def _step_bytes(size: ModelSize) -> int:
    """Return the bytes that the optimizer reads and writes: weights, gradients and two means."""
    return 7 * FP32 * size.parameters


def _sequences(config: Config | EmbeddingConfig) -> tuple[int, str]:
    """Guess how many sequences are read: the text is not opened."""
    train, data = config.train, config.data
    batch = train.per_device_train_batch_size * train.gradient_accumulation_steps
    if train.max_steps:
        return math.ceil(train.max_steps * batch), f"train.max_steps = {train.max_steps:,}"
    if data.subset_size:
        return data.subset_size, f"data.subset_size = {data.subset_size:,}, taken as one sequence each"
    return SEQUENCES, f"for every {SEQUENCES:,} sequences: how many there are is not known before the text is read"


def crossing_bytes(pair: Pair) -> float:
    """Return the bytes that cross between two GPUs for a micro-batch; 0 on one device.

    The teacher's token ids go there; its last states come back and, of compared layers, pooled states and maps.
    """
    hardware, size = pair.device.hardware, pair.teacher_bytes
    if hardware.device == hardware.teacher_device:
        return 0.0
    rows, width = pair.student_tokens, pair.teacher.width
    total = pair.teacher_tokens * (8 + width * size)
    if pair.parts:
        count = len(pair.pairs)
        total += pair.state_layers * rows * width * size
        heads = 1 if pair.mean_heads else pair.student.heads
        total += ("attention" in pair.parts) * count * rows * pair.config.data.max_length * heads * size
    return float(total)


@dataclass(frozen=True)
class Space:
    """Something that is written to disk."""

    name: str
    bytes: float
    where: str
    """`run`: in the folder of runs, which Kaggle keeps; `cache`: `cache_dir`; `elsewhere`: of the hub or pip."""


def plan_disk(config: Config | EmbeddingConfig, device: Device) -> list[Space]:
    """List what a run writes at its fullest moment."""
    spaces = []
    if isinstance(config, EmbeddingConfig):
        student, teacher = embedding_shapes(config)
        size = student.measure().parameters if student is not None else 0
        trained = 1 + len(config.compare)
        spaces.append(Space("checkpoint, and the one that replaces it", 2 * 3 * FP32 * size, "run"))
        spaces.append(Space(f"{trained} students", trained * FP32 * size, "run"))
        if teacher is not None and config.teacher.cache:
            sequences, why = _sequences(config)
            spaces.append(Space(f"the teacher's vectors ({why})", 2.0 * sequences * teacher.width, "cache"))
        downloads = [teacher] if teacher is not None and teacher.source.endswith("hub") else []
    else:
        student, teacher = language_shapes(config)
        size = student.measure().parameters
        spaces.append(Space("checkpoint, and the one that replaces it", 2 * 3 * FP32 * size, "run"))
        count = 4 if config.distill.equal_time_baseline else 2
        spaces.append(
            Space(
                "student and baseline" if count == 2 else f"student and {count - 1} baselines",
                count * FP32 * size,
                "run",
            )
        )
        if config.teacher.path == BUILD:
            spaces.append(Space("the teacher that is built", 4 * FP32 * teacher.measure().parameters, "cache"))
        if config.cache.enabled:
            spaces.append(_cache_file(config))
        downloads = [s for s, c in ((student, config.student), (teacher, config.teacher)) if "/" in c.path]
    for shapes in downloads:
        spaces.append(Space("download of a model, 16-bit", 2.0 * shapes.measure().parameters, "elsewhere"))
    if device.name == "p100":
        spaces.append(
            Space("wheels of torch for CUDA 12.6 and its libraries, where they are missing", 3.0e9, "elsewhere")
        )
    return spaces


def _cache_file(config: Config) -> Space:
    """Return the file of answers, before it is compressed."""
    sequences, why = _sequences(config)
    cache = config.cache
    several = len(config.answer_temperatures)
    kept = (3 if several == 1 else 4) * cache.top_k + 2 * several
    per_row = {"top_k": kept, "sampled": 3 * cache.num_samples}.get(cache.mode, 2)
    rows = sequences * config.data.max_length
    return Space(f"the teacher's answers, uncompressed ({why})", float(rows * per_row), "cache")
