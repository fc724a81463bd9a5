"""Settings of teachers: one that is built here, and several at once."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdkit.config.chat import ChatModelConfig
from kdkit.config.losses import LossSettings
from kdkit.config.types import (
    BUILD,
    Count,
    ModelConfig,
    NotNegative,
    Number,
    Positive,
    Section,
    SourceName,
    VocabularySize,
)
from kdkit.errors import UserError

DocumentEnd = Literal["auto", "eos", "bos"]


def require_divides(path: str, hidden_size: int, num_heads: int) -> None:
    """Refuse heads that do not fill the width, or that rotary positions cannot halve."""
    if hidden_size % num_heads or (hidden_size // num_heads) % 2:
        raise UserError(
            f"{path}.num_heads: expected hidden_size / num_heads to be an even whole number, got "
            f"{hidden_size} / {num_heads}; choose another number of heads"
        )


DocumentEnd = Literal["auto", "eos", "bos"]


class BuildTeacherConfig(Section):
    """A Qwen3-MoE teacher trained from scratch on the corpus (`teacher.path: build`)."""

    vocab_size: VocabularySize = 2048
    """Entries of its own BPE tokenizer, the 256 bytes and the special tokens included."""
    hidden_size: Count = 128
    """Width of the residual stream."""
    num_layers: Count = 4
    """Transformer layers; every one is a mixture of experts."""
    num_heads: Count = 4
    """Attention heads; must divide `hidden_size`."""
    num_experts: Count = 8
    """Experts per layer."""
    num_experts_per_tok: Count = 2
    """Experts that each token is sent to."""
    moe_intermediate_size: Count = 128
    """Width of one expert."""
    max_steps: Count = 600
    """Optimizer steps of its training."""
    batch_size: Count = 16
    """Sequences a step."""
    learning_rate: Positive = 2.0e-3
    """Peak learning rate (AdamW, 5 % warm-up, cosine)."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of its weights and of the order in which it reads; null: `seed`. Teachers of an ensemble need one each."""

    @model_validator(mode="after")
    def _shapes(self) -> "BuildTeacherConfig":
        require_divides("teacher.build", self.hidden_size, self.num_heads)
        if self.num_experts_per_tok > self.num_experts:
            raise UserError(
                f"teacher.build.num_experts_per_tok: expected at most num_experts = {self.num_experts}, "
                f"got {self.num_experts_per_tok}; lower it or add experts"
            )
        return self


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
    layer_map: str | dict[str | int, Any] | None = None
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
    select_by: Literal["loss", "source"] = "loss"
    """`loss`: the teacher with the lowest loss on the piece itself; `source`: the one whose `sources` name its kind."""
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
        if curriculum != "none":
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
