"""Settings of the teacher's cache and router, of rejection sampling, and of a student that teaches itself."""

from string import Formatter
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from kdkit.config.types import BUILD, Count, NotNegative, Number, OpenShare, Positive, Section, Share
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
    temperatures: list[Positive] = Field(default_factory=list)
    """Temperatures that the answers serve exactly beside those of the run (mode `top_k`). A sweep adds those of its
    variants by itself."""
    num_samples: Annotated[int, Field(ge=1, le=255)] = 50
    """Tokens drawn per position (mode `sampled`); equal ones are stored once."""
    tail: Literal["ghost", "keep_mass", "renormalise"] = "ghost"
    """What is done about the tokens that are not kept (mode `top_k`): one more outcome with their mass;
    only the kept terms of the sum; or the kept ones taken for all."""
    sequences: Literal["read", "all"] = "read"
    """Which training sequences are answered: those that the planned training reads, or all."""
    samples_per_chunk: Count = 64
    """Sequences that are written, checked and repaired together."""


RouterPart = Literal["capacity", "gap", "importance", "annealing"]
"""What `student_aware` does beyond `student_aware_routing`."""


class RouterConfig(Section):
    """How a mixture-of-experts teacher is routed while it teaches, or what is mixed of a dense one."""

    kind: Literal["none", "all_experts", "knowledge_augmentation", "student_aware_routing", "student_aware"] = "none"
    """`none`: the teacher's own routing; `all_experts`: all, weighed by its gates; `knowledge_augmentation`: several
    passes with experts drawn by the gates; `student_aware_routing`: gates trained towards the student;
    `student_aware`: that, plus `parts`."""
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
    """Experts in the pass that trains the router; null: as many as in the lesson, that is all for
    `student_aware_routing`, and for `student_aware` the top-k of the step, but at least two."""
    direction: Literal["student_teacher", "teacher_student"] = "student_teacher"
    """What the router lowers: KL(student || teacher), as published, or the other way, as in the paper's code."""
    balance_weight: NotNegative = 0.01
    """Weight of the squared coefficient of variation of the experts' importance."""
    anchor: Literal["kl", "l2"] = "kl"
    """What holds the gates to the initial ones: KL between their routings, or the distance of the weights. What the
    student's state adds (`importance`) is held by `text_weight` alone."""
    anchor_weight: NotNegative = 1.0
    """Weight of the anchor; without it the router goes where the student already agrees."""
    text_weight: NotNegative = 1.0
    """Weight of the routed teacher's own cross-entropy on the text, which keeps it right while it adapts; 0: as
    published, with which the demo's router gave up what its teacher knows (LOG.md)."""
    num_passes: Annotated[int, Field(ge=2)] = 2
    """Passes of knowledge augmentation; the loss is their mean."""
    augmentation_rate: Share = 0.05
    """Probability that a token's experts are drawn in a layer, and not its top ones (knowledge augmentation)."""
    parts: list[RouterPart] = Field(default_factory=lambda: list(get_args(RouterPart)))
    """What `student_aware` does beyond `student_aware_routing`; leave one out to see what it is good for. `capacity`:
    places count by the student's own loss (`capacity_power`); `gap`: they count by the divergence (`gap_power`);
    `importance`: scores of the experts read from the student's state; `annealing`: top-k grows,
    and the temperature falls."""
    capacity_power: Annotated[Number, Field(ge=-1.0, le=1.0)] = 0.5
    """A place's weight in the teacher's term is the student's own loss there over the mean, to this power (part
    `capacity`); weights are 1 on average. Below 0: first what the student copes with."""
    gap_power: Annotated[Number, Field(ge=-1.0, le=1.0)] = 0.5
    """The same of the divergence that is trained (part `gap`). Below 0: small gaps first."""
    initial_top_k: Count = 1
    """Sources a token is routed to at the start (`annealing`)."""
    final_top_k: Count | None = None
    """Sources a token is routed to at the end (`student_aware`); null: as many as the teacher itself chooses."""
    initial_temperature: Positive = 2.0
    """Temperature of the routing's softmax at the start (`annealing`); it falls while there is something to weigh,
    that is from the second source on."""
    final_temperature: Positive = 1.0
    """Temperature at the end (`student_aware`)."""
    schedule_share: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.8
    """Share of the training after which both have their final values."""

    @model_validator(mode="before")
    @classmethod
    def _read_progressive(cls, values: Any) -> Any:
        """Read older configurations: `annealing` has replaced `progressive`; 4 was the default of `final_top_k`."""
        if not isinstance(values, dict) or "progressive" not in values:
            return values
        kept = {name: value for name, value in values.items() if name != "progressive"}
        if kept.get("kind", "none") == "none":
            kept.pop("final_top_k", None)
        parts = [part for part in get_args(RouterPart) if part != "annealing"]
        return kept if values["progressive"] else {"parts": parts} | kept

    def uses(self, part: RouterPart) -> bool:
        """Return whether one of `parts` has a say."""
        return self.kind == "student_aware" and part in self.parts

    @model_validator(mode="after")
    def _order(self) -> "RouterConfig":
        if self.final_top_k is not None and self.initial_top_k > self.final_top_k:
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


TEACHER_LOGPROB = "teacher_logprob"
VERIFIED_ANSWER = "verified_answer"
VERIFIED = ("exact_match", "normalised_match", "numeric_match", VERIFIED_ANSWER)
"""Scorers that compare with a known answer: 1 or 0."""
SCORERS = (TEACHER_LOGPROB, "rouge_l", *VERIFIED)


class SamplingConfig(Section):
    """The teacher's own answers to the training prompts, the best of several, by `python -m kdkit sample`."""

    num_samples: Count = 4
    """Answers that are drawn for every prompt."""
    max_prompts: Count | None = None
    """Prompts at most, the first ones of the training split; null: all."""
    max_new_tokens: Count = 128
    """Teacher tokens of an answer at most; one that is cut there is never accepted."""
    generation_temperature: Positive = 1.0
    """Of the softmax that answers are drawn from."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Most likely tokens that are drawn from; 0: all."""
    top_p: Annotated[Number, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the probability that the drawn tokens hold at least, the most likely first."""
    min_p: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.0
    """Least probability of a drawn token, as a share of the most likely one's."""
    batch_size: Count = 64
    """Answers that are written at the same time."""
    scorer: str = TEACHER_LOGPROB
    """What makes an answer good: `teacher_logprob` (mean log-probability of its tokens), `rouge_l` (with the data's
    answer), `exact_match`, `normalised_match` (without case, punctuation, articles), `numeric_match` (the last number),
    `verified_answer` (what stands in the box is right in the sense of `maths.checker`, for problems of every kind),
    or a function of your own: `python:module:function`, called with messages, answer and reference."""
    threshold: Number | None = None
    """Least score of an answer that is accepted; null: 1 for the matches and the verified answer, else every answer
    that came to its end."""

    @field_validator("scorer")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name in SCORERS or name.startswith("python:"):
            return name
        raise UserError(
            f"sampling.scorer: expected {', '.join(SCORERS)} or python:MODULE:FUNCTION, got {name!r}; correct the name"
        )

    @property
    def least_score(self) -> float:
        """Score from which an answer is accepted."""
        if self.threshold is not None:
            return self.threshold
        return 1.0 if self.scorer in VERIFIED else float("-inf")


class SelfTeacherConfig(Section):
    """A teacher that is the student itself: asked with the answer, or an average of the student's weights."""

    privileged_prompt: str | None = None
    """What the teacher of conversations is asked in place of the last question, with `{prompt}` and `{answer}` in their
    places: `{prompt} A good answer is: {answer} Now answer in your own words.` It then knows more than the student, who
    learns the last answer alone; null: the same question."""
    average_decay: OpenShare | None = None
    """Let the teacher follow the student it starts from (`teacher.path` is `student.path`): after every optimizer step
    its weights are `average_decay * own + (1 - average_decay) * student's`; null: it stays as it is."""

    @field_validator("privileged_prompt")
    @classmethod
    def _has_the_answer(cls, template: str | None) -> str | None:
        """Refuse a template that leaves the answer out, or names something else."""
        if template is None:
            return None
        try:
            names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        except ValueError as error:
            names = {str(error)}
        if "answer" not in names or names - {"prompt", "answer"}:
            raise UserError(
                f"teacher.privileged_prompt: expected a text with {{answer}}, and perhaps {{prompt}}, got "
                f"{template!r}; correct it, and write {{{{ for a brace"
            )
        return template

    def check(self, teacher_path: str, student_path: str, changing: str) -> None:
        """Refuse what does not go together with the rest of a configuration.

        Args:
            teacher_path: `teacher.path`.
            student_path: `student.path`.
            changing: a setting that an averaged teacher does not go together with; empty: none is set.

        Raises:
            UserError: an average of another model, or one in a cache or under a router.
        """
        if self.average_decay is None:
            return
        if teacher_path != student_path or student_path == BUILD:
            raise UserError(
                "teacher.average_decay: expected teacher.path and student.path to name one pretrained model, got "
                f"{teacher_path!r} and {student_path!r}; set teacher.path to the student's"
            )
        if changing:
            raise UserError(
                "teacher.average_decay: expected no cache and no router of a teacher that changes with the student, "
                f"got {changing}; set cache.enabled=false and router.kind=none"
            )
