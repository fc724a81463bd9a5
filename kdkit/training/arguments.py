"""TrainingArguments of a training, and where its last checkpoint is."""

from pathlib import Path

from transformers import TrainingArguments

from kdkit.config.language import TrainConfig
from kdkit.machine.hardware import Hardware
from kdkit.runs.disk import check_room
from kdkit.training.options.schedules import schedule_options

CHECKPOINT_BYTES = {"adamw": 12, "muon": 8}
"""Of a parameter in a checkpoint, by the optimizer: itself and what is remembered of its gradients, in fp32."""


def make_training_arguments(
    train: TrainConfig,
    hardware: Hardware,
    output_dir: Path,
    *,
    max_steps: int,
    seed: int,
    learning_rate: float | None = None,
) -> TrainingArguments:
    """Translate the configuration into Trainer's arguments: warm-up, schedule, clipping, autocast.

    Args:
        output_dir: folder for checkpoints.
        max_steps: optimizer steps.
        seed: seed of the data order and of dropout.
        learning_rate: peak; None: that of the configuration.
    """
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=train.per_device_train_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
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
        save_total_limit=1,
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
    folder: Path, parameters: int, total_steps: int, save_every: int, optimizer: str = "adamw"
) -> None:
    """Find out before a training that its checkpoints have no room: the new one is written beside the old one.

    Args:
        parameters: of the model.
        optimizer: one of `CHECKPOINT_BYTES`.

    Raises:
        UserError: the disk is too full.
    """
    number = min(2, -(-total_steps // save_every))
    what = f"{number} checkpoint{'s' if number > 1 else ''} of {parameters:,} parameters"
    check_room(folder, "--runs-dir", number * CHECKPOINT_BYTES[optimizer] * parameters, what)


def last_checkpoint(output_dir: Path) -> str | None:
    """Return the newest complete checkpoint in a folder, if there is one.

    A run that is stopped while it saves leaves a newer one without `trainer_state.json`, which Trainer
    writes last.
    """
    complete = [str(path.parent) for path in output_dir.glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=checkpoint_step, default=None)


def checkpoint_step(checkpoint: str) -> int:
    """Return the optimizer steps behind a checkpoint: its folder's name ends in them."""
    return int(checkpoint.rpartition("-")[2])
