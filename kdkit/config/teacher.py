"""Settings of the teacher's cache and of its router."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdkit.config.types import Count, NotNegative, Number, Positive, Section, Share
from kdkit.errors import UserError


class CacheConfig(Section):
    """The teacher's answers on disk, so that training needs no teacher in memory."""

    enabled: bool = False
    """Train from the cache; it is built first where it does not exist."""
    file: str = ""
    """File of the cache; empty: in `cache_dir`, named by what it was made from."""
    mode: Literal["top_k", "sampled", "true_token"] = "top_k"
    """`top_k`: the most likely tokens; `sampled`: tokens drawn from the teacher, with their counts
    (RS-KD); `true_token`: the log-probability of the text's own tokens, which is all that `alm` needs."""
    top_k: Count = 64
    """Tokens kept per position (mode `top_k`)."""
    num_samples: Annotated[int, Field(ge=1, le=255)] = 50
    """Tokens drawn per position (mode `sampled`); equal ones are stored once."""
    tail: Literal["ghost", "keep_mass", "renormalise"] = "ghost"
    """What is done about the tokens that are not kept (mode `top_k`): one more outcome with their mass;
    only the kept terms of the sum; or the kept ones taken for all."""
    sequences: Literal["read", "all"] = "read"
    """Which training sequences are answered: those that the planned training reads, or all."""
    samples_per_chunk: Count = 64
    """Sequences that are written, checked and repaired together."""


class RouterConfig(Section):
    """How a mixture-of-experts teacher is routed while it teaches, or what is mixed of a dense one."""

    kind: Literal["none", "all_experts", "knowledge_augmentation", "student_aware_routing", "student_aware"] = "none"
    """`none`: the teacher's own routing; `all_experts`: all, weighed by its gates; `knowledge_augmentation`: several
    passes with experts drawn by the gates; `student_aware_routing`: gates trained towards the student;
    `student_aware`: that, plus what the student's own state says about capacity, gap and each expert."""
    sources: Literal["auto", "experts", "layers", "teachers"] = "auto"
    """What is routed over: experts of a MoE teacher, last layers of a dense one (`num_layers`), or
    `teacher.path` and `teacher.others`; `auto`: teachers if there are several, else experts."""
    num_layers: Count = 4
    """Last layers of a dense teacher that `sources: layers` mixes."""
    learning_rate: Positive = 1.0e-4
    """Learning rate of the router's own optimizer (AdamW, clipped at 1). Alias: `router_lr`."""
    update_every: Count = 10
    """Optimizer steps between updates of the router, which cost about two steps of the demo each."""
    update_sequences: Count | None = 2
    """Sequences of a micro-batch that an update looks at; null: all."""
    training_top_k: Count | None = None
    """Experts in the pass that trains the router; null: all, without which experts out of the top get no gradient."""
    direction: Literal["student_teacher", "teacher_student"] = "student_teacher"
    """What the router lowers: KL(student || teacher), as published, or the other way, as in the paper's code."""
    balance_weight: NotNegative = 0.01
    """Weight of the squared coefficient of variation of the experts' importance."""
    anchor: Literal["kl", "l2"] = "kl"
    """What holds the router to the initial one: KL between the routings, or the distance of the weights."""
    anchor_weight: NotNegative = 1.0
    """Weight of the anchor; without it the router goes where the student already agrees."""
    text_weight: NotNegative = 1.0
    """Weight of the routed teacher's own cross-entropy on the text, which keeps it right while it adapts; 0: as
    published, with which the demo's router gave up what its teacher knows (LOG.md)."""
    num_passes: Annotated[int, Field(ge=2)] = 2
    """Passes of knowledge augmentation; the loss is their mean."""
    augmentation_rate: Share = 0.05
    """Probability that a token's experts are drawn in a layer, and not its top ones (knowledge augmentation)."""
    progressive: bool = True
    """Let `student_aware` grow from `initial_top_k` to `final_top_k`, and anneal; false: final values throughout."""
    initial_top_k: Count = 1
    """Sources a token is routed to at the start (`student_aware`)."""
    final_top_k: Count = 4
    """Sources a token is routed to at the end (`student_aware`)."""
    initial_temperature: Positive = 2.0
    """Temperature of the routing's softmax at the start (`student_aware`)."""
    final_temperature: Positive = 1.0
    """Temperature at the end (`student_aware`)."""
    schedule_share: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.8
    """Share of the training after which both have their final values."""

    @model_validator(mode="after")
    def _order(self) -> "RouterConfig":
        if self.initial_top_k > self.final_top_k:
            raise UserError(
                f"router.initial_top_k: expected at most router.final_top_k = {self.final_top_k}, "
                f"got {self.initial_top_k}; the schedule grows, so swap the two"
            )
        return self

    def check(self, others: list[str], cached: bool) -> None:
        """Refuse what does not go together with the rest of a configuration.

        Args:
            others: `teacher.others`.
            cached: `cache.enabled`.

        Raises:
            UserError: a cache, or sources that are not there.
        """
        if self.kind == "none" and others:
            raise UserError(
                f"teacher.others: expected a router that weighs the teachers, got {len(others)} more teachers and "
                "router.kind=none; set router.kind, such as all_experts (equal weights) or student_aware"
            )
        if self.kind != "none" and cached:
            raise UserError(
                f"router.kind: expected none with cache.enabled, got {self.kind!r}; a cache holds what one fixed "
                "teacher says, and a router changes the teacher while it teaches; set cache.enabled=false"
            )
        if (self.sources == "teachers" and not others) or (self.sources in ("experts", "layers") and others):
            raise UserError(
                f"router.sources: expected 'teachers' where teacher.others names more of them, and only there, got "
                f"{self.sources!r} and {len(others)} others; change one of the two"
            )
        if self.kind == "knowledge_augmentation" and (self.sources == "layers" or others):
            got = "teachers" if others else self.sources
            raise UserError(
                "router.kind: expected sources of which some can be left out for 'knowledge_augmentation', the experts "
                f"of a MoE teacher, got {got!r}; choose all_experts or student_aware"
            )
