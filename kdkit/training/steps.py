"""Optimizer steps that survive: a batch that does not fit is cut, one whose loss is not a number changes nothing.

Both need to know what the step has added so far, to take it back.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from kdkit.data.batches import WindowCollator
from kdkit.models.saved import load_tensors
from kdkit.runs.messages import note
from kdkit.training.micro_batch import (
    cut_batch,
    even_parts,
    free_memory,
    is_out_of_memory,
    too_large,
    too_many_tokens,
)
from kdkit.training.not_finite import LeftOut, drop_gradients
from kdkit.training.options.token_batches import group_by_length

UNLOGGED_FILE = "unlogged.pt"
"""In a checkpoint: sums over the steps that no line of the log holds yet."""


class SafeStepTrainer(Trainer):
    """`transformers.Trainer` whose steps are made whole, of smaller micro-batches, or not at all.

    `compute_loss` adds the raw terms of a micro-batch to `term_sums`; they are logged as means over the steps made.
    """

    def __init__(self, **arguments: Any):
        """Prepare the training; the arguments are Trainer's."""
        super().__init__(**arguments)
        self.left_out = LeftOut()
        self._tr_loss = torch.tensor(0.0)  # Trainer makes its own when training begins; a step alone needs one too
        self.parts_of_batch = 1
        """Into how many parts every micro-batch is cut, because it did not fit in memory; a stage goes on with the
        number of the one before."""
        self.micro_batch_tokens: int | None = None
        """Tokens of a micro-batch at most; Trainer is then given whole steps, as one batch each."""
        self.term_sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, Any] = {}
        self._steps_in_sums = [0, 0]  # those made, and those left out
        self._before_step: tuple[torch.Tensor, dict[str, torch.Tensor]] | None = None
        self._of_step: list[dict[str, Any]] = []
        self._read_since: Counter[str] = Counter()
        self._logged_tokens = 0.0
        self._unlogged: dict[str, Any] | None = None

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute and differentiate the loss of a micro-batch, or of a whole step; Trainer's hook."""
        self._count_padding(inputs)
        if "micro_batches" not in inputs:
            return self.micro_step(model, inputs, num_items_in_batch)
        *others, last = inputs["micro_batches"]
        for batch in others:  # as Trainer does between micro-batches
            self.accelerator.gradient_state._set_sync_gradients(False)
            with self.accelerator.no_sync(model):
                self._tr_loss += self.micro_step(model, batch, num_items_in_batch)
        self.accelerator.gradient_state._set_sync_gradients(True)
        return self.micro_step(model, last, num_items_in_batch)

    def micro_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Compute and differentiate the loss of a micro-batch."""
        if self._before_step is None:
            self._go_on_with_line()
            self._before_step, self.left_out.rows = (self._tr_loss.clone(), dict(self.term_sums)), []
            self._of_step = []
        self.left_out.rows += inputs.get("windows", [])
        self._of_step.append(inputs)
        try:
            loss = self._parts_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            loss, said = None, str(error).splitlines()[0]
        while loss is None:
            loss, said = self._repeat_smaller(model, num_items_in_batch, said)
        return loss

    @property
    def can_cut(self) -> bool:
        """Whether the loss of a micro-batch is the sum of those of its sequences, whatever they stand beside."""
        return self.accelerator.num_processes == 1 and isinstance(self.data_collator, WindowCollator)

    def forget_gradients(self) -> None:
        """Begin the step anew."""
        drop_gradients(self.optimizer)

    def _parts_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items: Any) -> torch.Tensor:
        """Differentiate a micro-batch, part by part where it did not fit as a whole."""
        if self.parts_of_batch == 1 or not self.can_cut:  # an earlier stage may have had to, where this one cannot
            return super().training_step(model, inputs, num_items)
        parts = cut_batch(inputs, self.data_collator, self._places(inputs))
        return torch.stack([super(SafeStepTrainer, self).training_step(model, p, num_items) for p in parts]).sum()

    def _places(self, inputs: dict[str, Any]) -> list[list[int]]:
        """Return which sequences of a micro-batch stand in each of its parts."""
        if self.micro_batch_tokens is None:
            return even_parts(len(inputs["windows"]), self.parts_of_batch)
        return group_by_length(inputs["lengths"], self.micro_batch_tokens // self.parts_of_batch)

    def _refuse_smaller(self, said: str) -> None:
        """Refuse to cut the step's micro-batches further where that changes the loss, or where nothing is left to cut.

        Raises:
            UserError: naming the setting to change.
        """
        is_single = all(len(places) == 1 for inputs in self._of_step for places in self._places(inputs))
        if self.can_cut and not is_single:
            return
        why = "a single sequence is too much" if is_single else "its loss compares what stands in one"
        if self.micro_batch_tokens is not None:
            raise too_many_tokens(self.micro_batch_tokens, self.data_collator.windows.student_ids.shape[1], said, why)
        raise too_large(self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps, said, why)

    def _repeat_smaller(self, model: torch.nn.Module, num_items: Any, said: str) -> tuple[torch.Tensor | None, str]:
        """Make the step's micro-batches so far again, of half the size: some gradients of the last one may be there.

        Returns:
            The loss of the last one; None, and what was said, if that does not fit either.
        """
        free_memory()
        self._refuse_smaller(said)
        parts = self.parts_of_batch = 2 * self.parts_of_batch
        size, unit = self.args.per_device_train_batch_size, ""
        if self.micro_batch_tokens is not None:
            size, unit = self.micro_batch_tokens, " tokens"
        note(
            f"out of memory at step {self.state.global_step + 1} ({said[:80]}): micro-batches of {-(-size // parts)} "
            f"instead of {-(-2 * size // parts)}{unit} from now on, {parts} times as many; the loss stays the same"
        )
        self.forget_gradients()
        before, terms = self._before_step
        self.term_sums = dict(terms)
        try:
            losses = [self._parts_step(model, inputs, num_items) for inputs in self._of_step]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None, str(error).splitlines()[0]
        self._tr_loss.copy_(before + sum(losses[:-1]))
        return losses[-1], ""

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        """Clip the gradient; leave the step out where it or the loss is not a number; Trainer's hook."""
        norm = super()._clip_grad_norm(model)
        is_finite = bool(torch.isfinite(norm + self._tr_loss))
        if self._before_step is not None and not is_finite:
            before, self.term_sums = self._before_step
            self._tr_loss.copy_(before)
            drop_gradients(self.optimizer)
            self.count("skipped_steps", 1)
        if self.accelerator.scaler is None:  # which finds out by itself
            self.optimizer._is_overflow = not is_finite  # or Trainer would step the schedule; accelerate 1.x reads it
        self.left_out.count(is_finite)
        self._steps_in_sums[not is_finite] += 1
        self._before_step = None
        return norm

    def _count_padding(self, inputs: dict[str, Any]) -> None:
        """Count what the model reads: tokens, with the padding beside them, and with what it would be ungrouped."""
        batches = inputs.get("micro_batches", [inputs])
        padded = sum(batch["input_ids"].numel() for batch in batches)
        read = sum(sum(batch["lengths"]) for batch in batches)
        found = {"read": read, "padded": padded, "padded_ungrouped": inputs.get("ungrouped", padded)}
        self._read_since.update(found)
        for name, value in found.items():
            self.count(name, value)

    def save_unlogged(self, folder: Path) -> None:
        """Keep in a checkpoint what the steps since the last line of the log have added up to; called by all processes.

        Without it the first line of a training that goes on would be of fewer steps than an uninterrupted one's.
        """
        terms = {name: self.accelerator.reduce(value, reduction="mean") for name, value in self.term_sums.items()}
        state = {"loss": self.accelerator.reduce(self._tr_loss, reduction="mean"), "terms": terms}
        state |= {"steps": self._steps_in_sums, "since": self._globalstep_last_logged, "read": dict(self._read_since)}
        state["tokens"] = self._logged_tokens
        if self.args.should_save:
            torch.save(state, folder / UNLOGGED_FILE)

    def load_unlogged(self, folder: Path) -> None:
        """Go on with what `save_unlogged` kept, in the next step: Trainer sets its sums to 0 before it."""
        if (folder / UNLOGGED_FILE).is_file():
            self._unlogged = load_tensors(folder / UNLOGGED_FILE, self.args.device)
            self._logged_tokens = self._unlogged["tokens"]

    def _go_on_with_line(self) -> None:
        """Take up the sums of a checkpoint."""
        if self._unlogged is not None:
            self._tr_loss.copy_(self._unlogged["loss"])
            self.term_sums, self._steps_in_sums = self._unlogged["terms"], self._unlogged["steps"]
            self._globalstep_last_logged = self._unlogged["since"]
            self._read_since.update(self._unlogged["read"])
            self._unlogged = None

    def count(self, name: str, value: torch.Tensor | float) -> None:
        """Add to something that is counted; a tensor stays on its device until somebody reads it."""
        self.counts[name] = self.counts.get(name, 0) + value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log means over the steps since the last line that were not left out, of the raw terms too; Trainer's hook.

        Also the tokens in the loss of these steps, and the padding beside what was read.
        """
        if "loss" in logs:
            made, others = self._steps_in_sums
            if not made:
                del logs["loss"]
            elif others:
                logs["loss"] *= (made + others) / made
            for name, total in self.term_sums.items():
                logs[name] = self.accelerator.reduce(total, reduction="sum").item() / made
            if not math.isfinite(logs.get("grad_norm", 0.0)):
                del logs["grad_norm"]
            self.term_sums, self._steps_in_sums = {}, [0, 0]
            sizes = {"padding_share": "padded"}
            if self.micro_batch_tokens is not None:
                sizes["padding_share_ungrouped"] = "padded_ungrouped"
            since = self._read_since
            logs |= {name: 1.0 - since["read"] / since[size] for name, size in sizes.items() if since[size]}
            since.clear()
            tokens = float(self.counts.get("tokens", 0.0))
            logs["tokens"], self._logged_tokens = tokens - self._logged_tokens, tokens
        super().log(logs, start_time)
