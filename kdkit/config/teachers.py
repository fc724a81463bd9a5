"""Settings of teachers: one that is built here, and several at once."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdkit.config.built.architecture import ArchitectureConfig, check_architecture, require_divides
from kdkit.config.chat import ChatModelConfig
from kdkit.config.losses import LossSettings
from kdkit.config.types import (
    BUILD,
    AnyShare,
    Count,
    Digits,
    LayerMap,
    ModelConfig,
    NotNegative,
    Number,
    Positive,
    Section,
    SourceName,
    VocabularySize,
)
from kdkit.errors import UserError

DocumentEnd = Annotated[str, Field(min_length=1)]

FIRST_SETTINGS = (
    *("vocab_size", "hidden_size", "num_layers", "num_heads", "num_experts", "num_experts_per_tok"),
    *("moe_intermediate_size", "max_steps", "batch_size", "learning_rate"),
)
"""Settings of a built teacher that are part of its name in the cache even where they are the defaults."""


class BuildTeacherConfig(ArchitectureConfig):
    """A teacher trained from scratch on the corpus (`teacher.path: build`): a Qwen3-MoE, or a dense model."""

    vocab_size: VocabularySize = 2048
    """Entries of its own BPE tokenizer, the 256 bytes and the special tokens included."""
    digits: Digits = "together"
    """Of its own tokenizer: `apart`, every digit is a token, so that a small model can calculate."""
    hidden_size: Count = 128
    """Width of the residual stream."""
    num_layers: Count = 4
    """Transformer layers; with experts every one is a mixture of them."""
    num_heads: Count = 4
    """Attention heads; must divide `hidden_size`."""
    num_experts: Annotated[int, Field(ge=0)] = 8
    """Experts per layer; 0: a dense model."""
    num_experts_per_tok: Count = 2
    """Experts that each token is sent to."""
    moe_intermediate_size: Count = 128
    """Width of one expert."""
    intermediate_size: Count | None = None
    """Width of a dense model's feed-forward layer; null: `num_experts_per_tok * moe_intermediate_size`."""
    qk_norm: bool = True
    """Normalise queries and keys of every head (RMSNorm) before they meet; a mixture of experts always does."""
    max_steps: Count = 600
    """Optimizer steps of its training."""
    batch_size: Count = 16
    """Sequences a step."""
    learning_rate: Positive = 2.0e-3
    """Peak learning rate (5 % warm-up, cosine)."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`, of a dense teacher: see `train.muon`."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of its weights and of the order in which it reads; null: `seed`. Teachers of an ensemble need one each."""

    @model_validator(mode="after")
    def _shapes(self) -> "BuildTeacherConfig":
        require_divides("teacher.build", self.hidden_size, self.num_heads)
        check_architecture("teacher.build", self, self.num_heads, self.num_layers)
        if self.num_experts:
            self._check_mixture()
        return self

    def _check_mixture(self) -> None:
        """Refuse what a Qwen3-MoE cannot be."""
        refused = {
            "qk_norm": (not self.qk_norm, "true"),
            "optimizer": (self.optimizer != "adamw", "adamw"),
            "sliding_layers": (self.sliding_layers != "all", "all"),
            "intermediate_size": (self.intermediate_size is not None, "null (an expert's is moe_intermediate_size)"),
        }
        for name, (is_refused, needed) in refused.items():
            if is_refused:
                raise UserError(
                    f"teacher.build.{name}: expected {needed} in a mixture of experts, got {getattr(self, name)!r}; "
                    "leave it out, or set teacher.build.num_experts=0 for a dense teacher"
                )
        if self.num_experts_per_tok > self.num_experts:
            raise UserError(
                f"teacher.build.num_experts_per_tok: expected at most num_experts = {self.num_experts}, "
                f"got {self.num_experts_per_tok}; lower it or add experts"
            )

    @property
    def dense_width(self) -> int:
        """Width of the feed-forward layer of a dense model."""
        return self.intermediate_size or self.num_experts_per_tok * self.moe_intermediate_size

    def identity(self) -> dict[str, Any]:
        """Return what tells one built teacher from another: its first settings, and the changed ones of all later ones.

        So a teacher that was built before a setting existed is still found. Without the seed, which the run may give.
        """
        values = self.model_dump(exclude={"seed"})
        changed = self.model_dump(exclude_defaults=True)
        return {name: values[name] for name in values if name in FIRST_SETTINGS or name in changed}


class MemberConfig(ChatModelConfig, ModelConfig):
    """One of several teachers, each with its own tokenizer, loss, layer map and cache."""

    name: SourceName
    """What it is called in messages, figures and checkpoints."""
    path: str = BUILD
    """See `teacher.path`."""
    tokenizer: str = ""
    """See `teacher.tokenizer`."""
    weight: NotNegative = 1.0
    """Its weight beside the others'; they are divided by their sum."""
    sources: list[SourceName] = Field(default_factory=list)
    """Kinds of text (`data.sources`) that it teaches; empty: all."""
    trained_on: list[SourceName] = Field(default_factory=list)
    """Kinds of text on which it is trained where `path` is `build`; empty: all."""
    loss: LossSettings | None = None
    """Null: `distill.loss`, chosen for this teacher's tokenizer where that is `auto`."""
    layer_map: LayerMap | None = None
    """Null: `distill.layer_map`, which may hold a map per teacher, by name or path."""
    cached: bool | None = None
    """Whether its answers are asked beforehand; null: `cache.enabled`."""
    cache_file: str = ""
    """File of its cache; empty: in `cache_dir`, named by what it was made from."""
    max_length: Count | None = None
    """Longest teacher sequence in tokens; null: twice `data.max_length`."""
    document_end: DocumentEnd = "auto"
    """See `teacher.document_end`."""
    build: BuildTeacherConfig = BuildTeacherConfig()
    """Read when `path` is `build`."""

    def teacher_settings(self) -> dict[str, Any]:
        """Return what it sets of the section `teacher`."""
        names = "path", "tokenizer", "revision", "trust_remote_code", "max_length", "document_end", "chat_template"
        return {name: getattr(self, name) for name in names} | {"build": self.build.model_dump()}


class TeachersConfig(Section):
    """Several teachers at once, in place of the section `teacher`."""

    members: list[MemberConfig] = Field(default_factory=list)
    """The teachers; notebooks 02 and 04 look at the first. Empty: the one of `teacher`."""
    combine: Literal["sum", "averaged", "select", "dynamic"] = "sum"
    """`sum`: the weighted losses of all; `averaged`: the loss of their mean distribution (one tokenizer); `select`: one
    teacher per piece of a document; `dynamic`: all, weighed per piece by `softmax(alpha * score)`."""
    select_by: Literal["loss", "source", "router"] = "loss"
    """`loss`: the teacher with the lowest loss on the piece itself; `source`: the one whose `sources` name its kind;
    `router`: the lowest loss where the teachers were asked, and elsewhere what a router guesses from the tokens."""
    asked_share: AnyShare = 0.1
    """Share of the training sequences that the teachers are asked about for `select_by: router`."""
    score: Literal["loss", "entropy", "max_prob"] = "loss"
    """What `dynamic` weighs by: minus the loss or minus the entropy, in nats per byte, or the mean of the largest
    log-probability per byte, in nats too."""
    alpha: Number = 4.0
    """Sharpness of `dynamic`: 0 weighs all alike, a large one selects."""
    resident: Literal["all", "one"] = "all"
    """Teachers that stay on the device; `one`: each moves there for its answer, the others wait in the CPU's memory."""
    only: str = ""
    """Let one of them teach alone, on the very same sequences."""

    def member(self, name: str) -> MemberConfig:
        """Return the member of a name.

        Raises:
            UserError: there is none.
        """
        names = [member.name for member in self.members]
        if name in names:
            return self.members[names.index(name)]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "name one of these"
        raise UserError(f"teachers.only: expected one of {', '.join(names) or 'no teachers'}, got {name!r}; {hint}")

    @property
    def are_several(self) -> bool:
        """Whether more than the section `teacher` teaches."""
        return bool(self.members) and not self.only

    def check(self, sources: list[str], path: str, router: str, curriculum: str) -> None:
        """Refuse what does not go together with the rest of a configuration.

        Args:
            sources: kinds of text, `data.sources`.
            path: `teacher.path`.
            router: `router.kind`.
            curriculum: `train.curriculum`.

        Raises:
            UserError: naming the setting.
        """
        if self.only:
            self.member(self.only)
        if not self.members:
            return
        self._check_members(sources)
        if self.only:
            return
        if path != BUILD:
            raise UserError(
                f"teacher.path: expected none beside teachers.members, got {path!r}; make it one of the members"
            )
        if router != "none":
            raise UserError(
                f"router.kind: expected none with teachers.members, got {router!r}; a router weighs teachers of one "
                "tokenizer (teacher.others); here set teachers.combine=dynamic"
            )
        if curriculum not in ("none", "level"):
            raise UserError(
                f"train.curriculum: expected none with teachers.members, got {curriculum!r}, which needs one teacher's "
                "opinion; set train.curriculum=none"
            )
        if self.combine == "select" and self.select_by == "source":
            self._check_selection(sources)

    def _check_members(self, sources: list[str]) -> None:
        """Refuse names that stand twice, kinds of text that are not there, and weights that leave nobody."""
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(
                f"teachers.members: expected a name of its own for every teacher, got {twice!r} twice; rename one"
            )
        for member in self.members:
            for key in ("sources", "trained_on"):
                if unknown := [kind for kind in getattr(member, key) if kind not in sources]:
                    there = ", ".join(sources) or "none; name them in data.sources"
                    raise UserError(
                        f"teachers.members.{member.name}.{key}: expected kinds of text out of data.sources ({there}), "
                        f"got {unknown[0]!r}; correct it"
                    )
            if member.trained_on and member.path != BUILD:
                raise UserError(
                    f"teachers.members.{member.name}.trained_on: expected it for path: build alone, got path "
                    f"{member.path!r}, a model that is trained already; leave it out (sources says what it teaches)"
                )
        if not any(member.weight for member in self.members):
            raise UserError(
                "teachers.members: expected a weight above 0 for at least one teacher, got 0 for all of "
                f"{', '.join(names)}; set distill.kd_ratio=0 to train without a teacher"
            )

    def _check_selection(self, sources: list[str]) -> None:
        """Refuse a choice by kind of text that leaves a choice."""
        for kind in sources:
            named = [member.name for member in self.members if kind in (member.sources or sources) and member.weight]
            if len(named) > 1:
                raise UserError(
                    f"teachers.select_by: expected at most one teacher whose sources name {kind!r}, got "
                    f"{', '.join(named)}; give each its own sources, or set teachers.select_by=loss"
                )
        if not sources:
            raise UserError(
                "teachers.select_by: expected kinds of text to select by, got none; name them in data.sources, or set "
                "teachers.select_by=loss"
            )
