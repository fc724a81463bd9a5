"""What `configs/t4x2.yaml` moves between its two GPUs, and how often it makes the host wait; its real shapes.

The teacher lies on `meta`, where shapes cost nothing. Vocabularies and the student's width are small where a loss is
computed on numbers: nothing that crosses in a step has either.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM, TrainingArguments

from kdkit.config.language import load_config
from kdkit.data.batches import WindowCollator
from kdkit.data.windows import PAD, Windows
from kdkit.distill.layer_terms import LayerParts
from kdkit.distill.objective import Objective
from kdkit.distill.trainer import DistillationTrainer
from kdkit.losses.chunked.events import EventPair, PrefixEvents, TokenEvents
from kdkit.losses.closed_forms import forward_kl_with_gradient
from kdkit.teachers.online import OnlineTeacher
from tests.devices import HOST, META, DeviceTraffic

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "t4x2.yaml")
STUDENT_LENGTH, TEACHER_LENGTH = CONFIG.data.max_length, CONFIG.teacher.max_length
BATCH, MICRO_BATCHES = CONFIG.train.per_device_train_batch_size, CONFIG.train.gradient_accumulation_steps
WIDTH = 1024
"""Of the teacher's hidden states."""
GIGABYTE = 1e9


def make_windows(student_vocabulary: int, teacher_vocabulary: int) -> Windows:
    """Make one batch of the longest sequences that there are: four student tokens to five of the teacher."""
    random = np.random.default_rng(0)
    student = random.integers(1, student_vocabulary, (BATCH, STUDENT_LENGTH)).astype(np.int32)
    teacher = random.integers(1, teacher_vocabulary, (BATCH, TEACHER_LENGTH)).astype(np.int32)
    positions = np.arange(STUDENT_LENGTH) * (TEACHER_LENGTH - 2) // (STUDENT_LENGTH - 2)
    positions = np.tile(positions.astype(np.int32), (BATCH, 1))
    positions[:, -1] = PAD
    return Windows(student, teacher, positions, np.zeros(student.shape, bool), np.full(BATCH, 4 * STUDENT_LENGTH))


def make_teacher(vocabulary: int) -> Qwen3ForCausalLM:
    """Make the shape of the configuration's teacher, with one expert: what experts do stays on their device."""
    with META:
        config = Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            intermediate_size=3072,
            tie_word_embeddings=True,
        )
        return Qwen3ForCausalLM(config).half().eval().requires_grad_(False)


def make_student(vocabulary: int, width: int, device: torch.device) -> LlamaForCausalLM:
    """Make a student of SmolLM-135M's depth."""
    with device:
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            intermediate_size=8 * width // 3,
            tie_word_embeddings=True,
        )
        return LlamaForCausalLM(config)


def make_trainer(folder: Path, student: LlamaForCausalLM, teacher: Qwen3ForCausalLM) -> DistillationTrainer:
    """Put together what `kdkit.distill.train.make_trainer` does, for models that are no files."""
    sizes = student.config.vocab_size, teacher.config.vocab_size
    groups = torch.arange(sizes[1], device=student.device) % (sizes[0] + 1)
    events = EventPair(TokenEvents(), PrefixEvents(groups, sizes[0]), sizes[0], "test")
    objective = Objective(
        CONFIG.distill.temperature,
        CONFIG.distill.kd_ratio,
        sizes[0],
        events,
        forward_kl_with_gradient,
        logits_weight=CONFIG.distill.weights.logits,
    )
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[], remove_unused_columns=False)
    return DistillationTrainer(
        student,
        OnlineTeacher(teacher, sizes[1]),
        arguments,
        WindowCollator(make_windows(*sizes), with_teacher=True),
        objective=objective,
        parts=LayerParts(CONFIG, student, teacher, CONFIG.teacher.path),
    )


def run_micro_batches(trainer: DistillationTrainer, device: torch.device) -> list[DeviceTraffic]:
    """Run the first two micro-batches of a step as Trainer does, with the batch on the student's device."""
    traffics = [DeviceTraffic(), DeviceTraffic()]
    for traffic in traffics:
        batch = trainer.data_collator(list(range(BATCH)))
        batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        num_items = torch.ones((), dtype=torch.int64, device=device)
        with traffic:
            trainer.training_step(trainer.model, batch, num_items)
    return traffics


@pytest.fixture
def on_meta(monkeypatch):
    """Let Trainer believe that its device is `meta`."""
    monkeypatch.setattr(TrainingArguments, "device", property(lambda arguments: arguments._setup_devices and META))


def test_hidden_states_cross_and_less_than_a_tenth_of_a_gigabyte_a_step_and_the_head_once(tmp_path):
    with DeviceTraffic():
        trainer = make_trainer(tmp_path, make_student(50, 36, HOST), make_teacher(61))
    first, second = run_micro_batches(trainer, HOST)
    hidden = BATCH * (TEACHER_LENGTH - 1) * WIDTH * 2
    assert second.crossed[BATCH * (TEACHER_LENGTH - 1), WIDTH] == hidden, second.crossed
    assert MICRO_BATCHES * sum(second.crossed.values()) <= 0.1 * GIGABYTE, second.crossed
    heads = [shape for shape in first.crossed if shape[0] < 61 and shape[1:] == (WIDTH,)]
    assert len(heads) == 1 and first.crossed[heads[0]] == heads[0][0] * WIDTH * 2, first.crossed
    assert all(61 not in shape and 50 not in shape and heads[0] != shape for shape in second.crossed), second.crossed


def test_the_host_waits_at_most_three_times_a_micro_batch(tmp_path, on_meta):
    with DeviceTraffic():
        trainer = make_trainer(tmp_path, make_student(49152, 576, META), make_teacher(151936))
    traffic = run_micro_batches(trainer, META)[1]
    # one is the check for NaN, two are transformers' search for packed sequences, one in each model
    assert 1 <= sum(traffic.waits.values()) <= 3, traffic.waits
