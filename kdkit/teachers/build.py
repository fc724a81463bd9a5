"""A teacher trained from scratch on the corpus: a small Qwen3-MoE or a dense model (`teacher.path: build`)."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.config.language import Config, TrainConfig
from kdkit.config.teachers import BuildTeacherConfig
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import (
    PreparedData,
    build_data,
    identify_text_of_teacher,
    open_data,
    teacher_max_length,
    text_of_teacher,
)
from kdkit.data.windows import Windows
from kdkit.losses.cross_entropy import IGNORE_INDEX, cross_entropy, masked_mean, shift_labels
from kdkit.machine.hardware import Hardware
from kdkit.machine.interrupt import StopRequest, stop_when_saved
from kdkit.machine.session import Session
from kdkit.machine.tracking.copies import TrainingCopy
from kdkit.models.built.dense import architecture_values, build_model, dense_architecture, describe_model
from kdkit.models.built.scratch import initializer_range, spread_embeddings
from kdkit.models.built.size import measure_model
from kdkit.models.loading import no_bar
from kdkit.runs.costs import write_cost
from kdkit.runs.folder import cached_folder, fingerprint, link_folder
from kdkit.runs.messages import note
from kdkit.training.arguments import (
    check_checkpoint_room,
    checkpoint_step,
    last_checkpoint,
    make_training_arguments,
)
from kdkit.training.not_finite import ReportLeftOut
from kdkit.training.options.bundle import make_options
from kdkit.training.options.optimizer import check_muon
from kdkit.training.progress import Curve, Progress
from kdkit.training.trainer import LanguageModelTrainer, StopAtStep

FORMAT = 5
"""Raise it when the same settings build another teacher than before."""

BALANCE_WEIGHT = 0.01
"""Weight of the load-balancing term while a teacher is built."""


def built_context(config: Config) -> int:
    """Return the context that the built model of a configuration gets."""
    return _positions(teacher_max_length(config))


def _positions(max_length: int) -> int:
    """Return the context that a built model gets."""
    return max(max_length, 512)


def build_teacher(session: Session[Config], data: PreparedData) -> Path:
    """Return the run's folder of the built teacher; it is trained unless the cache has it.

    A training that was stopped goes on from its checkpoint, in any run: the key stands for all that makes it.

    Raises:
        Stopped, SystemExit: by the user, or by the time budget; what was trained is saved.
    """
    run, key = session.run, build_key(session, data)
    parent = run.cache_path / "teachers"
    with stop_when_saved(run, session.config.train.time_budget_hours) as request:
        checkpoints = parent / f"{key}.checkpoints"
        folder = cached_folder(parent, key, lambda path: _build(session, path, checkpoints, request))
        shutil.rmtree(checkpoints, ignore_errors=True)  # not before: hours of training are in them
        request.check("teacher: built and saved")
    link_folder(folder, run.path / "teacher" / "model")
    return run.path / "teacher" / "model"


def build_key(session: Session[Config], data: PreparedData) -> str:
    """Fingerprint what makes a built teacher."""
    config = session.config
    text = identify_text_of_teacher(config, data)
    return fingerprint(FORMAT, text, _seed(config), config.teacher.build.identity(), session.hardware.precision)


def _seed(config: Config) -> int:
    """Return the seed of a built teacher."""
    return config.seed if config.teacher.build.seed is None else config.teacher.build.seed


def _build(session: Session[Config], folder: Path, checkpoints: Path, request: StopRequest) -> None:
    """Train a model on its own view of the training text and save it.

    Raises:
        Stopped: by the user, at a step that is saved.
    """
    config, hardware = session.config, session.hardware
    data = open_data(build_data(text_of_teacher(config), session.run.cache_path))
    build = config.teacher.build
    set_seed(_seed(config))
    architecture = _architecture(config, data, hardware)
    print(_describe(config, architecture, data, hardware), flush=True)
    model = _from_random_weights(architecture).to(hardware.device)
    size, steps = model.num_parameters(), build.max_steps
    check_checkpoint_room(checkpoints, size, steps, config.train.save_every, build.optimizer, "cache_dir")
    train = TrainConfig(
        per_device_train_batch_size=build.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=build.learning_rate,
        warmup_steps=max(1, build.max_steps // 20),
        log_every=max(1, build.max_steps // 10),
        save_every=config.train.save_every,
        optimizer=build.optimizer,
    )
    arguments = make_training_arguments(train, hardware, checkpoints, max_steps=build.max_steps, seed=_seed(config))
    kind = MixtureTrainer if build.num_experts else LanguageModelTrainer
    trainer = kind(model, arguments, WindowCollator(data.train, "teacher"), len(data.teacher_tokenizer))
    if build.optimizer == "muon":
        check_muon()
        trainer.use(make_options(train, model))
    held_out: Windows = data.evaluation.first(config.evaluate.curve_sequences)
    every = max(1, build.max_steps // 4)
    curve = Curve(held_out, "teacher", config.evaluate.batch_size, every, hardware.autocast_dtype)
    limit = config.train.max_skipped_in_a_row
    trainer.add_callback(ReportLeftOut(session.run, "teacher", trainer.left_out, limit))
    copy = TrainingCopy(session.run, "teacher", config.train, config.model_dump())
    trainer.add_callback(progress := Progress(session.run, "teacher", curve, copy=copy))
    trainer.add_callback(StopAtStep(request, saves_last=False))
    if (checkpoint := last_checkpoint(checkpoints)) is not None:
        note(f"teacher: goes on from step {checkpoint_step(checkpoint)} of {build.max_steps}")
    with progress.shown(request), copy:
        trainer.train(resume_from_checkpoint=checkpoint)
    if (step := trainer.state.global_step) < build.max_steps:
        request.check(f"teacher: step {step} of {build.max_steps} is saved")
    write_cost(folder, progress.seconds, round(trainer.read_counts()["tokens"]))
    with no_bar():
        model.save_pretrained(folder)
    data.teacher_tokenizer.save_pretrained(folder)


class MixtureTrainer(LanguageModelTrainer):
    """Adds the load-balancing term; without it a few experts take every token."""

    can_cut = False  # the balance is one of whole micro-batches

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Add the balance of the experts to cross-entropy (Fedus et al. 2021, arXiv:2101.03961, eq. 4)."""
        outputs = model(input_ids=inputs["input_ids"], output_router_logits=True, use_cache=False)
        targets = shift_labels(inputs["labels"])
        ce = masked_mean(cross_entropy(outputs.logits, targets), targets != IGNORE_INDEX, num_items_in_batch)
        return ce + BALANCE_WEIGHT * outputs.aux_loss, {"ce_loss": ce, "balance_loss": outputs.aux_loss}


def describe_built_teacher(session: Session[Config], data: PreparedData) -> str:
    """Say in one line how large a teacher is that will be built, and what its training takes.

    Args:
        data: of the run.
    """
    config, hardware = session.config, session.hardware
    return _describe(config, _architecture(config, data, hardware), data, hardware)


def _describe(config: Config, architecture: PreTrainedConfig, data: PreparedData, hardware: Hardware) -> str:
    """Say how large a teacher is and what its training takes."""
    length = teacher_max_length(config)
    half = hardware.autocast_dtype is not None
    return measure_model(architecture, config.teacher.build.batch_size, length, half).describe("teacher")


def _from_random_weights(architecture: PreTrainedConfig) -> PreTrainedModel:
    """Draw a teacher's weights."""
    if isinstance(architecture, Qwen3MoeConfig):
        return spread_embeddings(Qwen3MoeForCausalLM(architecture))
    return build_model(architecture)


def _architecture(config: Config, data: PreparedData, hardware: Hardware) -> PreTrainedConfig:
    """Describe the built teacher to transformers.

    Args:
        data: whose teacher tokenizer it reads with.
    """
    build, context = config.teacher.build, _positions(teacher_max_length(config))
    if not build.num_experts:
        width = build.dense_width
        return describe_model(build, data.teacher_tokenizer, context=context, intermediate_size=width)
    tokens = {
        "bos_token_id": start_token_id(data.teacher_tokenizer),
        "eos_token_id": end_token_id(data.teacher_tokenizer),
    }
    architecture = mixture_architecture(build, len(data.teacher_tokenizer), context, tokens)
    architecture._experts_implementation = hardware.experts_implementation
    return architecture


def built_architecture(config: Config, vocab_size: int) -> PreTrainedConfig:
    """Describe the teacher that a configuration builds, by its configuration alone."""
    build, context = config.teacher.build, built_context(config)
    if build.num_experts:
        return mixture_architecture(build, vocab_size, context)
    return dense_architecture(build, vocab_size, context=context, intermediate_size=build.dense_width)


def mixture_architecture(
    build: BuildTeacherConfig, vocab_size: int, context: int, tokens: dict[str, int | None] | None = None
) -> Qwen3MoeConfig:
    """Describe a mixture of experts to transformers; see `dense_architecture`."""
    window = build.sliding_window
    return Qwen3MoeConfig(
        vocab_size=vocab_size,
        hidden_size=build.hidden_size,
        num_hidden_layers=build.num_layers,
        num_attention_heads=build.num_heads,
        head_dim=build.hidden_size // build.num_heads,
        num_experts=build.num_experts,
        num_experts_per_tok=build.num_experts_per_tok,
        moe_intermediate_size=build.moe_intermediate_size,
        intermediate_size=build.moe_intermediate_size * build.num_experts_per_tok,
        norm_topk_prob=True,
        max_position_embeddings=context,
        use_sliding_window=window is not None,
        sliding_window=window,
        **architecture_values(build),
        initializer_range=initializer_range(build.hidden_size),
        **(tokens or {}),
    )
