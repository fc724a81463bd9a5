"""Training a causal LM on windows: the built teacher, both baselines, and the base of distillation.

Conventions that every loss keeps: logits at position i predict token i + 1, shifted once, here;
fp32 inside; values per token (`[B, S]`, nats), reduced once by the tokens of the whole optimizer step.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from kdkit.config.training import ParameterRule
from kdkit.data.batches import WindowCollator
from kdkit.losses.chunked.engine import chunked_loss, cross_entropy_chunk, even_chunks, rows_per_chunk
from kdkit.losses.cross_entropy import IGNORE_INDEX, count_items, shift_labels
from kdkit.machine.interrupt import StopRequest
from kdkit.models.heads import find_head, hidden_of_wrapped
from kdkit.models.loading import no_bar, num_experts
from kdkit.models.lora import FROZEN, has_adapters
from kdkit.models.saved import load_checkpoint, load_tensors
from kdkit.runs.disk import writing
from kdkit.training.arguments import PARTIAL, whole_checkpoint
from kdkit.training.masking import Masking
from kdkit.training.micro_batch import load_parts, save_parts
from kdkit.training.options.batch_plan import PieceCollator, PlannedBatches, PlannedRows
from kdkit.training.options.bundle import OPTIONS_FILE, TrainingOptions
from kdkit.training.options.schedules import MoveWeightDecay
from kdkit.training.options.token_batches import StepCollator
from kdkit.training.order import EvenBatches
from kdkit.training.parameters import format_table, group_parameters
from kdkit.training.read_ahead import ReadAhead
from kdkit.training.steps import SafeStepTrainer

COUNTS_FILE = "counts.json"
"""In a checkpoint: what the training has counted so far."""


def group_by_rules(
    model: torch.nn.Module, rules: list[ParameterRule], learning_rate: float, weight_decay: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sort a model's parameters into optimizer groups; no decay on biases and norms. See `group_parameters`.

    Beside adapters nothing else learns, unless a rule says so.
    """
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    rules = [*rules, ParameterRule(pattern=FROZEN, lr_multiplier=0.0)] if has_adapters(model) else rules
    return group_parameters(model.named_parameters(), decayed, rules, learning_rate, weight_decay)


class StopAtStep(TrainerCallback):
    """Ends a training behind the step in which it is asked to stop, with that step saved.

    It is logged only where its turn has come: the checkpoint keeps what the next line needs of it. Nothing ends behind
    the last step: what follows then keeps more than a checkpoint. Add it behind all other callbacks.
    """

    def __init__(self, request: StopRequest, saves_last: bool = True):
        """Prepare to stop.

        Args:
            saves_last: whether the last step gets a checkpoint; Trainer goes on from one only by another step.
        """
        self.request, self.saves_last = request, saves_last

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop if that was asked for, of several processes the first."""
        wanted = self.request.look()
        if args.world_size > 1:
            asked = torch.tensor([wanted, self.request.is_out_of_time], dtype=torch.uint8, device=args.device)
            torch.distributed.broadcast(asked, 0)
            wanted, self.request.is_out_of_time = map(bool, asked.tolist())
            self.request.wanted = wanted
        if state.global_step >= state.max_steps:
            control.should_save = control.should_save and self.saves_last
        elif wanted:
            control.should_save = control.should_training_stop = True


class LanguageModelTrainer(SafeStepTrainer):
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
        masking: Masking | None = None,
    ):
        """Prepare the training.

        Args:
            vocab_size: true size of the model's tokenizer; rows of its head beyond it are left out.
            rules: learning rates by parameter name; see `group_parameters`.
            order: row numbers of the windows in the order in which they are read; None: shuffled anew in
                every epoch.
            masking: what is hidden of every sequence; None: nothing.
        """
        dataset = range(len(collator.windows)) if order is None else order
        # which parameters a step leaves out is looked for where some may be: experts that get no token
        args.ddp_find_unused_parameters = num_experts(model.config) > 0
        super().__init__(model=model, args=args, train_dataset=dataset, data_collator=collator)
        self.rules = rules or []
        self.masking = masking
        self.is_ordered = order is not None
        self.parameter_table: list[dict[str, Any]] = []
        self.head = find_head(model, vocab_size)
        self.compute_dtype = torch.float16 if args.fp16 else torch.bfloat16 if args.bf16 else torch.float32
        self.remove_callback(PrinterCallback)
        # compute_loss divides by the tokens of the whole step itself; with both names Trainer does not divide again
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self._counted_step = -1
        self._ahead: ReadAhead[dict[str, Any]] | None = None
        self.options: TrainingOptions | None = None
        self._all_hidden: torch.Tensor | None = None

    def use(self, options: TrainingOptions, micro_batch_tokens: int | None = None) -> None:
        """Train with more than the plain recipe; called before `train`, and before other callbacks are added.

        A plan of batches takes the place of the order, and reads it to its end.

        Args:
            micro_batch_tokens: cut steps by tokens; the arguments' batch is then a whole step.
        """
        self.options, self.micro_batch_tokens = options, micro_batch_tokens
        if options.further is not None:
            options.further.to(self.args.device)
        if options.average is not None:
            self.add_callback(options.average)
        if options.train.weight_decay_end is not None:
            self.add_callback(MoveWeightDecay(options.train.weight_decay_end / options.train.weight_decay))
        if (plan := options.plan_of(self.args.max_steps, len(self.train_dataset))) is not None:
            self.train_dataset = PlannedRows(self.train_dataset, plan)

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
        """Return what the head reads at some positions of the flattened batch, `[rows, H]`."""
        input_ids = inputs.get("masked_input_ids", inputs["input_ids"])
        hidden = hidden_of_wrapped(model, self.model, input_ids).flatten(0, 1)
        output = self.model.get_output_embeddings()
        if output.weight is not self.head.weight:  # FSDP puts its parts together for the pass, in another tensor
            self.head = replace(self.head, weight=output.weight, bias=getattr(output, "bias", None))
        self._all_hidden = hidden if self.options is not None and self.options.further is not None else None
        # by index: the backward pass of a boolean mask is several times slower on a CPU
        return hidden.index_select(0, rows).to(self.compute_dtype)

    def group_parameters(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the optimizer's groups and the table of them; see `group_by_rules`."""
        return group_by_rules(self.model, self.rules, self.args.learning_rate, self.args.weight_decay)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Collect the micro-batches of a step out of those that a thread has made; Trainer's hook."""
        if self._ahead is None or self._ahead.items is not epoch_iterator:
            self._ahead = ReadAhead(epoch_iterator)
        batches, num_items = super().get_batch_samples(self._ahead, num_batches, device)
        if self.masking is None and self.micro_batch_tokens is None:
            return batches, num_items
        micro_batches = batches if self.micro_batch_tokens is None else batches[0]["micro_batches"]
        if self.masking is not None:
            # seeded by the step, so that a resumed training hides what an uninterrupted one would
            seed = self.args.seed, self.state.global_step, self.args.process_index
            self.masking.apply(micro_batches, seed)
        return batches, self.count_labels(micro_batches, device)

    def count_labels(self, batches: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Count the tokens in the loss of a step, over all processes; int64, a scalar."""
        counts = [(batch["labels"][:, 1:] != IGNORE_INDEX).sum() for batch in batches]
        return self.accelerator.reduce(torch.stack(counts).sum().to(device), reduction="sum")

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer with the learning rates of the rules; Trainer's hook."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups, self.parameter_table = self.group_parameters()
            if self.rules and self.is_world_process_zero():
                print(format_table(self.parameter_table), flush=True)
            if self.options is None:
                self.optimizer = optimizer_class(groups, **options)
            else:
                self.optimizer = self.options.make_optimizer(self.model, groups, optimizer_class, options)
        return self.optimizer

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Give batches by a plan, and several processes those of which no sequence stands in two; Trainer's hook."""
        collate: Any = self.data_collator
        if isinstance(self.train_dataset, PlannedRows):
            batches: torch.utils.data.Sampler = PlannedBatches(self.train_dataset.plan)
            collate = PieceCollator(collate)
        elif self.accelerator.num_processes == 1 and self.micro_batch_tokens is None:
            return super().get_train_dataloader()
        else:
            if self.micro_batch_tokens is not None:
                size = self.options.train.per_device_train_batch_size
                collate = StepCollator(collate, self.micro_batch_tokens, size)
            sampler = self._get_train_sampler(self.train_dataset)
            batches = EvenBatches(sampler, self.args.per_device_train_batch_size, self.accelerator.num_processes)
        pin = self.args.dataloader_pin_memory
        loader = torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=batches, collate_fn=collate, pin_memory=pin
        )
        self.accelerator.dataloader_config.even_batches = False
        return self.accelerator.prepare(loader)

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
        assert not return_outputs, "models are evaluated by kdkit.training.scoring"
        further = self.options.further if self.options is not None else None
        if self._counted_step != self.state.global_step:  # the first micro-batch stands for all of its step
            self._counted_step = self.state.global_step
            own = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
            self.count("tokens", own if num_items_in_batch is None else num_items_in_batch)
            if further is not None:
                further.zero_grad()
        loss, terms = self.compute_step(model, inputs, num_items_in_batch)
        if further is not None:
            hidden = self._all_hidden.to(self.compute_dtype)
            added, more = further.loss_of(hidden, inputs["labels"], self.head, num_items_in_batch)
            loss, terms, self._all_hidden = loss + added, terms | more, None
        for name, value in terms.items():
            self.term_sums[name] = self.term_sums.get(name, 0.0) + value.detach()
        # every process divides by the tokens of all of them, and DDP averages over the processes
        return loss * self.accelerator.num_processes

    def micro_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Compute and differentiate the loss of a micro-batch; average the gradients of what learns beside."""
        loss = super().micro_step(model, inputs, num_items_in_batch)
        if self.options is not None and self.options.further is not None and self.accelerator.sync_gradients:
            self.options.further.average_gradients(self.accelerator)
        return loss

    @property
    def can_cut(self) -> bool:
        """Whether a micro-batch may be cut; not where a plan has put it together."""
        return super().can_cut and not isinstance(self.train_dataset, PlannedRows)

    def forget_gradients(self) -> None:
        """Begin the step anew, for what learns beside the model too."""
        super().forget_gradients()
        if self.options is not None and self.options.further is not None:
            self.options.further.zero_grad()

    def read_counts(self) -> dict[str, float]:
        """Return all that was counted, by its name: `tokens` read, over all processes."""
        self.counts = {name: float(value) for name, value in self.counts.items()}
        return dict(self.counts)

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        """Save a checkpoint; Trainer's hook.

        Raises:
            UserError: the disk does not take it; the one before is kept.
        """
        folder = Path(self.args.output_dir)
        with writing(folder, "--runs-dir"), no_bar(), whole_checkpoint(folder, self.accelerator):
            super()._save_checkpoint(*arguments, **options)

    def _get_output_dir(self, trial: Any = None) -> str:
        """Return where a checkpoint is written, to be moved; Trainer's hook."""
        return str(Path(self.args.output_dir) / PARTIAL)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the counts beside the optimizer; Trainer's hook, called before the checkpoint counts as complete."""
        super()._save_optimizer_and_scheduler(output_dir)
        self.save_unlogged(Path(output_dir))
        if self.args.should_save:
            (Path(output_dir) / COUNTS_FILE).write_text(json.dumps(self.read_counts()))
            save_parts(Path(output_dir), self.parts_of_batch)
            if self.options is not None and self.options.has_state:
                torch.save(self.options.state(), Path(output_dir) / OPTIONS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Load the weights as `from_pretrained` does, or each process its part of them; Trainer's hook."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_checkpoint(self.model, resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the counts beside the optimizer; Trainer's hook."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.parts_of_batch = load_parts(Path(checkpoint))
            self.load_unlogged(Path(checkpoint))
        if checkpoint is not None and (Path(checkpoint) / COUNTS_FILE).is_file():
            self.counts = json.loads((Path(checkpoint) / COUNTS_FILE).read_text())
        if checkpoint is not None and self.options is not None and self.options.has_state:
            self.options.load_state(load_tensors(Path(checkpoint) / OPTIONS_FILE, self.args.device))
