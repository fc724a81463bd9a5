"""The teacher stage: load the model that the configuration names, or build one once (notebook 02)."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.config.language import BUILD, BuildTeacherConfig, Config, TrainConfig, config_from_values
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import PreparedData, build_data, identify_data, open_data, teacher_max_length
from kdkit.data.windows import PAD, Windows
from kdkit.losses.cross_entropy import IGNORE_INDEX, cross_entropy, masked_mean, shift_labels
from kdkit.machine.hardware import Hardware
from kdkit.machine.hub import is_local_path
from kdkit.machine.session import Session
from kdkit.models.loading import check_fits, check_model_folder, experts_implementation, load_causal_lm
from kdkit.models.scratch import initializer_range, spread_embeddings
from kdkit.runs.costs import write_cost
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files, link_folder
from kdkit.training.arguments import make_training_arguments
from kdkit.training.progress import Curve, Progress
from kdkit.training.trainer import LanguageModelTrainer

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


def prepare_teacher(session: Session[Config], data: PreparedData) -> Teacher:
    """Load the teacher, frozen; build it first if the configuration says so and the cache has none.

    Raises:
        UserError: see `load_causal_lm` and `check_fits`.
    """
    config = session.config
    if config.teacher.path == BUILD:
        path = str(build_teacher(session, data))
    else:
        path = config.teacher.path
    model = load_causal_lm(
        path,
        "teacher.path",
        dtype=session.hardware.teacher_dtype,
        device=session.hardware.teacher_device,
        revision=config.teacher.revision,
        trust_remote_code=config.teacher.trust_remote_code,
    ).requires_grad_(False)
    longest = int((data.train.teacher_ids != PAD).sum(axis=1).max())
    check_fits(model, len(data.teacher_tokenizer), longest, "teacher.path", "teacher.max_length")
    return Teacher(model, path, config.teacher.path == BUILD)


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
    """Return the run's folder of the built teacher; it is trained unless the cache has it."""
    run = session.run
    folder = cached_folder(run.cache_path / "teachers", _build_key(session, data), lambda path: _build(session, path))
    link_folder(folder, run.path / "teacher" / "model")
    return run.path / "teacher" / "model"


def _build_key(session: Session[Config], data: PreparedData) -> str:
    """Fingerprint what makes a built teacher."""
    config = session.config
    text = identify_data(_view_of_teacher(config), data.manifest["corpus"]["fingerprint"])
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


def _build(session: Session[Config], folder: Path) -> None:
    """Train a Qwen3-MoE on its own view of the training text and save it."""
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
    )
    arguments = make_training_arguments(
        train.model_copy(update={"save_every": build.max_steps + 1}),
        hardware,
        folder / "checkpoints",
        max_steps=build.max_steps,
        seed=config.seed,
    )
    trainer = MixtureTrainer(model, arguments, WindowCollator(data.train, "teacher"), len(data.teacher_tokenizer))
    held_out: Windows = data.evaluation.first(config.evaluate.curve_sequences)
    every = max(1, build.max_steps // 4)
    curve = Curve(held_out, "teacher", config.evaluate.batch_size, every, hardware.autocast_dtype)
    trainer.add_callback(progress := Progress(session.run, "teacher", curve))
    trainer.train()
    write_cost(folder, progress.seconds, round(trainer.read_counts()["tokens"]))
    model.save_pretrained(folder)
    data.teacher_tokenizer.save_pretrained(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


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
        max_position_embeddings=max(max_length, 512),
        initializer_range=initializer_range(build.hidden_size),
        tie_word_embeddings=False,
        bos_token_id=start_token_id(data.teacher_tokenizer),
        eos_token_id=end_token_id(data.teacher_tokenizer),
    )
    architecture._experts_implementation = experts_implementation(hardware.device)
    return architecture
