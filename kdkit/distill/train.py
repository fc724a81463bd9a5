"""The distillation stage: the student, and the same student without a teacher (notebook 03).

The baseline starts from the same weights and sees the same data in the same order for the same number
of steps, with the same stages. Two more take as many steps as fit into the student's wall time: with its
teacher's answers counted, and without, as where answers are used again.
"""

import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from transformers import PreTrainedModel

from kdkit.data.batches import WindowCollator
from kdkit.distill.checkpoints import (
    ANSWERS_REUSED,
    BASELINE,
    EQUAL_TIME,
    STUDENT,
    TrainingResult,
    carried_parts,
    checkpoint_folder,
    curve_windows,
    forget,
    keep_processes,
    load_stage,
    make_progress,
    note_start,
    padding_shares,
    read_result,
    save_stage,
    save_trained,
    saved_step,
    update_results,
)
from kdkit.distill.choose_loss import make_overlap
from kdkit.distill.committee.make import make_committee_trainer
from kdkit.distill.committee.manifest import keep_manifest
from kdkit.distill.committee.members import Committee
from kdkit.distill.committee.parts import CommitteeParts, make_committee_parts
from kdkit.distill.committee.trainer import CommitteeTrainer, TeachersLog
from kdkit.distill.costs import equal_time, measure_head, note_costs, steps_in
from kdkit.distill.curriculum import sequence_order
from kdkit.distill.layer_terms import LayerParts, make_parts
from kdkit.distill.objective import make_objective
from kdkit.distill.on_policy import OnPolicyTrainer
from kdkit.distill.plan import Stage, TrainingPlan, stretch
from kdkit.distill.route_teacher import make_online_teacher
from kdkit.distill.student import START, begin_student
from kdkit.distill.trainer import DistillationTrainer
from kdkit.machine.interrupt import StopRequest, stop_when_saved
from kdkit.runs.messages import note
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.online import CachedTeacher
from kdkit.teachers.router.log import RouterLog
from kdkit.teachers.router.teacher import RoutedTeacher
from kdkit.training.arguments import check_checkpoint_room, last_checkpoint, make_training_arguments
from kdkit.training.masking import make_masking
from kdkit.training.micro_batch import free_memory
from kdkit.training.not_finite import ReportLeftOut
from kdkit.training.options.bundle import TrainingOptions, make_options
from kdkit.training.progress import Progress
from kdkit.training.scoring import score_windows
from kdkit.training.together import joined_processes
from kdkit.training.trainer import LanguageModelTrainer, StopAtStep, group_by_rules

AnyTeacher = TextTeacher | CachedSignals | Committee
"""What `open_teacher` opens."""


def distill(plan: TrainingPlan, teacher: AnyTeacher, resume: bool = False) -> TrainingResult:
    """Train the student with the teacher, or a cache of its predictions, and save it to the run's `student/`.

    Raises:
        UserError: see `make_student`, `make_parts`, `make_online_teacher` and `group_parameters`.
    """
    session = plan.session
    update_results(session.run, {"loss": {"name": plan.loss.name, "reason": plan.reason}})
    if isinstance(teacher, TextTeacher) and session.run.writes:
        windows, batch_size = curve_windows(plan), session.config.evaluate.batch_size
        level = score_windows(teacher.reader(session.hardware.autocast_dtype), windows, "teacher", batch_size)
        update_results(session.run, {"teacher_on_curve": level.bits_per_byte})
    return _train_phase(plan, teacher, STUDENT, plan.stages, resume)


def train_baseline(plan: TrainingPlan, resume: bool = False) -> TrainingResult:
    """Train the same student on cross-entropy alone, for the same steps; saved to `baseline/`."""
    return _train_phase(plan, None, BASELINE, plan.stages, resume)


def train_equal_time_baseline(plan: TrainingPlan, resume: bool = False) -> TrainingResult:
    """Train on cross-entropy alone for as long as student and teacher took; saved to `baseline_equal_time/`.

    The steps follow from the seconds a step that `distill` and `train_baseline` needed in this run.
    """
    steps = joined_processes().agree(steps_in(plan, equal_time(plan).counted))
    return _train_phase(plan, None, EQUAL_TIME, stretch(plan.stages, steps), resume)


def train_reused_baseline(plan: TrainingPlan, resume: bool = False) -> TrainingResult | None:
    """Train on cross-entropy alone for the student's time without its teacher's; saved to `baseline_answers_reused/`.

    None where the answers serve no other training, as a router's, or where nobody knows what they took.
    """
    seconds = equal_time(plan).reused
    if seconds is None:
        if plan.session.run.writes:
            shutil.rmtree(plan.session.run.path / ANSWERS_REUSED, ignore_errors=True)
        return None
    steps = joined_processes().agree(steps_in(plan, seconds))
    return _train_phase(plan, None, ANSWERS_REUSED, stretch(plan.stages, steps), resume)


def make_trainer(
    plan: TrainingPlan,
    stage: Stage,
    student: PreTrainedModel,
    teacher: AnyTeacher | None,
    phase: str = STUDENT,
    parts: LayerParts | CommitteeParts | None = None,
    options: TrainingOptions | None = None,
) -> LanguageModelTrainer:
    """Build the trainer of one stage of a phase; without a teacher it is cross-entropy alone.

    Args:
        parts: those of the phase, from `make_parts`; None: made here.
        options: those of the phase, from `make_options`; None: made here.

    Raises:
        UserError: see `make_parts` and `make_online_teacher`.
    """
    trainer = _choose_trainer(plan, stage, student, teacher, phase, parts)
    trainer.use(options or make_options(plan.session.config.train, student), stage.micro_batch_tokens)
    return trainer


def _choose_trainer(
    plan: TrainingPlan,
    stage: Stage,
    student: PreTrainedModel,
    teacher: AnyTeacher | None,
    phase: str,
    parts: LayerParts | CommitteeParts | None,
) -> LanguageModelTrainer:
    """Build the trainer that a stage and its teacher ask for."""
    session, data, config = plan.session, plan.data, plan.session.config
    arguments = make_training_arguments(
        config.train,
        session.hardware,
        checkpoint_folder(session.run, phase, stage),
        max_steps=stage.steps,
        # stages must not read the sequences in the same order
        seed=config.training_seed + stage.first_step,
        learning_rate=stage.learning_rate,
        whole_steps=stage.micro_batch_tokens is not None,
    )
    order = sequence_order(plan, stage)
    masking = make_masking(config.train.masking, data.student_tokenizer, data.is_chat)
    if isinstance(teacher, Committee) and stage.asks_teacher:
        parts = parts or make_committee_parts(student, teacher)
        return make_committee_trainer(plan, stage, student, teacher, arguments, parts, order, masking)
    if teacher is None or isinstance(teacher, Committee):
        collator, size = WindowCollator(data.train), data.overlap.student_size
        return LanguageModelTrainer(student, arguments, collator, size, stage.rules, order, masking)
    if cached := isinstance(teacher, CachedSignals):
        teacher = teacher.at(stage.temperature)
    objective = make_objective(
        stage.loss,
        data,
        kd_ratio=stage.kd_ratio,
        temperature=stage.temperature,
        device=arguments.device,
        cache=config.cache if cached else None,
        logits_weight=config.distill.weights.logits,
    )
    parts = (parts or make_parts(config, student, teacher)) if stage.asks_teacher else None
    kept = config.cache if cached else None
    overlap = make_overlap(stage.loss, data, arguments.device, config.distill.overlap_top_k, kept)
    shared = {"objective": objective, "parts": parts, "rules": stage.rules, "order": order, "overlap": overlap}
    reads_cache = cached and stage.asks_teacher
    collator = WindowCollator(data.train, with_teacher=True, signals=teacher.read if reads_cache else None)
    if cached:
        source = CachedTeacher(teacher.temperature)
        return DistillationTrainer(student, source, arguments, collator, masking=masking, **shared)
    source = make_online_teacher(session, data, teacher, stage, student.config.hidden_size)
    if stage.on_policy is not None:
        return OnPolicyTrainer(student, source, arguments, collator, data=data, settings=stage.on_policy, **shared)
    return DistillationTrainer(student, source, arguments, collator, masking=masking, **shared)


def _train_phase(
    plan: TrainingPlan, teacher: AnyTeacher | None, phase: str, stages: list[Stage], resume: bool
) -> TrainingResult:
    """Train the stages of a phase, with `resume` from where it was stopped, and save the model.

    Of several processes all call it, and the first one alone writes.

    Raises:
        UserError: it was begun in another number of processes.
        Stopped, SystemExit: by the user, or by the time budget; what was trained is saved.
    """
    config, run, processes = plan.session.config, plan.session.run, joined_processes()
    steps = sum(stage.steps for stage in stages)
    finished, saved = processes.agree((read_result(run, phase), saved_step(run, phase, stages)))
    if isinstance(teacher, Committee):
        keep_manifest(plan, resume=resume and bool(finished or saved))
    if resume and finished and (finished.steps == steps or finished.processes != processes.size):
        note(f"{phase}: trained before, kept")
        return finished
    checkpoints = run.path / "checkpoints" / phase
    if not resume:
        forget(run, phase)
    keep_processes(run, phase, processes.size, saved if resume else 0)
    note_start(phase, saved, steps, resume)
    processes.wait()
    free_memory()  # the models of the phase before refer to each other in circles
    student, parts = _begin(plan, teacher, phase)
    check_checkpoint_room(checkpoints, student.num_parameters(), steps, config.train.save_every, config.train.optimizer)
    tables = _describe_parameters(student, parts, stages, config.train.weight_decay)
    options = make_options(config.train, student)
    progress = make_progress(plan, phase, steps, options.average)
    with stop_when_saved(run, config.train.time_budget_hours) as request, progress.copy or nullcontext():
        totals: Counter[str] = Counter()
        with progress.shown(request):
            for stage in stages:
                totals.update(_train_stage(plan, stage, student, teacher, parts, options, progress, request))
                if stage is not stages[-1]:
                    request.check(f"{phase}: step {stage.first_step + stage.steps} of {steps} is saved")
        save_trained(plan, phase, student, parts, options.averaged)
        result = TrainingResult(
            phase,
            steps,
            seconds := round(progress.seconds, 2),
            round(totals["tokens"]),
            round(totals["skipped_steps"]),
            teacher_seconds=min(seconds, round(totals["teacher_seconds"], 2)),
            teacher_tokens=round(totals["teacher_tokens"]),
            router_seconds=round(totals["router_seconds"], 2),
            router_tokens=round(totals["router_tokens"]),
            processes=processes.size,
            **padding_shares(totals),
        )
        update_results(run, {phase: asdict(result), f"{phase}_parameters": tables})
        note_costs(plan)
        run.set_progress("finished", phase=phase, step=steps, total_steps=steps, seconds=seconds)
        if run.writes:
            shutil.rmtree(checkpoints, ignore_errors=True)
        processes.wait()
        request.check(f"{phase}: its {steps} steps are done and saved")
    return result


def _begin(
    plan: TrainingPlan, teacher: AnyTeacher | None, phase: str
) -> tuple[PreTrainedModel, LayerParts | CommitteeParts | None]:
    """Make the student as it is before its first step, and the parts of its loss; of several teachers the first has a
    part in it.
    """
    config = plan.session.config
    first = teacher.teachers[0] if isinstance(teacher, Committee) else teacher
    of = teacher.members[0].plan if isinstance(teacher, Committee) else plan
    student, facts = begin_student(replace(of.session, run=plan.session.run), of.data, first, phase)
    if facts:
        update_results(plan.session.run, {START: facts})
    if isinstance(teacher, TextTeacher) and follows_student(plan):
        teacher.model.load_state_dict(student.state_dict())  # whatever it has learned in an earlier training
    if isinstance(teacher, Committee):
        return student, make_committee_parts(student, teacher)
    return student, make_parts(config, student, teacher)


def _train_stage(
    plan: TrainingPlan,
    stage: Stage,
    student: PreTrainedModel,
    teacher: AnyTeacher | None,
    parts: LayerParts | CommitteeParts | None,
    options: TrainingOptions,
    progress: Progress,
    request: StopRequest,
) -> dict[str, float]:
    """Train one stage from its checkpoint, if it has one, and return what it counted; nothing if it has ended before.

    Raises:
        Stopped: by the user, at a step that is saved.
    """
    run, phase = plan.session.run, progress.phase
    folder = checkpoint_folder(run, phase, stage)
    average = teacher.model if isinstance(teacher, TextTeacher) and follows_student(plan) else None
    if (counts := load_stage(folder, student, parts, average, stage, options)) is not None:
        return counts
    progress.first_step, progress.routing = stage.first_step, None
    trainer = make_trainer(plan, stage, student, teacher, phase, parts, options)
    trainer.parts_of_batch = carried_parts(folder, stage)
    limit = plan.session.config.train.max_skipped_in_a_row
    trainer.add_callback(ReportLeftOut(run, phase, trainer.left_out, limit, stage.first_step))
    trainer.add_callback(progress)
    if isinstance(trainer, CommitteeTrainer):
        trainer.add_callback(TeachersLog(run, trainer, stage.first_step))
    if isinstance(trainer, DistillationTrainer) and isinstance(trainer.teacher, RoutedTeacher):
        held_out, progress.routing = curve_windows(plan), trainer.teacher.describe
        trainer.add_callback(RouterLog(run, trainer.teacher, stage.first_step, trainer.head, held_out))
    trainer.add_callback(StopAtStep(request))
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    if (step := trainer.state.global_step) < stage.steps:
        request.check(f"{phase}: step {stage.first_step + step} of {progress.total_steps} is saved")
    counts = _read_counts(trainer)
    if stage.first_step + stage.steps < progress.total_steps:
        if run.writes:
            save_stage(folder, student, parts, average, counts, options, trainer.parts_of_batch)
        joined_processes().wait()
    return counts


def follows_student(plan: TrainingPlan) -> bool:
    """Return whether the teacher is an average of the student's weights."""
    return plan.session.config.teacher.average_decay is not None


def _read_counts(trainer: LanguageModelTrainer) -> dict[str, float]:
    """Return what a stage counted, the teacher's head included: its logits are made in the loss, chunk by chunk."""
    counts = trainer.read_counts()
    if isinstance(trainer, DistillationTrainer):
        for head, rows in trainer.head_rows(counts):
            counts["teacher_seconds"] += measure_head(head, rows) if rows else 0.0
    return counts


def _describe_parameters(
    student: PreTrainedModel, parts: LayerParts | CommitteeParts | None, stages: list[Stage], weight_decay: float
) -> list[dict[str, Any]]:
    """Return the parameter tables of all stages, which finds mistakes in a later one before the first is trained."""
    tables = []
    for stage in stages:
        _, table = group_by_rules(student, stage.rules, stage.learning_rate, weight_decay)
        table += parts.group(stage.learning_rate, weight_decay)[1] if parts else []
        tables += [{"stage": stage.name, **row} for row in table]
    student.requires_grad_(True)
    return tables
