"""TrainingArguments of a training, where its last checkpoint is, and how one appears whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from transformers import TrainingArguments

from kdkit.config.language import TrainConfig
from kdkit.machine.hardware import Hardware
from kdkit.runs.disk import check_room, remove_folder, sync_folder
from kdkit.training.options.schedules import schedule_options

CHECKPOINT_BYTES = {"adamw": 12, "adamw_8bit": 12, "muon": 8}
"""Of a parameter in a checkpoint, by the optimizer: itself and what is remembered of its gradients, in fp32 (in 8 bits
no more than that: embeddings and head keep all of it)."""
PARTIAL = ".partial"
"""Folder beside the checkpoints in which one is written."""


def make_training_arguments(
    train: TrainConfig,
    hardware: Hardware,
    output_dir: Path,
    *,
    max_steps: int,
    seed: int,
    learning_rate: float | None = None,
    whole_steps: bool = False,
) -> TrainingArguments:
    """Translate the configuration into Trainer's arguments: warm-up, schedule, clipping, autocast.

    Args:
        output_dir: folder for checkpoints.
        max_steps: optimizer steps.
        seed: seed of the data order and of dropout.
        learning_rate: peak; None: that of the configuration.
        whole_steps: give Trainer all sequences of a step as one batch, which `train.micro_batch_tokens` cuts.
    """
    size, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=size * accumulation if whole_steps else size,
        gradient_accumulation_steps=1 if whole_steps else accumulation,
        max_steps=max_steps,
        learning_rate=learning_rate or train.learning_rate,
        weight_decay=train.weight_decay,
        adam_beta1=train.adam_betas[0],
        adam_beta2=train.adam_betas[1],
        warmup_steps=train.warmup_steps,
        lr_scheduler_type=train.lr_schedule,
        lr_scheduler_kwargs=schedule_options(train, max_steps),
        max_grad_norm=train.max_grad_norm,
        fp16=hardware.precision == "fp16",
        bf16=hardware.precision == "bf16",
        use_cpu=hardware.device == "cpu",
        seed=seed,
        logging_steps=train.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=train.save_every,
        save_total_limit=None,  # see `whole_checkpoint`
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=hardware.device != "cpu",
    )
    # two visible GPUs in one process would mean nn.DataParallel; the second one is the teacher's
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def check_checkpoint_room(
    folder: Path,
    parameters: int,
    total_steps: int,
    save_every: int,
    optimizer: str = "adamw",
    key: str = "--runs-dir",
) -> None:
    """Find out before a training that its checkpoints have no room: the new one is written beside the old one.

    Args:
        parameters: of the model.
        optimizer: one of `CHECKPOINT_BYTES`.
        key: the setting that names the folder.

    Raises:
        UserError: the disk is too full.
    """
    number = min(2, -(-total_steps // save_every))
    what = f"{number} checkpoint{'s' if number > 1 else ''} of {parameters:,} parameters"
    check_room(folder, key, number * CHECKPOINT_BYTES[optimizer] * parameters, what)


def last_checkpoint(output_dir: Path) -> str | None:
    """Return the newest complete checkpoint in a folder, if there is one.

    A run of an older kdkit that was stopped while it saved left a newer one without `trainer_state.json`, which Trainer
    writes last.
    """
    complete = [str(path.parent) for path in output_dir.glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=checkpoint_step, default=None)


def checkpoint_step(checkpoint: str) -> int:
    """Return the optimizer steps behind a checkpoint: its folder's name ends in them."""
    return int(checkpoint.rpartition("-")[2])


@contextmanager
def whole_checkpoint(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Move the checkpoint that is written to `PARTIAL` meanwhile to its place, once it is on the disk.

    Trainer itself writes in place, and whoever is killed meanwhile leaves files of any length; called by all processes.

    Args:
        folder: of the training's checkpoints; the last one is kept.
    """
    partial = folder / PARTIAL
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        yield
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _take_place(next(partial.iterdir()), folder)
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)


def _take_place(written: Path, folder: Path) -> None:
    """Move a checkpoint to its place, and remove all others."""
    sync_folder(written)
    remove_folder(folder / written.name)  # of a step that was saved before the training went on from an earlier one
    written.rename(folder / written.name)
    for other in folder.glob("checkpoint-*"):
        if other.name != written.name:
            remove_folder(other)
