"""The teacher stage: load the model that the configuration names, or build one once (notebook 02)."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.config.language import BUILD, BuildTeacherConfig, Config, TrainConfig, config_from_values
from kdkit.data.batches import WindowCollator, longest_sequence
from kdkit.data.prepare import PreparedData, build_data, identify_data, open_data, teacher_max_length
from kdkit.data.windows import Windows
from kdkit.errors import UserError
from kdkit.losses.cross_entropy import IGNORE_INDEX, cross_entropy, masked_mean, shift_labels
from kdkit.machine.hardware import Hardware
from kdkit.machine.hub import is_local_path
from kdkit.machine.interrupt import StopRequest, stop_when_saved
from kdkit.machine.session import Session
from kdkit.models.finite import check_finite
from kdkit.models.loading import (
    check_context,
    check_fits,
    check_model_folder,
    context_length,
    experts_implementation,
    load_causal_lm,
    no_bar,
    read_model_config,
)
from kdkit.models.scratch import initializer_range, spread_embeddings
from kdkit.runs.costs import write_cost
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files, link_folder
from kdkit.runs.messages import note
from kdkit.training.arguments import checkpoint_step, last_checkpoint, make_training_arguments
from kdkit.training.progress import Curve, Progress
from kdkit.training.trainer import LanguageModelTrainer, StopAtStep

FORMAT = 5
"""Raise it when the same settings build another teacher than before."""

BALANCE_WEIGHT = 0.01
"""Weight of the load-balancing term while a teacher is built."""


@dataclass(frozen=True)
class Teacher:
    """The large model, loaded and frozen, and where its weights lie."""

    model: PreTrainedModel
    path: str
    was_built: bool
    """Whether it is a teacher of `teacher.path: build`."""


def prepare_teacher(session: Session[Config], data: PreparedData, dtype: torch.dtype | None = None) -> Teacher:
    """Load the teacher, frozen; build it first if the configuration says so and the cache has none.

    Args:
        dtype: of its weights; None: that of the run, in which models are compared with each other.

    Raises:
        UserError: see `check_teacher_lengths`, `load_causal_lm`, `check_fits` and `check_first_answer`.
    """
    config = session.config
    check_teacher_lengths(config, data)
    if config.teacher.path == BUILD:
        path = str(build_teacher(session, data))
    else:
        path = config.teacher.path
    model = load_causal_lm(
        path,
        "teacher.path",
        dtype=session.hardware.dtype if dtype is None else dtype,
        device=session.hardware.teacher_device,
        revision=config.teacher.revision,
        trust_remote_code=config.teacher.trust_remote_code,
    ).requires_grad_(False)
    longest = longest_sequence("teacher", data.train, data.evaluation)
    check_fits(model, len(data.teacher_tokenizer), longest, "teacher.path", "teacher.max_length")
    check_first_answer(session, data, model, "teacher.path")
    return Teacher(model, path, config.teacher.path == BUILD)


def check_first_answer(session: Session[Config], data: PreparedData, model: PreTrainedModel, key: str) -> None:
    """Ask a teacher about the first training sequence.

    Raises:
        UserError: NaN or inf in its answer; see `check_finite`.
    """
    first = WindowCollator(data.train, "teacher")([0])
    check_finite(model, first["input_ids"], key, "the first training sequence", session.hardware.autocast_dtype)


def check_teacher_lengths(config: Config, data: PreparedData) -> None:
    """Check every teacher's context against the text that it will read, by the configurations of the models alone.

    Raises:
        UserError: a context shorter than a sequence, or than the student's own text where that has the same tokens.
    """
    longest = longest_sequence("teacher", data.train, data.evaluation)
    for path in (config.teacher.path, *config.teacher.others):
        key = "teacher.path" if path == config.teacher.path else "teacher.others"
        if path == BUILD:
            context = _positions(teacher_max_length(config))
        else:
            main = path == config.teacher.path
            trust = config.teacher.trust_remote_code
            model_config = read_model_config(
                path, key, revision=config.teacher.revision if main else None, trust_remote_code=trust
            )
            context = context_length(model_config)
        check_context(context, longest, key, "teacher.max_length")
        if data.same_tokenizer:
            check_own_text(config, data, context, key)


def check_own_text(config: Config, data: PreparedData, context: int | None, key: str) -> None:
    """Check that a model can read what the student writes in on-policy stages.

    Args:
        context: of the model; None: no limit.
        key: the setting that named the model, for messages.

    Raises:
        UserError: prompt and new tokens are more.
    """
    for name, prompt, new in own_text_lengths(config, data):
        if context is not None and prompt + new > context:
            remedy = f"max_new_tokens={context - prompt}" if prompt < context else "a shorter prompt_length"
            raise UserError(
                f"train.stages: expected on-policy text of at most {context} tokens, the context of {key}, got "
                f"{prompt} + {new} in stage {name!r} (start token and prompt + max_new_tokens); set its on_policy to "
                f"{remedy}"
            )


def own_text_lengths(config: Config, data: PreparedData) -> list[tuple[str, int, int]]:
    """Return each on-policy stage's name, the student tokens of its prompts, start token included, and new tokens."""
    longest = longest_sequence("student", data.train)
    return [
        (stage.name, min(1 + stage.on_policy.prompt_length, longest), stage.on_policy.max_new_tokens)
        for stage in config.train.stages
        if stage.on_policy is not None
    ]


def _positions(max_length: int) -> int:
    """Return the context that a built model gets."""
    return max(max_length, 512)


def identify_teacher(session: Session[Config], data: PreparedData) -> dict[str, str]:
    """Identify the teacher of a configuration without loading or building it: what a cache of its signals must match.

    A folder is known by its weights, a hub model by name and revision, a built one by all that makes it.

    Args:
        data: of the run; a built teacher is trained on its text.

    Raises:
        UserError: see `check_model_folder`.
    """
    config = session.config
    if config.teacher.path == BUILD:
        return {"path": BUILD, "key": _build_key(session, data)}
    name = check_model_folder(config.teacher.path, "teacher.path")
    if not is_local_path(name):
        return {"path": name, "revision": config.teacher.revision or "main"}
    files = [Path(name) / "config.json", *sorted(Path(name).glob("*.safetensors"))]
    return {"weights": fingerprint(*(fingerprint_files(file) for file in files))}


def build_teacher(session: Session[Config], data: PreparedData) -> Path:
    """Return the run's folder of the built teacher; it is trained unless the cache has it.

    A training that was stopped goes on from its checkpoint, in any run: the key stands for all that makes it.

    Raises:
        Stopped: by the user, with what was trained saved.
    """
    run, key = session.run, _build_key(session, data)
    parent = run.cache_path / "teachers"
    with stop_when_saved() as request:
        folder = cached_folder(parent, key, lambda path: _build(session, path, parent / f"{key}.checkpoints", request))
        request.check("teacher: built and saved")
    link_folder(folder, run.path / "teacher" / "model")
    return run.path / "teacher" / "model"


def _build_key(session: Session[Config], data: PreparedData) -> str:
    """Fingerprint what makes a built teacher."""
    config = session.config
    text = identify_data(_view_of_teacher(config), data.manifest["corpus"]["fingerprint"], data.is_chat)
    return fingerprint(FORMAT, text, config.seed, config.teacher.build.model_dump(), session.hardware.precision)


def _view_of_teacher(config: Config) -> Config:
    """Return the configuration of the teacher's own training text: no student has a part in it.

    So one teacher serves every student, whatever its tokenizer.
    """
    values = config.model_dump()
    values["student"] = {"build": {"tokenizer": "teacher"}}
    values["data"]["max_length"] = teacher_max_length(config)
    values["teacher"]["max_length"] = teacher_max_length(config)
    return config_from_values(values)


def _build(session: Session[Config], folder: Path, checkpoints: Path, request: StopRequest) -> None:
    """Train a Qwen3-MoE on its own view of the training text and save it.

    Raises:
        Stopped: by the user, at a step that is saved.
    """
    config, hardware = session.config, session.hardware
    data = open_data(build_data(_view_of_teacher(config), session.run.cache_path))
    build = config.teacher.build
    set_seed(config.seed)
    architecture = _architecture(build, data, teacher_max_length(config), hardware)
    model = spread_embeddings(Qwen3MoeForCausalLM(architecture)).to(hardware.device)
    train = TrainConfig(
        per_device_train_batch_size=build.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=build.learning_rate,
        warmup_steps=max(1, build.max_steps // 20),
        log_every=max(1, build.max_steps // 10),
        save_every=config.train.save_every,
    )
    arguments = make_training_arguments(train, hardware, checkpoints, max_steps=build.max_steps, seed=config.seed)
    trainer = MixtureTrainer(model, arguments, WindowCollator(data.train, "teacher"), len(data.teacher_tokenizer))
    held_out: Windows = data.evaluation.first(config.evaluate.curve_sequences)
    every = max(1, build.max_steps // 4)
    curve = Curve(held_out, "teacher", config.evaluate.batch_size, every, hardware.autocast_dtype)
    trainer.add_callback(progress := Progress(session.run, "teacher", curve))
    trainer.add_callback(StopAtStep(request, saves_last=False))
    if (checkpoint := last_checkpoint(checkpoints)) is not None:
        note(f"teacher: goes on from step {checkpoint_step(checkpoint)} of {build.max_steps}")
    trainer.train(resume_from_checkpoint=checkpoint)
    if (step := trainer.state.global_step) < build.max_steps:
        request.check(f"teacher: step {step} of {build.max_steps} is saved")
    write_cost(folder, progress.seconds, round(trainer.read_counts()["tokens"]))
    with no_bar():
        model.save_pretrained(folder)
    data.teacher_tokenizer.save_pretrained(folder)
    shutil.rmtree(checkpoints, ignore_errors=True)


class MixtureTrainer(LanguageModelTrainer):
    """Adds the load-balancing term; without it a few experts take every token."""

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Add the balance of the experts to cross-entropy (Fedus et al. 2021, arXiv:2101.03961, eq. 4)."""
        outputs = model(input_ids=inputs["input_ids"], output_router_logits=True, use_cache=False)
        targets = shift_labels(inputs["labels"])
        ce = masked_mean(cross_entropy(outputs.logits, targets), targets != IGNORE_INDEX, num_items_in_batch)
        return ce + BALANCE_WEIGHT * outputs.aux_loss, {"ce_loss": ce, "balance_loss": outputs.aux_loss}


def _architecture(build: BuildTeacherConfig, data: PreparedData, max_length: int, hardware: Hardware) -> Qwen3MoeConfig:
    """Describe the built teacher to transformers."""
    architecture = Qwen3MoeConfig(
        vocab_size=len(data.teacher_tokenizer),
        hidden_size=build.hidden_size,
        num_hidden_layers=build.num_layers,
        num_attention_heads=build.num_heads,
        num_key_value_heads=build.num_heads,
        head_dim=build.hidden_size // build.num_heads,
        num_experts=build.num_experts,
        num_experts_per_tok=build.num_experts_per_tok,
        moe_intermediate_size=build.moe_intermediate_size,
        intermediate_size=build.moe_intermediate_size * build.num_experts_per_tok,
        norm_topk_prob=True,
        max_position_embeddings=_positions(max_length),
        initializer_range=initializer_range(build.hidden_size),
        tie_word_embeddings=False,
        bos_token_id=start_token_id(data.teacher_tokenizer),
        eos_token_id=end_token_id(data.teacher_tokenizer),
    )
    architecture._experts_implementation = experts_implementation(hardware.device)
    return architecture
