"""Putting a training with several teachers together."""

from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from kdkit.data.batches import WindowCollator
from kdkit.distill.committee.batches import CommitteeCollator
from kdkit.distill.committee.manifest import describe_committee
from kdkit.distill.committee.members import Committee
from kdkit.distill.committee.parts import CommitteeParts
from kdkit.distill.committee.trainer import CommitteeTrainer, Seat
from kdkit.distill.committee.weights import kinds_in
from kdkit.distill.objective import make_objective
from kdkit.distill.plan import Member, Stage, TrainingPlan
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.online import CachedTeacher, OnlineTeacher, VisitingTeacher
from kdkit.training.masking import Masking


def make_committee_trainer(
    plan: TrainingPlan,
    stage: Stage,
    student: PreTrainedModel,
    committee: Committee,
    arguments: TrainingArguments,
    parts: CommitteeParts | None,
    order: list[int] | None,
    masking: Masking | None = None,
) -> CommitteeTrainer:
    """Build the trainer of one stage.

    Args:
        stage: of the run's plan; each teacher's own plan has its own loss for it.
        order: see `LanguageModelTrainer`.
        masking: see `LanguageModelTrainer`.
    """
    seats, collators = [], []
    for member, teacher in zip(committee.members, committee.teachers, strict=True):
        own = next(each for each in member.plan.stages if each.name == stage.name)
        seat, collator = _seat(member, own, teacher, arguments)
        seats.append(seat)
        collators.append(collator)
    kinds = kinds_in(plan.data, plan.data.train)
    names = plan.data.kinds.names if plan.data.kinds is not None else ("text",)
    options: dict[str, Any] = {"parts": parts, "rules": stage.rules, "order": order, "masking": masking}
    return CommitteeTrainer(
        student,
        seats,
        arguments,
        CommitteeCollator(tuple(collators), committee.shares, kinds, names),
        manifest=describe_committee(plan),
        is_averaged=plan.session.config.teachers.combine == "averaged",
        **options,
    )


def _seat(
    member: Member, stage: Stage, teacher: TextTeacher | CachedSignals, arguments: TrainingArguments
) -> tuple[Seat, WindowCollator]:
    """Prepare one teacher: what answers, its loss, and its reading of the windows."""
    session, data = member.plan.session, member.plan.data
    if cached := isinstance(teacher, CachedSignals):
        teacher = teacher.at(stage.temperature)
    objective = make_objective(
        stage.loss,
        data,
        kd_ratio=stage.kd_ratio,
        temperature=stage.temperature,
        device=arguments.device,
        cache=session.config.cache if cached else None,
        logits_weight=session.config.distill.weights.logits,
    )
    collator = WindowCollator(data.train, with_teacher=True, signals=teacher.read if cached else None)
    if cached:
        source = CachedTeacher(teacher.temperature)
        return Seat(member.name, source, objective), collator
    options = data.overlap.teacher_size, session.hardware.autocast_dtype
    if session.config.teachers.resident == "one" and teacher.has_layers:
        source: OnlineTeacher = VisitingTeacher(teacher.model, *options, session.hardware.teacher_device)
    else:
        source = teacher.online(*options)
    return Seat(member.name, source, objective), collator
