"""Plan of a training, decided and checked once: the loss and its reason, the stages, what its cache must hold.

Without `train.stages` there is one stage. Each has its own length, loss, learning rates and frozen parameters, so its
own optimizer and scheduler; the model walks through them all.
"""

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from kdkit.config.language import Config
from kdkit.config.losses import Auto, LossSettings
from kdkit.config.teachers import MemberConfig, TeachersConfig
from kdkit.config.training import OnPolicy
from kdkit.data.prepare import PreparedData
from kdkit.data.problems import TRAIN, find_levels
from kdkit.distill.choose_loss import (
    check_cached_loss,
    check_temperature_is_taken,
    check_tokenizers,
    choose_loss,
    name_events,
)
from kdkit.distill.layer_terms import active_parts, check_layers
from kdkit.distill.student import check_start, check_student_lengths
from kdkit.errors import UserError
from kdkit.machine.hub import is_local_path
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint
from kdkit.teachers.cache import describe_cache, hash_tokenizer
from kdkit.teachers.prepare import check_teacher_lengths, has_layers, identify_teacher
from kdkit.training.options.batch_plan import steps_for
from kdkit.training.options.bundle import check_options
from kdkit.training.stages import TrainingStage


@dataclass(frozen=True)
class Stage(TrainingStage):
    """One stage of a distillation, complete."""

    loss: LossSettings
    kd_ratio: float
    temperature: float
    on_policy: OnPolicy | None = None
    num_sequences: int | None = None
    """Training sequences that it reads, where whole passes were asked for; None: as many as the steps take."""
    micro_batch_tokens: int | None = None
    """See `train.micro_batch_tokens`; None too where the student writes: nobody knows before how long its texts are."""

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher has a part in it; on the student's own text it has, whatever the ratio."""
        return self.kd_ratio > 0.0 or self.on_policy is not None


@dataclass(frozen=True)
class TrainingPlan:
    """All that a training of a run follows from; what it holds has been checked."""

    session: Session[Config]
    data: PreparedData
    loss: LossSettings
    """Of the run; a stage may have its own."""
    reason: str
    """Why this loss."""
    stages: list[Stage]
    members: tuple["Member", ...] = ()
    """Several teachers, each with a plan of its own; the loss above and those of the stages are the first one's."""

    @property
    def answer_precision(self) -> str:
        """Precision in which the teacher answers: that of the run where a router is trained, fp32 for an average.

        A teacher that is no model of transformers computes as it does, and hands over fp32.
        """
        hardware, config = self.session.hardware, self.session.config
        if config.teacher.average_decay is not None or not has_layers(config.teacher.path):
            return "fp32"
        return hardware.precision if config.router.kind != "none" else hardware.answer_precision

    @cached_property
    def cache_header(self) -> dict[str, Any]:
        """What the header of a cache of this run must hold, and the settings by which it can be made again.

        Raises:
            UserError: a loss that a cache cannot serve; see also `identify_teacher`.
        """
        config = self.session.config
        check_cached_loss(self.loss, config.cache)
        values = config.model_dump()
        settings = {name: values[name] for name in ("seed", "data", "teacher", "student")}
        temperature, *more = config.answer_temperatures
        settings["distill"] = {"loss": values["distill"]["loss"], "temperature": temperature}
        apart = ("enabled", "file", "temperatures")
        settings["cache"] = {name: value for name, value in values["cache"].items() if name not in apart}
        settings["cache"] |= {"temperatures": more} if more else {}
        settings["evaluate"] = {"batch_size": config.evaluate.batch_size}
        settings["train"] = {"device": config.train.device, "precision": config.train.precision}
        if config.teachers.members:  # the text is cut for all of them
            settings["teachers"] = values["teachers"]
        identity = identify_teacher(self.session, self.data)
        header = describe_cache(config, self.data, identity, name_events(self.loss, self.data), self.answer_precision)
        return header | {"data": self.data.manifest["corpus"]["source"], "config": settings}

    @cached_property
    def curriculum_key(self) -> str:
        """Fingerprint of what makes sequences easy or hard; empty where they are shuffled."""
        kind = self.session.config.train.curriculum
        if kind == "none":
            return ""
        judge = [] if kind == "level" else [identify_teacher(self.session, self.data)]
        return fingerprint(kind, self.data.key, *judge)


@dataclass(frozen=True)
class Member:
    """One of several teachers."""

    settings: MemberConfig
    plan: TrainingPlan
    """What would be trained if it were the only teacher, on the same windows; its run folder lies inside the run's."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.settings.name


def plan_training(session: Session[Config], data: PreparedData) -> TrainingPlan:
    """Decide what a run trains, and check that it can be trained.

    Raises:
        UserError: see the checks that it calls.
    """
    config = session.config
    if data.members:
        return _plan_members(session, data)
    check_start(config)
    check_capabilities(config)
    check_options(config.train, data.is_chat)
    if config.train.curriculum == "level":
        find_levels(data.problems(TRAIN))
    check_layers(config)
    loss, reason = choose_loss(config, data)
    stages = plan_stages(config, data, loss)
    check_student_lengths(config, data)
    if not config.cache.enabled or is_local_path(config.teacher.path):  # else it may not even be reachable
        check_teacher_lengths(config, data)
    return TrainingPlan(session, data, loss, reason, stages)


def check_capabilities(config: Config) -> None:
    """Refuse what needs the layers or the weights of a teacher that gives predictions only.

    Raises:
        UserError: naming the teacher and what asks for more.
    """
    if has_layers(config.teacher.path):
        return
    parts = [name for name, weight in config.distill.weights if weight > 0.0 and name != "logits"]
    wants = {
        f"distill.weights.{parts[0] if parts else ''}": ("hidden states and attention", bool(parts), "0"),
        "distill.start_from_teacher": ("embeddings", config.distill.start_from_teacher, "false"),
        "student.from_teacher": ("weights of transformers", config.student.from_teacher is not None, "null"),
        "router.kind": ("experts, layers or states to route by", config.router.kind != "none", "none"),
    }
    for key, (what, is_wanted, without) in wants.items():
        if is_wanted:
            raise UserError(
                f"{key}: expected a teacher with {what}, got teacher.path={config.teacher.path!r}, which gives "
                f"predictions only; set {key}={without}, or teacher.path to a model of transformers"
            )


def view_of(session: Session[Config], data: PreparedData, name: str = "") -> tuple[Session[Config], PreparedData]:
    """Return a run as one of its teachers sees it, with the same run folder; unchanged where there is only one.

    Args:
        name: of the teacher; empty: the first.

    Raises:
        UserError: no teacher of that name.
    """
    if not data.members:
        return session, data
    name = name or next(iter(data.members))
    return replace(session, config=session.config.view(name)), data.members[name]


def own_view_of(session: Session[Config], data: PreparedData, name: str) -> tuple[Session[Config], PreparedData]:
    """Return what `view_of` does, with a run folder of the teacher's own inside the run's: `teachers/NAME`."""
    view, own = view_of(session, data, name)
    return replace(view, run=replace(session.run, path=session.run.path / "teachers" / name)), own


def _plan_members(session: Session[Config], data: PreparedData) -> TrainingPlan:
    """Plan the training with several teachers: one plan for each, of the same stages.

    Raises:
        UserError: an on-policy stage; see also `plan_training`, with the teacher's name before the message.
    """
    config = session.config
    if on_policy := [stage.name for stage in config.train.stages if stage.on_policy is not None]:
        raise UserError(
            f"train.stages: expected stages on the text of the corpus with teachers.members, got the on-policy stage "
            f"{on_policy[0]!r}, whose text no teacher has been asked about; set teachers.only to the one that judges it"
        )
    members = []
    for member in config.teachers.members:
        try:
            plan = plan_training(*own_view_of(session, data, member.name))
        except UserError as error:
            raise UserError(f"teachers.members.{member.name}: {error}") from None
        members.append(Member(member, plan))
    first = members[0].plan
    reason = "; ".join(f"{member.name}: {member.plan.loss.name}, {member.plan.reason}" for member in members)
    check_combination(config.teachers, members)
    return TrainingPlan(session, data, first.loss, reason, first.stages, tuple(members))


def check_combination(settings: TeachersConfig, members: list[Member]) -> None:
    """Refuse teachers whose answers cannot be combined as asked for.

    Raises:
        UserError: a mixture of distributions over different tokens or text, of caches, or under different losses.
    """
    if settings.combine != "averaged":
        return
    first, key = members[0], hash_tokenizer(members[0].plan.data.teacher_tokenizer)
    for member in members:
        name = f"teachers.members.{member.name}"
        if hash_tokenizer(member.plan.data.teacher_tokenizer) != key:
            raise UserError(
                "teachers.combine: expected one tokenizer for 'averaged', a mean of distributions over its tokens, "
                f"got another for {member.name} than for {first.name}; set teachers.combine=sum (each its own loss)"
            )
        tokenizers = [each.plan.data.teacher_tokenizer for each in (member, first)]
        if member.plan.data.is_chat and tokenizers[0].chat_template != tokenizers[1].chat_template:
            raise UserError(
                f"{name}.chat_template: expected that of {first.name} for teachers.combine=averaged, a mean at every "
                "place of one text, got another; give both one, or set teachers.combine=sum (each reads its own)"
            )
        if member.plan.session.config.cache.enabled:
            raise UserError(
                f"{name}: expected a teacher in memory for teachers.combine=averaged, got cached answers, of which "
                "each keeps other tokens; set cache.enabled=false, or teachers.combine=sum"
            )
        if member.plan.loss != first.plan.loss:
            raise UserError(
                f"{name}.loss: expected that of {first.name}, {first.plan.loss.name!r}, for teachers.combine=averaged, "
                f"got {member.plan.loss.name!r}; leave out the losses of single teachers"
            )
        if active_parts(member.plan.session.config.distill.weights):
            raise UserError(
                "distill.weights: expected logits only with teachers.combine=averaged, which has no hidden states of "
                "its own, got other parts; set teachers.combine=sum"
            )


def plan_stages(config: Config, data: PreparedData, loss: LossSettings) -> list[Stage]:
    """Resolve the stages of a configuration.

    Args:
        loss: of the run, from `choose_loss`.

    Raises:
        UserError: a loss that does not fit the tokenizers, the cache or the temperature; an on-policy stage
            without a teacher in memory.
    """
    train, distill = config.train, config.distill
    whole = Stage(
        name="",
        steps=train.max_steps or steps_of_epochs(config, data, train.num_train_epochs),
        first_step=0,
        num_sequences=None if train.max_steps else sequences_of_epochs(data, train.num_train_epochs),
        learning_rate=train.learning_rate,
        rules=train.parameter_lr_multipliers,
        loss=loss,
        kd_ratio=distill.kd_ratio,
        temperature=distill.temperature,
        micro_batch_tokens=train.micro_batch_tokens,
    )
    stages: list[Stage] = []
    for settings in train.stages:
        stage = Stage(
            name=settings.name,
            steps=settings.max_steps or steps_of_epochs(config, data, settings.num_train_epochs),
            first_step=sum(stage.steps for stage in stages),
            num_sequences=None if settings.max_steps else sequences_of_epochs(data, settings.num_train_epochs),
            learning_rate=settings.learning_rate or whole.learning_rate,
            rules=whole.rules if settings.parameter_lr_multipliers is None else settings.parameter_lr_multipliers,
            loss=loss if settings.loss is None or isinstance(settings.loss, Auto) else settings.loss,
            kd_ratio=whole.kd_ratio if settings.kd_ratio is None else settings.kd_ratio,
            temperature=settings.temperature or whole.temperature,
            on_policy=settings.on_policy,
            micro_batch_tokens=train.micro_batch_tokens if settings.on_policy is None else None,
        )
        stages.append(stage)
    for stage in stages or [whole]:
        if stage.asks_teacher:
            _check(stage, config, data, loss)
    return stages or [whole]


def _check(stage: Stage, config: Config, data: PreparedData, loss: LossSettings) -> None:
    """Find what cannot work before anything is trained."""
    check_tokenizers(stage.loss, data)
    check_temperature_is_taken(stage.loss, stage.temperature)
    if not config.cache.enabled:
        return
    check_cached_loss(stage.loss, config.cache)
    if config.cache.mode == "sampled" and stage.temperature != config.distill.temperature:
        raise UserError(
            f"train.stages: expected distill.temperature, {config.distill.temperature:g}, at which the cached answers "
            f"are drawn, got {stage.temperature:g} in stage {stage.name!r}; set cache.mode=top_k, or one temperature"
        )
    if stage.on_policy is not None:
        raise UserError(
            f"train.stages: expected a teacher in memory for the on-policy stage {stage.name!r}, got a cache, which "
            "cannot judge new text; set cache.enabled=false"
        )
    kept, compared = (name_events(each, data) for each in (loss, stage.loss))
    if kept != compared:
        raise UserError(
            f"train.stages: expected losses that compare {kept}, which the cache holds, got {stage.loss.name!r} in "
            f"stage {stage.name!r}, which compares {compared}; set cache.enabled=false, or use one kind of loss"
        )


def stretch(stages: list[Stage], total_steps: int) -> list[Stage]:
    """Give the stages other lengths that come to a total, in the old proportions."""
    before = sum(stage.steps for stage in stages)
    ends = [round((stage.first_step + stage.steps) * total_steps / before) for stage in stages]
    stretched = [
        # where passes were whole, every step that was added reads as much as it can
        replace(s, first_step=a, steps=b - a, num_sequences=s.num_sequences and sys.maxsize)
        for s, a, b in zip(stages, [0, *ends[:-1]], ends, strict=True)
    ]
    return [stage for stage in stretched if stage.steps]


def steps_of_epochs(config: Config, data: PreparedData, epochs: float) -> int:
    """Return the optimizer steps of some passes over the training sequences, the last step perhaps a small one."""
    return steps_for(config.train, sequences_of_epochs(data, epochs))


def sequences_of_epochs(data: PreparedData, epochs: float) -> int:
    """Return the training sequences that some passes read."""
    return max(1, round(epochs * len(data.train)))
