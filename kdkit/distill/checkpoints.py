"""What a phase of training leaves on disk: the ends of its stages, its model, and its entry of training.json."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.data.windows import Windows
from kdkit.distill.committee.trainer import TEACHERS
from kdkit.distill.layer_terms import LayerParts
from kdkit.distill.plan import Stage, TrainingPlan
from kdkit.distill.student import START
from kdkit.distill.trainer import AVERAGE_FILE, PARTS_FILE
from kdkit.errors import UserError
from kdkit.machine.tracking.copies import TrainingCopy
from kdkit.models.loading import no_bar
from kdkit.models.lora import has_adapters, merged, save_adapters
from kdkit.models.saved import load_checkpoint, load_tensors
from kdkit.runs.disk import remove_folder, whole_file, whole_folder, writing
from kdkit.runs.folder import Run
from kdkit.runs.messages import note
from kdkit.teachers.router.log import ROUTER
from kdkit.training.arguments import checkpoint_step, last_checkpoint
from kdkit.training.micro_batch import PARTS_OF_BATCH_FILE, load_parts, save_parts
from kdkit.training.options.averaging import WeightAverage
from kdkit.training.options.bundle import OPTIONS_FILE, TrainingOptions
from kdkit.training.progress import Curve, Progress
from kdkit.training.scoring import score_windows
from kdkit.training.together import whole_state
from kdkit.training.trainer import COUNTS_FILE

STUDENT, BASELINE, EQUAL_TIME, ANSWERS_REUSED = "student", "baseline", "baseline_equal_time", "baseline_answers_reused"
"""Phases of training, which are also the folders of the trained models in the run."""

PROJECTIONS_FILE = "student_projections.safetensors"
"""In the run, beside `student/`: what maps the student's hidden states to the teacher's width."""

LAST = "_last"
"""In the run, `PHASE_last/`: the weights of the last step, where those that are saved are an average."""

ADAPTER = "_adapter"
"""In the run, `PHASE_adapter/`: what `student.lora` trained, as peft writes it; the model of PHASE has it in it."""


@dataclass(frozen=True)
class TrainingResult:
    """What one phase of training cost."""

    phase: str
    steps: int
    seconds: float
    """Wall time of the steps, without the learning curve's evaluations."""
    tokens: int
    """Student tokens read, counted."""
    skipped_steps: int
    """Steps left out because loss or gradient was not a number (fp16: also where the loss scale was too large)."""
    teacher_seconds: float = 0.0
    """Part of `seconds` in which a teacher in memory answered."""
    teacher_tokens: int = 0
    """The teacher's tokens that it read for that."""
    router_seconds: float = 0.0
    """Part of `seconds` that the router's own steps took."""
    router_tokens: int = 0
    """The teacher's tokens that these looked at."""
    padding_share: float = 0.0
    """Share of padding in what the student read."""
    processes: int = 1
    """That trained together."""
    padding_share_ungrouped: float = 0.0
    """The same of micro-batches of one size, where `train.micro_batch_tokens` cut the steps otherwise."""


def padding_shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of padding in a `TrainingResult`, from what its trainers counted; 0 of an old build."""
    sizes = {"padding_share": "padded", "padding_share_ungrouped": "padded_ungrouped"}
    return {
        name: round(1.0 - counts["read"] / counts[key], 4) if counts.get(key) else 0.0 for name, key in sizes.items()
    }


def checkpoint_folder(run: Run, phase: str, stage: Stage) -> Path:
    """Return where a stage keeps its checkpoints."""
    folder = run.path / "checkpoints" / phase
    return folder / f"{stage.first_step:06d}-{stage.name}" if stage.name else folder


def saved_step(run: Run, phase: str, stages: list[Stage]) -> int:
    """Return the step from which a phase can go on, over all of its stages; 0: nothing is saved."""
    for stage in stages:
        folder = checkpoint_folder(run, phase, stage)
        if not (folder / "finished").is_dir():
            checkpoint = last_checkpoint(folder)
            return stage.first_step + checkpoint_step(checkpoint) if checkpoint else stage.first_step
    return stages[-1].first_step + stages[-1].steps


def save_stage(
    folder: Path,
    student: PreTrainedModel,
    parts: LayerParts | None,
    average: PreTrainedModel | None,
    counts: dict[str, float],
    options: TrainingOptions | None = None,
    parts_of_batch: int = 1,
) -> None:
    """Keep the weights at the end of a stage, whole or not at all; its checkpoints are no longer needed.

    Args:
        average: a teacher that follows the student; None: there is none.
        parts_of_batch: into how many parts micro-batches were cut, as the next stage will have to.
    """
    with whole_folder(folder / "finished") as partial:
        with no_bar():  # adapters are no part of what transformers knows how to rename
            student.save_pretrained(partial, save_original_format=not has_adapters(student))
        if parts is not None:
            torch.save(parts.state(), partial / PARTS_FILE)
        if average is not None:
            torch.save(average.state_dict(), partial / AVERAGE_FILE)
        if options is not None and options.has_state:
            torch.save(options.state(), partial / OPTIONS_FILE)
        (partial / COUNTS_FILE).write_text(json.dumps(counts))
        save_parts(partial, parts_of_batch)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def load_stage(
    folder: Path,
    student: PreTrainedModel,
    parts: LayerParts | None,
    average: PreTrainedModel | None,
    stage: Stage,
    options: TrainingOptions | None = None,
) -> dict[str, float] | None:
    """Load what a stage ended with into the student, the parts of its loss and its average; None if it has not ended.

    A checkpoint of the last step is such an end: Trainer would take one more step from it.

    Returns:
        What the stage has counted; see `read_counts` of the trainers.
    """
    weights = folder / "finished"
    if not weights.is_dir():
        weights = folder / f"checkpoint-{stage.steps}"
        if last_checkpoint(folder) != str(weights):
            return None
    load_checkpoint(student, weights)
    # a stage without the teacher keeps none
    if parts is not None and (weights / PARTS_FILE).is_file():
        parts.load_state(load_tensors(weights / PARTS_FILE, student.device))
    if average is not None and (weights / AVERAGE_FILE).is_file():
        average.load_state_dict(load_tensors(weights / AVERAGE_FILE, average.device))
    if options is not None and options.has_state:
        options.load_state(load_tensors(weights / OPTIONS_FILE, student.device))
    counts = weights / COUNTS_FILE
    return json.loads(counts.read_text()) if counts.is_file() else {}


def keep_processes(run: Run, phase: str, size: int, saved: int) -> None:
    """Note beside its checkpoints in how many processes a phase is trained.

    Args:
        saved: step from which it goes on; 0: it begins.

    Raises:
        UserError: it goes on from a checkpoint of another number: its steps have read other sequences.
    """
    name = f"checkpoints/{phase}/processes.json"
    before = run.read_json(name)["processes"] if (run.path / name).is_file() else 1
    if saved and before != size:
        begun = "one process" if before == 1 else f"{before} processes"
        how = "without a launcher" if before == 1 else f"by torchrun --nproc_per_node {before}"
        raise UserError(
            f"{phase}: expected {begun}, in which its checkpoint at step {saved} was made, got {size}; start it {how}, "
            "or leave out --resume to begin anew"
        )
    run.write_json(name, {"processes": size})


def curve_windows(plan: TrainingPlan) -> Windows:
    """Return the held-out windows behind every point of a learning curve."""
    return plan.data.evaluation.first(plan.session.config.evaluate.curve_sequences)


def make_progress(plan: TrainingPlan, phase: str, steps: int, average: WeightAverage | None) -> Progress:
    """Prepare the learning curve of a phase; seconds go on from what an interrupted training has logged."""
    config, run = plan.session.config, plan.session.run
    every = config.train.evaluate_every or max(1, steps // 5)
    autocast_dtype = plan.session.hardware.autocast_dtype
    curve = Curve(curve_windows(plan), "student", config.evaluate.batch_size, every, autocast_dtype)
    past = [line["seconds"] for line in run.read_metrics() if line["phase"] == phase]
    beside = (ROUTER, TEACHERS) if phase == STUDENT else ()
    copy = TrainingCopy(run, phase, config.train, config.model_dump(), beside) if run.writes else None
    return Progress(run, phase, curve, steps, seconds=past[-1] if past else 0.0, average=average, copy=copy)


def carried_parts(folder: Path, stage: Stage) -> int:
    """Return into how many parts the stages before cut micro-batches that did not fit; none has fewer than another.

    Args:
        folder: of the stage's checkpoints.
    """
    kept = folder.parent.glob(f"*/*/{PARTS_OF_BATCH_FILE}") if stage.name else ()
    return max((load_parts(file.parent) for file in kept), default=1)


def save_student(
    run: Run,
    phase: str,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    parts: LayerParts | None,
    state: dict[str, Any] | None = None,
) -> None:
    """Save a trained model and its tokenizer to the run's folder PHASE, which appears whole or not at all.

    Adapters are merged into it, and kept beside it in PHASE_adapter.

    Args:
        state: its weights, where it is shared out: see `whole_state`.
    """
    with writing(run.path, "--runs-dir"):
        if has_adapters(student):
            with whole_folder(run.path / f"{phase}{ADAPTER}") as partial:
                save_adapters(student, partial)
            student = merged(student)
        with whole_folder(run.path / phase) as partial, no_bar():
            student.save_pretrained(partial, state_dict=state)
            tokenizer.save_pretrained(partial)
        if parts is not None and len(parts.projections):
            with whole_file(run.path / PROJECTIONS_FILE) as file:
                save_file(parts.projections.state_dict(), file)


def save_trained(
    plan: TrainingPlan,
    phase: str,
    student: PreTrainedModel,
    parts: LayerParts | None,
    averaged: PreTrainedModel | None,
) -> None:
    """Save what a phase has trained; where its weights were averaged, these, and the last ones to PHASE_last."""
    run, data, state = plan.session.run, plan.data, whole_state(student)
    if not run.writes:
        return
    student.requires_grad_(True)  # what a stage has frozen, too
    tokenizer = data.own_student_tokenizer or data.student_tokenizer
    if averaged is not None:
        save_student(run, f"{phase}{LAST}", student, tokenizer, None)
        held_out, size = curve_windows(plan), plan.session.config.evaluate.batch_size
        last, mean = (score_windows(each, held_out, "student", size).bits_per_byte for each in (student, averaged))
        update_results(run, {f"{phase}_average": {"last": last, "averaged": mean}})
        note(f"{phase}: {mean:.4f} bits per byte with averaged weights, {last:.4f} with the last ones ({phase}{LAST})")
        student.load_state_dict(averaged.state_dict())
    save_student(run, phase, student, tokenizer, parts, state)


def read_result(run: Run, phase: str) -> TrainingResult | None:
    """Read what a finished phase cost; None if it has not finished."""
    path = run.path / "training.json"
    values = run.read_json(path.name).get(phase) if path.is_file() else None
    return TrainingResult(**values) if values else None


def forget(run: Run, phase: str) -> None:
    """Remove what an earlier training of a phase left: model, checkpoints, entries of `training.json`.

    One that starts over and is stopped would otherwise leave the old model beside the new one's metrics.
    """
    if not run.writes:
        return
    remove_folder(run.path / "checkpoints" / phase)
    for end in ("", LAST, ADAPTER, f"{LAST}{ADAPTER}"):
        remove_folder(run.path / f"{phase}{end}")
    if (run.path / "training.json").is_file():
        kept = {key: value for key, value in run.read_json("training.json").items() if not _is_of(key, phase)}
        run.write_json("training.json", kept)


def _is_of(key: str, phase: str) -> bool:
    return key in (phase, f"{phase}_parameters", f"{phase}_average") or (key, phase) == (START, STUDENT)


def update_results(run: Run, values: dict[str, Any]) -> None:
    """Add entries to `training.json`: what a phase cost, and the level that the teacher sets."""
    path = run.path / "training.json"
    results = run.read_json(path.name) if path.is_file() else {}
    run.write_json("training.json", results | values)


def note_start(phase: str, saved: int, steps: int, resume: bool) -> None:
    """Say from which step a phase starts, where somebody could expect another one."""
    if resume and saved:
        note(f"{phase}: goes on from step {saved} of {steps}")
    elif resume and phase == STUDENT:
        note(f"{phase}: no checkpoint is there to go on from, so it starts at step 0 of {steps}")
    elif saved:
        note(f"{phase}: starts over and drops the checkpoint at step {saved} (--resume or RESUME = True would go on)")
