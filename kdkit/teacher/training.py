"""Training a causal LM on windows: the built teacher, both baselines, and the base of distillation.

Conventions that every loss keeps: logits at position i predict token i + 1, shifted once, here;
fp32 inside; values per token (b s, nats), reduced once by the tokens of the whole optimizer step.
"""

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from kdkit.config import TrainConfig
from kdkit.hardware import Hardware
from kdkit.settings import ParameterRule
from kdkit.teacher.batches import IGNORE_INDEX, WindowCollator
from kdkit.teacher.chunked import chunked_loss, cross_entropy_chunk, even_chunks, rows_per_chunk
from kdkit.teacher.heads import find_head, hidden_of_wrapped
from kdkit.teacher.parameters import format_table, group_parameters


def shift_labels(labels: torch.Tensor) -> torch.Tensor:
    """Return what each position predicts: the label of the next one. The only place where anything is shifted.

    The labels move, not the logits, which are v times larger.

    Args:
        labels: b s, not shifted; `IGNORE_INDEX` where nothing is to be predicted.

    Returns:
        Targets, b s: targets[i] = labels[i + 1]; the last position predicts nothing.
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute -log q(target) per token in nats, fp32, b s; 0 where the target is `IGNORE_INDEX`.

    Args:
        logits: b s v, any float dtype.
        targets: b s, from `shift_labels`.
    """
    flat = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return flat.view(targets.shape)


def masked_mean(
    values: torch.Tensor, mask: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Average per-token values over the tokens of the whole optimizer step.

    Args:
        values: b s, per-token values.
        mask: bool, b s, True = counted.
        num_items_in_batch: counted tokens of all micro-batches and processes of the optimizer step;
            None: this batch is the whole step.

    Returns:
        A scalar; 0 with a gradient graph where nothing is counted.
    """
    count = mask.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=values.device)
    # where, not a product: an ignored position may hold inf, and inf * 0 is NaN
    return torch.where(mask, values, 0.0).sum() / count.clamp(min=1)


def count_items(num_rows: int, num_items_in_batch: torch.Tensor | int | None) -> float:
    """Return what a sum is divided by: the tokens of the whole optimizer step, at least 1."""
    return max(float(num_rows if num_items_in_batch is None else num_items_in_batch), 1.0)


def group_by_rules(
    model: torch.nn.Module, rules: list[ParameterRule], learning_rate: float, weight_decay: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sort a model's parameters into optimizer groups; no decay on biases and norms. See `group_parameters`."""
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    return group_parameters(model.named_parameters(), decayed, rules, learning_rate, weight_decay)


class LanguageModelTrainer(Trainer):
    """`transformers.Trainer` on cross-entropy, normalised per optimizer step; logs its terms.

    The logits of a batch never exist at once. Subclasses override `compute_step`. The data set are row
    numbers of windows, the collator does the rest.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        collator: WindowCollator,
        vocab_size: int,
        rules: list[ParameterRule] | None = None,
        order: list[int] | None = None,
    ):
        """Prepare the training.

        Args:
            vocab_size: true size of the model's tokenizer; rows of its head beyond it are left out.
            rules: learning rates by parameter name; see `group_parameters`.
            order: row numbers of the windows in the order in which they are read; None: shuffled anew in
                every epoch.
        """
        dataset = range(len(collator.windows)) if order is None else order
        super().__init__(model=model, args=args, train_dataset=dataset, data_collator=collator)
        self.rules = rules or []
        self.is_ordered = order is not None
        self.parameter_table: list[dict[str, Any]] = []
        self.head = find_head(model, vocab_size)
        self.compute_dtype = torch.float16 if args.fp16 else torch.bfloat16 if args.bf16 else torch.float32
        self.remove_callback(PrinterCallback)
        # compute_loss divides by the tokens of the whole step itself; both names tell Trainer so
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self._term_sums: dict[str, torch.Tensor] = {}
        self._terms_since_step = 0

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a micro-batch, already divided by the step's tokens, and the raw terms to log."""
        targets = shift_labels(inputs["labels"]).flatten()
        rows = (targets != IGNORE_INDEX).nonzero().squeeze(1)
        weights = torch.full((len(rows),), 1.0, device=targets.device) / count_items(len(rows), num_items_in_batch)
        chunks = even_chunks(len(rows), rows_per_chunk(self.head.vocab_size, targets.device))
        loss, _ = chunked_loss(
            self.hidden_rows(model, inputs, rows), self.head, cross_entropy_chunk(targets[rows], weights), chunks
        )
        return loss, {"ce_loss": loss}

    def hidden_rows(self, model: torch.nn.Module, inputs: dict[str, Any], rows: torch.Tensor) -> torch.Tensor:
        """Return what the head reads at some positions of the flattened batch, a h."""
        hidden = hidden_of_wrapped(model, self.model, inputs["input_ids"]).flatten(0, 1)
        # by index: the backward pass of a boolean mask is several times slower on a CPU
        return hidden.index_select(0, rows).to(self.compute_dtype)

    def group_parameters(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the optimizer's groups and the table of them; see `group_by_rules`."""
        return group_by_rules(self.model, self.rules, self.args.learning_rate, self.args.weight_decay)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer with the learning rates of the rules; Trainer's hook."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups, self.parameter_table = self.group_parameters()
            if self.rules and self.is_world_process_zero():
                print(format_table(self.parameter_table), flush=True)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        """Read in the given order, if there is one; Trainer's hook."""
        if self.is_ordered:
            return torch.utils.data.SequentialSampler(self.train_dataset)
        return super()._get_train_sampler(train_dataset)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute the loss and remember its terms; Trainer's hook."""
        assert not return_outputs, "models are evaluated by kdkit.teacher.scoring"
        if not self._term_sums:
            self._terms_since_step = self.state.global_step
        loss, terms = self.compute_step(model, inputs, num_items_in_batch)
        for name, value in terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0.0) + value.detach()
        # every process divides by the tokens of all of them, and DDP averages over the processes
        return loss * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the raw terms, averaged over the steps since the last line, to what Trainer logs."""
        steps = self.state.global_step - self._terms_since_step
        if "loss" in logs and steps > 0:
            for name, total in self._term_sums.items():
                logs[name] = self.accelerator.reduce(total, reduction="sum").item() / steps
            self._term_sums = {}
        super().log(logs, start_time)


def make_training_arguments(
    train: TrainConfig,
    hardware: Hardware,
    output_dir: Path,
    *,
    max_steps: int,
    seed: int,
    learning_rate: float | None = None,
    name: str = "",
) -> TrainingArguments:
    """Translate the configuration into Trainer's arguments: AdamW, warm-up, cosine, autocast.

    Weights & Biases reads its mode and project from the environment, so they are set there.

    Args:
        output_dir: folder for checkpoints.
        max_steps: optimizer steps.
        seed: seed of the data order and of dropout.
        learning_rate: peak; None: that of the configuration.
        name: of the training, for Weights & Biases; empty: the folder's.
    """
    if train.wandb != "disabled":
        os.environ |= {"WANDB_MODE": train.wandb, "WANDB_PROJECT": train.wandb_project}
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=train.per_device_train_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        max_steps=max_steps,
        learning_rate=learning_rate or train.learning_rate,
        weight_decay=train.weight_decay,
        warmup_steps=train.warmup_steps,
        lr_scheduler_type="cosine",
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
        report_to=[] if train.wandb == "disabled" else ["wandb"],
        run_name=name or output_dir.name,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=hardware.device != "cpu",
    )
    # two visible GPUs in one process would mean nn.DataParallel; the second one is the teacher's
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def last_checkpoint(output_dir: Path) -> str | None:
    """Return the newest complete checkpoint in a folder, if there is one.

    A run that is stopped while it saves leaves a newer one without `trainer_state.json`, which Trainer
    writes last.
    """
    complete = [path.parent for path in output_dir.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None
