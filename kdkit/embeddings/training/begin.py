"""Where a training begins: its projections, whether it goes on from a checkpoint, what an earlier one leaves behind."""

import shutil
from pathlib import Path
from typing import Any

import torch

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.methods.base import SentenceMethod
from kdkit.embeddings.methods.projections import start_projections
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.teacher.answers import CachedTeacher, LiveTeacher
from kdkit.embeddings.training.batches import layer_vectors
from kdkit.embeddings.training.student import own_token_head
from kdkit.embeddings.training.trainer import EmbeddingTrainer
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.runs.messages import note

START_TEXTS = 1024
"""Sentences on which projections are fitted before the first step."""


def start_method(
    method: SentenceMethod,
    student: EmbeddingModel,
    data: SentenceData,
    teacher: CachedTeacher | LiveTeacher,
    config: EmbeddingConfig,
) -> None:
    """Fit a method's projections, if it has some, to the vectors of the first sentences."""
    if any(True for _ in method.parameters()):
        ids = [data.student_tokens[text] for text in range(min(len(data.texts), START_TEXTS))]
        layers = layer_vectors(student, ids, config.evaluate.batch_size)
        start_projections(method.starts(torch.from_numpy(teacher.vectors[: len(ids)]), layers), config.seed)
    if method.late is not None and (own := own_token_head(config)) is not None:
        method.start_from(own)


def forget(run: Run, trainings: dict[str, Any], name: str, folder: Path) -> None:
    """Remove an earlier training: one that starts over and is stopped must not leave it beside its own metrics."""
    if trainings.pop(name, None) is not None:
        run.write_json("training.json", trainings)
    shutil.rmtree(folder, ignore_errors=True)


def go_on(trainer: EmbeddingTrainer, name: str, checkpoint: Path, resume: bool, is_first: bool) -> None:
    """Load a checkpoint if there is one to go on from; say so where somebody could expect something else.

    Several processes start from the same weights, those of the first.

    Raises:
        UserError: they have not read the same checkpoint.
    """
    if resume and checkpoint.is_file():
        trainer.load(checkpoint)
        note(f"{name}: goes on from step {trainer.step} of {trainer.total_steps}")
    elif resume and is_first:
        note(f"{name}: no checkpoint is there to go on from, so it starts at step 0 of {trainer.total_steps}")
    elif checkpoint.is_file():
        note(f"{name}: starts over and drops its checkpoint (--resume or RESUME = True would go on)")
    if (step := trainer.processes.agree(trainer.step)) != trainer.step:
        raise UserError(
            f"{name}: expected the checkpoint of step {step} in every process, got step {trainer.step} from "
            f"{str(checkpoint)!r}; give all machines one folder of runs, or start over without --resume"
        )
    trainer.processes.take_from_first(list(trainer.model.parameters()))
