"""The teacher stage: load the model that the configuration names, or build one once (notebook 02)."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from kdkit.config import BUILD, BuildTeacherConfig, Config, TrainConfig
from kdkit.data.packing import PAD, Windows
from kdkit.data.prepare import PreparedData, teacher_max_length
from kdkit.data.tokenizers import end_token_id, start_token_id
from kdkit.hardware import Hardware
from kdkit.runs import Run, cached_folder, fingerprint, link_folder
from kdkit.teacher.batches import WindowCollator
from kdkit.teacher.loading import check_fits, experts_implementation, initializer_range, load_causal_lm
from kdkit.teacher.progress import Curve, Progress
from kdkit.teacher.training import LanguageModelTrainer, make_training_arguments

FORMAT = 2
"""Raise it when the same settings build another teacher than before."""


@dataclass(frozen=True)
class Teacher:
    """The large model, ready to be asked, and where its weights lie."""

    model: PreTrainedModel
    path: str
    was_built: bool
    """Whether it is a teacher of `teacher.path: build`."""


def prepare_teacher(config: Config, run: Run, data: PreparedData, hardware: Hardware) -> Teacher:
    """Load the teacher, frozen; build it first if the configuration says so and the cache has none.

    Raises:
        UserError: see `load_causal_lm` and `check_fits`.
    """
    if config.teacher.path == BUILD:
        path = str(_build_once(config, run, data, hardware))
    else:
        path = config.teacher.path
    model = load_causal_lm(
        path,
        "teacher.path",
        dtype=hardware.teacher_dtype,
        device=hardware.teacher_device,
        revision=config.teacher.revision,
        trust_remote_code=config.teacher.trust_remote_code,
    ).requires_grad_(False)
    longest = int((data.train.teacher_ids != PAD).sum(axis=1).max())
    check_fits(model, len(data.teacher_tokenizer), longest, "teacher.path", "teacher.max_length")
    return Teacher(model, path, config.teacher.path == BUILD)


def _build_once(config: Config, run: Run, data: PreparedData, hardware: Hardware) -> Path:
    """Return the folder of the built teacher, training it unless the cache has it; link it into the run."""
    key = fingerprint(FORMAT, data.key, config.seed, config.teacher.build.model_dump(), hardware.precision)
    folder, was_there = cached_folder(
        run.cache_path / "teachers", key, lambda path: _build(config, run, data, hardware, path)
    )
    if not was_there or not (run.path / "teacher" / "model" / "config.json").is_file():
        link_folder(folder, run.path / "teacher" / "model")
    return run.path / "teacher" / "model"


def _build(config: Config, run: Run, data: PreparedData, hardware: Hardware, folder: Path) -> None:
    """Train a Qwen3-MoE on the teacher's view of the training windows and save it."""
    build = config.teacher.build
    set_seed(config.seed)
    model = Qwen3MoeForCausalLM(_architecture(build, data, teacher_max_length(config), hardware)).to(hardware.device)
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
    trainer = LanguageModelTrainer(model, arguments, WindowCollator(data.train, "teacher"))
    held_out: Windows = data.evaluation.first(config.evaluate.curve_sequences)
    every = max(1, build.max_steps // 4)
    curve = Curve(held_out, "teacher", config.evaluate.batch_size, every, hardware.autocast_dtype)
    trainer.add_callback(Progress(run, "teacher", curve))
    trainer.train()
    model.config.output_router_logits = False
    model.save_pretrained(folder)
    data.teacher_tokenizer.save_pretrained(folder)
    for leftover in sorted((folder / "checkpoints").rglob("*"), reverse=True):
        leftover.unlink() if leftover.is_file() else leftover.rmdir()


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
        # the load-balancing term; without it a few experts take every token
        output_router_logits=True,
        router_aux_loss_coef=0.01,
        max_position_embeddings=max(max_length, 512),
        initializer_range=initializer_range(build.hidden_size),
        tie_word_embeddings=True,
        bos_token_id=start_token_id(data.teacher_tokenizer),
        eos_token_id=end_token_id(data.teacher_tokenizer),
    )
    architecture._experts_implementation = experts_implementation(hardware.device)
    return architecture
