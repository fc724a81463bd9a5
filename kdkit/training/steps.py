"""Optimizer steps that survive: a batch that does not fit is cut, one whose loss is not a number changes nothing.

Both need to know what the step has added so far, to take it back.
"""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from kdkit.data.batches import WindowCollator
from kdkit.runs.messages import note
from kdkit.training.micro_batch import cut_batch, free_memory, is_out_of_memory, too_large
from kdkit.training.not_finite import LeftOut, drop_gradients

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
        """Into how many parts every micro-batch is cut, because it did not fit in memory."""
        self.term_sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, Any] = {}
        self._steps_in_sums = [0, 0]  # those made, and those left out
        self._before_step: tuple[torch.Tensor, dict[str, torch.Tensor]] | None = None
        self._of_step: list[dict[str, Any]] = []
        self._unlogged: dict[str, Any] | None = None

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute and differentiate the loss of a micro-batch; Trainer's hook."""
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
        if self.parts_of_batch == 1:
            return super().training_step(model, inputs, num_items)
        parts = cut_batch(inputs, self.data_collator, self.parts_of_batch)
        return torch.stack([super(SafeStepTrainer, self).training_step(model, p, num_items) for p in parts]).sum()

    def _repeat_smaller(self, model: torch.nn.Module, num_items: Any, said: str) -> tuple[torch.Tensor | None, str]:
        """Make the step's micro-batches so far again, of half the size: some gradients of the last one may be there.

        Returns:
            The loss of the last one; None, and what was said, if that does not fit either.
        """
        free_memory()
        size, parts = self.args.per_device_train_batch_size, 2 * self.parts_of_batch
        if not self.can_cut or parts > max(size, 1):
            why = "its loss compares what stands in one" if parts <= size else "a single sequence is too much"
            raise too_large(size, self.args.gradient_accumulation_steps, said, why)
        self.parts_of_batch = parts
        note(
            f"out of memory at step {self.state.global_step + 1} ({said[:80]}): micro-batches of {-(-size // parts)} "
            f"instead of {-(-2 * size // parts)} from now on, {parts} times as many; the loss stays the same"
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

    def save_unlogged(self, folder: Path) -> None:
        """Keep in a checkpoint what the steps since the last line of the log have added up to; called by all processes.

        Without it the first line of a training that goes on would be of fewer steps than an uninterrupted one's.
        """
        terms = {name: self.accelerator.reduce(value, reduction="mean") for name, value in self.term_sums.items()}
        state = {"loss": self.accelerator.reduce(self._tr_loss, reduction="mean"), "terms": terms}
        state |= {"steps": self._steps_in_sums, "since": self._globalstep_last_logged}
        if self.args.should_save:
            torch.save(state, folder / UNLOGGED_FILE)

    def load_unlogged(self, folder: Path) -> None:
        """Go on with what `save_unlogged` kept, in the next step: Trainer sets its sums to 0 before it."""
        if (folder / UNLOGGED_FILE).is_file():
            self._unlogged = torch.load(folder / UNLOGGED_FILE, map_location=self.args.device, weights_only=True)

    def _go_on_with_line(self) -> None:
        """Take up the sums of a checkpoint."""
        if self._unlogged is not None:
            self._tr_loss.copy_(self._unlogged["loss"])
            self.term_sums, self._steps_in_sums = self._unlogged["terms"], self._unlogged["steps"]
            self._globalstep_last_logged = self._unlogged["since"]
            self._unlogged = None

    def count(self, name: str, value: torch.Tensor | float) -> None:
        """Add to something that is counted; a tensor stays on its device until somebody reads it."""
        self.counts[name] = self.counts.get(name, 0) + value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log means over the steps since the last line that were not left out, of the raw terms too; Trainer's hook."""
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
        super().log(logs, start_time)
