"""Small data and models for tests: two tokenizers, uneven windows, a Llama student and a MoE teacher."""

from dataclasses import replace
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from kdkit.config.language import Config, config_from_values
from kdkit.data.prepare import PreparedData, build_data, open_data
from kdkit.distill import train
from kdkit.distill.choose_loss import choose_loss
from kdkit.distill.plan import Stage, TrainingPlan, plan_training
from kdkit.distill.plan import plan_stages as plan_stages_for
from kdkit.distill.student import make_student
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher
from kdkit.training.trainer import LanguageModelTrainer

CPU = Hardware("cpu", "cpu", "fp32", "cpu", "test")
NOWHERE = Run(Path("nowhere"), Path("nowhere"))
"""The run of a function that writes none."""

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards boxed quietly under old trees".split()  # noqa: SIM905


def write_corpus(path: Path, documents: int = 60) -> Path:
    """Write documents of different lengths, all distinct."""
    texts = []
    for number in range(documents):
        length = 3 + (number * 7) % 23
        words = (WORDS[(number * 5 + i * (1 + number % 3)) % len(WORDS)] for i in range(length))
        texts.append(f"{' '.join(words)} {number}.")
    path.write_text("<|endoftext|>".join(texts), encoding="utf-8")
    return path


def make_config(folder: Path, **changes: dict) -> Config:
    """Return a configuration on the small corpus; sections in `changes` are merged in."""
    values = {
        "data": {"path": str(write_corpus(folder / "corpus.txt")), "max_length": 24, "evaluation_fraction": 0.2},
        "teacher": {"build": {"vocab_size": 320, "hidden_size": 16, "num_layers": 2, "moe_intermediate_size": 16}},
        "student": {"build": {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}},
        "train": {"batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 5e-3, "max_steps": 6},
        "evaluate": {"curve_sequences": 4, "num_prompts": 2, "prompt_length": 2, "max_new_tokens": 4},
    }
    values["train"] |= {"warmup_steps": 1, "log_every": 1, "save_every": 3}
    for section, content in changes.items():
        values[section] = values.get(section, {}) | content if isinstance(content, dict) else content
    return config_from_values(values)


def make_data(config: Config, folder: Path) -> PreparedData:
    """Prepare the data of a configuration under a folder."""
    return open_data(build_data(config, folder / "cache"))


def make_run(folder: Path, name: str = "run") -> Run:
    """Make an empty run folder."""
    run = Run(folder / "runs" / name, folder / "cache")
    run.path.mkdir(parents=True)
    return run


def make_session(config: Config, run: Run = NOWHERE, hardware: Hardware = CPU) -> Session[Config]:
    """Put together what a stage is given."""
    return Session(config, run, hardware)


def make_plan(config: Config, run: Run, data: PreparedData, hardware: Hardware = CPU) -> TrainingPlan:
    """Plan the training of a configuration."""
    return plan_training(make_session(config, run, hardware), data)


def plan_stages(config: Config, data: PreparedData) -> list[Stage]:
    """Return the stages of a configuration, with the loss that it chooses."""
    return plan_stages_for(config, data, choose_loss(config, data)[0])


def make_teacher(data: PreparedData, seed: int = 1) -> Teacher:
    """Make an untrained mixture of experts for the data's teacher tokenizer."""
    set_seed(seed)
    architecture = Qwen3MoeConfig(
        vocab_size=len(data.teacher_tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        initializer_range=0.3,
    )
    return Teacher(Qwen3MoeForCausalLM(architecture).eval().requires_grad_(False), "tiny", True)


def save_teacher(data: PreparedData, folder: Path, seed: int = 1) -> Path:
    """Save an untrained teacher with the data's teacher tokenizer to a folder that `teacher.path` can name."""
    make_teacher(data, seed).model.save_pretrained(folder)
    data.teacher_tokenizer.save_pretrained(folder)
    return folder


def make_trainer(
    config: Config,
    run: Run,
    data: PreparedData,
    teacher: object = None,
    *,
    steps: int = 6,
    hardware: Hardware = CPU,
    phase: str = "student",
) -> LanguageModelTrainer:
    """Build the trainer of the first stage of a configuration, for some steps."""
    plan = make_plan(config, run, data, hardware)
    stage = replace(plan.stages[0], steps=steps)
    return train.make_trainer(plan, stage, make_student(config, data), teacher, phase)


def make_llama(vocab_size: int, seed: int = 0) -> LlamaForCausalLM:
    """Make an untrained small Llama."""
    set_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=0.3,
        )
    )
