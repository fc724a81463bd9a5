"""The training loop of embedding distillation: stages, mixed precision, two-pass steps, checkpoints.

`transformers.Trainer` makes one backward pass per micro-batch; a sharpness-aware step needs all micro-batches of an
optimizer step again, at other weights, with the same dropout. Every optimizer step seeds its dropout by its number: the
second pass then repeats the first, and a training that goes on repeats one that was never stopped.
"""

import math
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import get_scheduler

from kdkit.config.embeddings import REDUCE, EmbeddingConfig, EmbeddingStage
from kdkit.config.training import ParameterRule
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.methods.base import BatchViews, SentenceMethod
from kdkit.embeddings.methods.late_interaction import LateViews
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.teacher.answers import CachedTeacher, LiveTeacher
from kdkit.embeddings.teacher.lists import RankingLists
from kdkit.embeddings.training.batches import Order, make_views
from kdkit.embeddings.training.late_batches import make_late_views
from kdkit.embeddings.training.sharpness import all_finite, climb, return_to
from kdkit.errors import UserError
from kdkit.machine.hardware import Hardware
from kdkit.machine.interrupt import StopRequest
from kdkit.runs.disk import whole_file, writing
from kdkit.training.micro_batch import is_out_of_memory, too_large
from kdkit.training.not_finite import LeftOut
from kdkit.training.parameters import format_table, group_parameters
from kdkit.training.stages import TrainingStage
from kdkit.training.together import Processes

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class PlannedEmbeddingStage(TrainingStage):
    """A stage of an embedding distillation."""

    small_widths: bool
    """Whether smaller widths are trained, where the method has some."""


@dataclass
class EmbeddingTrainer:
    """One training of a student by one method; `train` runs it to its end, or from its checkpoint."""

    config: EmbeddingConfig
    student: EmbeddingModel
    method: SentenceMethod
    data: SentenceData
    teacher: CachedTeacher | LiveTeacher
    hardware: Hardware
    order: Order
    """Micro-batches of the training."""
    stages: list[PlannedEmbeddingStage]
    """All of the training, in their order."""
    teacher_words: torch.Tensor | None = None
    """The teacher's word embeddings, where the method needs them."""
    lists: RankingLists | None = None
    """Documents of every training row, where the method needs them."""
    processes: Processes = Processes()  # noqa: RUF009 - it cannot be changed
    """Those that train together; the first one keeps the checkpoints."""
    step: int = 0
    """Optimizer steps done, skipped ones included."""
    skipped_steps: int = 0
    """Steps without an update, because loss or gradient was not a number (fp16: the loss scale was too large)."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Those of them that came last."""
    seconds: float = 0.0
    """Wall time of the steps."""
    _sums: dict[str, tuple[torch.Tensor, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        device = self.hardware.device
        self.model = nn.ModuleDict({"student": self.student, "method": self.method}).to(device)
        self.steps_per_epoch = self.order.batches_per_epoch / self.config.train.gradient_accumulation_steps
        self.total_steps = sum(stage.steps for stage in self.stages)
        kind = torch.device(device).type
        self.scaler = torch.amp.GradScaler(kind, enabled=self.hardware.precision == "fp16")
        dtype = self.hardware.autocast_dtype
        self._autocast = (lambda: torch.autocast(kind, dtype)) if dtype is not None else nullcontext
        self._stage: PlannedEmbeddingStage | None = None
        self._frozen: list[nn.Module] = []

    def train(self, on_step: OnStep, checkpoint: Path, request: StopRequest) -> None:
        """Run all steps that are left, or those until it is asked to stop, of several processes the first.

        Args:
            on_step: called after every step with its number and, every `log_every` steps, what is to be logged;
                its time does not count.
            checkpoint: file that is written every `save_every` steps, and at the step where the training is stopped.
            request: to stop.

        Raises:
            UserError: a micro-batch does not fit in memory.
        """
        is_stopped = False
        while self.step < self.total_steps and not is_stopped:
            self._enter_stage()
            start = time.monotonic()
            try:
                self.train_step()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                train = self.config.train
                why = "its loss compares what stands in one, so that smaller ones are another training"
                size, said = train.per_device_train_batch_size, str(error).splitlines()[0]
                raise too_large(size, train.gradient_accumulation_steps, said, why) from error
            self.seconds += time.monotonic() - start
            is_stopped = self.processes.agree(request.look())
            logs = self._read_logs() if self._is_due() else {}
            on_step(self.step, logs)
            is_due = self.step % self.config.train.save_every == 0 or is_stopped
            if is_due and self.processes.is_first:
                self.save(checkpoint)  # behind the log: a training that goes on from here has written it

    def train_step(self) -> None:
        """Make one optimizer step of all its micro-batches, by one pass or, with SAM, two."""
        self._set_modes()
        before, self.left_out.rows = dict(self._sums), []
        self._backward(remember=True)
        sharpness = self.method.sharpness
        if sharpness is not None:
            trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            if not self._second_pass(trained, sharpness):
                self._finish_step(was_skipped=True, sums=before)
                return
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.max_grad_norm)
        # in several processes the loss is of a part, the gradient of all
        is_finite = bool(torch.isfinite(norm if self.processes.size > 1 else norm + self._sums["loss"][0]))
        if is_finite:
            self._add("grad_norm", norm)
        if is_finite or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # leaves the step out where the scaler has found an inf
        self.scaler.update()
        self._finish_step(was_skipped=not is_finite, sums=before)

    def _second_pass(self, trained: list[nn.Parameter], sharpness: tuple[str, float, float]) -> bool:
        """Replace the gradients by those at the weights uphill; False: the first pass had one that is no number."""
        scale = self.scaler.get_scale()
        if scale != 1.0:
            torch._foreach_div_([parameter.grad for parameter in trained], scale)
        if not all_finite(trained):
            if self.scaler.is_enabled():
                trained[0].grad.fill_(math.inf)  # the scaler finds it, skips the update and lowers its scale as ever
                self.scaler.unscale_(self.optimizer)
                self.scaler.step(self.optimizer)
                self.scaler.update()
            return False
        copies = climb(trained, *sharpness)
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(remember=False)  # under the same scale, which `unscale_` then divides out
        return_to(trained, copies)
        return True

    def batches_until(self, step: int) -> int:
        """Return the micro-batches before a step; passes end where they end, be it within the last step."""
        train = self.config.train
        number = step * train.gradient_accumulation_steps
        return number if train.max_steps else min(number, self.order.num_batches(train.num_train_epochs))

    def _backward(self, remember: bool) -> None:
        """Add up the gradients of the micro-batches of this step, with the dropout of this step."""
        first, end = self.batches_until(self.step), self.batches_until(self.step + 1)
        accumulation = end - first
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for number in range(first, end):
            rows = self.order.rows(number)
            self.left_out.rows += rows.tolist() if remember else []
            with self._autocast():
                with self.processes.own_dropout(self.config.seed * 1_000_003 + number, self.student.device):
                    views = self._make_views(rows)
                terms = self.method(views)
                loss = sum(self.method.weights[name] * value for name, value in terms.items())
            self.scaler.scale(loss / accumulation).backward()
            if remember:
                for name, value in (terms | {"": loss}).items():
                    self._add(f"{name}_loss".lstrip("_"), value.detach(), 1 / accumulation)
        self._add_up()

    def _add_up(self) -> None:
        """Add up the gradients of several processes: the student's are of parts, the method's whole in each."""
        own, whole = ([p.grad for p in part.parameters() if p.grad is not None] for part in (self.student, self.method))
        if self.processes.size > 1 and whole:
            torch._foreach_div_(whole, self.processes.size)
        self.processes.add_up([*own, *whole])

    def _make_views(self, rows: np.ndarray) -> BatchViews | LateViews:
        """Compute what the method sees of some training rows."""
        if self.method.needs.late:
            return make_late_views(self.student, self.method, self.data, self.teacher, rows, self.lists)
        more = self.teacher_words, self.lists, self.processes
        return make_views(self.student, self.method, self.data, self.teacher, rows, *more)

    def _enter_stage(self) -> None:
        """Make the optimizer and schedule of the stage that this step belongs to, unless it has them."""
        stage = next(stage for stage in self.stages if self.step < stage.first_step + stage.steps)
        if stage is self._stage:
            return
        train = self.config.train
        named = list(self.model.named_parameters())
        decayed = {name for name, parameter in named if parameter.ndim > 1}
        groups, table = group_parameters(named, decayed, stage.rules, stage.learning_rate, train.weight_decay)
        self._stage = stage
        modules = [(module, list(module.parameters())) for module in self.model.modules()]
        self._frozen = [module for module, own in modules if own and not any(p.requires_grad for p in own)]
        on_cpu = torch.device(self.hardware.device).type == "cpu"
        # None lets torch choose on a GPU, where False would rule its grouped one out as well
        self.optimizer = torch.optim.AdamW(groups, fused=on_cpu or None)
        warmup = min(train.warmup_steps, stage.steps // 2)
        self.scheduler = get_scheduler(train.lr_scheduler_type, self.optimizer, warmup, stage.steps)
        if len(self.stages) > 1:
            print(f"stage {stage.name}: {stage.steps} steps\n{format_table(table)}", flush=True)

    def _set_modes(self) -> None:
        """Switch dropout on where it is wanted, but not in modules all of whose parameters are frozen."""
        needs_it = self.method.needs.second and self.data.second is None
        wanted = self.config.train.dropout
        self.model.train(wanted == "always" or (wanted == "auto" and needs_it))
        for module in self._frozen:
            module.eval()
        self.method.trains_small_widths = self._stage.small_widths

    def _finish_step(self, was_skipped: bool, sums: dict[str, tuple[torch.Tensor, float]]) -> None:
        """Count the step; what is logged goes back to `sums` if it was left out."""
        self.optimizer.zero_grad(set_to_none=True)
        self.left_out.count(not was_skipped)
        self._sums = sums if was_skipped else self._sums
        if not was_skipped:
            self.scheduler.step()
        self.skipped_steps += was_skipped
        self.step += 1

    def _add(self, name: str, value: torch.Tensor, weight: float = 1.0) -> None:
        total, weights = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = total + weight * value, weights + weight

    def _is_due(self) -> bool:
        return self.step % self.config.train.log_every == 0 or self.step == self.total_steps

    def _read_logs(self) -> dict[str, float]:
        """Return means over the steps since the last call that were made; the learning rate alone where none was."""
        logs = {name: float(total) / weights for name, (total, weights) in self._sums.items()}
        self._sums = {}
        return logs | {"learning_rate": self.scheduler.get_last_lr()[0]}

    def save(self, path: Path) -> None:
        """Write everything that the next steps depend on, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "unlogged": self._sums,
            "counts": {"step": self.step, "skipped_steps": self.skipped_steps, "seconds": self.seconds},
        }
        with writing(path.parent, "--runs-dir"), whole_file(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> None:
        """Go back to what `save` wrote."""
        state: dict[str, Any] = torch.load(path, map_location=self.hardware.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for name, value in state["counts"].items():
            setattr(self, name, value)
        self._sums = state.get("unlogged", {})  # a checkpoint of an older kdkit has none
        ended = self.step == self.total_steps
        if not ended:
            last = self.step - 1  # the optimizer belongs to the stage of the last step done
            self.step = last
            self._enter_stage()
            self.step = last + 1
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.scaler.load_state_dict(state["scaler"])


def plan_embedding_stages(
    config: EmbeddingConfig, student: EmbeddingModel, method: SentenceMethod, order: Order
) -> list[PlannedEmbeddingStage]:
    """Resolve the stages of a training; there is always at least one.

    Raises:
        UserError: more stages than steps.
    """
    train = config.train
    total_steps = train.max_steps or math.ceil(
        order.num_batches(train.num_train_epochs) / train.gradient_accumulation_steps
    )
    settings = method.default_stages(student, train.learning_rate) if train.stages == "auto" else train.stages
    settings = settings or [EmbeddingStage(name="all", share=1.0)]
    if total_steps < len(settings):
        raise UserError(
            f"train.max_steps: expected at least a step for each of {len(settings)} stages, got {total_steps}; raise it"
        )
    ends, done = [], 0.0
    for number, stage in enumerate(settings, start=1):
        done += stage.share
        left = len(settings) - number
        ends.append(min(max(round(done * total_steps), (ends[-1] if ends else 0) + 1), total_steps - left))
    return [
        PlannedEmbeddingStage(
            stage.name,
            end - start,
            start,
            stage.learning_rate or train.learning_rate,
            _stage_rules(config, stage, student, method),
            stage.small_widths,
        )
        for stage, start, end in zip(settings, [0, *ends], ends, strict=False)
    ]


def _stage_rules(
    config: EmbeddingConfig, stage: EmbeddingStage, student: EmbeddingModel, method: SentenceMethod
) -> list[ParameterRule]:
    """Return a stage's rules, and those for word embeddings and projections that no rule names."""
    train = config.train
    rules = train.parameter_lr_multipliers if stage.parameter_lr_multipliers is None else stage.parameter_lr_multipliers

    def have_rules(names: list[str]) -> bool:
        """Whether each of some parameters is matched: a rule of ours that nothing is left for would be an error."""
        return all(any(re.search(rule.pattern, name) for rule in rules) for name in names)

    added = []
    is_silent = stage.parameter_lr_multipliers is None  # a stage with rules of its own says all that it freezes
    is_teachers = config.student.path == REDUCE and is_silent
    freezes = train.word_embeddings == "freeze" or (train.word_embeddings == "auto" and is_teachers)
    table = next(name for name, module in student.named_modules() if module is student.backbone.get_input_embeddings())
    if freezes and not have_rules([f"student.{table}.weight"]):
        added.append(ParameterRule(pattern=f"^student\\.{re.escape(table)}\\.", lr_multiplier=0.0))
    if not have_rules([f"method.{name}" for name, _ in method.named_parameters()]):
        added.append(ParameterRule(pattern="^method\\.", lr_multiplier=method.projection_lr_multiplier))
    return [*rules, *added]
