"""Loss of hidden states and attention maps, in four parts: their taps, projections, weights and balance.

The parts' values are defined in `kdkit.losses.layers`; here stand the taps on both models, the student's projections to
the teacher's width, and the running means that balance the parts.
"""

from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from kdkit.alignment.spans import Spans
from kdkit.config.language import BUILD, Config
from kdkit.config.losses import TermWeights
from kdkit.data.prepare import PreparedData
from kdkit.distill.student import make_student, num_student_layers
from kdkit.errors import UserError
from kdkit.losses.layers import (
    Layout,
    compare_maps,
    compute_again,
    contrast,
    depth_weights,
    lay_out,
    match_heads,
    pool_maps,
    pool_states,
    span_weights,
    state_error,
)
from kdkit.losses.precision import at_least_fp32
from kdkit.machine.hub import is_local_path
from kdkit.machine.session import Session
from kdkit.models.layer_map import check_layer_map, map_layers
from kdkit.models.taps import Taps, decoder_layers
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import num_teacher_layers

MEAN_DECAY = 0.9
"""Of the running means that balance the parts, per optimizer step."""
SMALLEST_PART = 1e-6
"""A part's running mean counts as at least this: a part that has vanished must not be blown up."""


def active_parts(weights: TermWeights) -> list[str]:
    """Return the parts beside `logits` that have a weight."""
    return [name for name, weight in weights if weight > 0.0 and name != "logits"]


def check_source(weights: TermWeights, teacher: TextTeacher | CachedSignals | None) -> None:
    """Refuse parts that a cache cannot serve.

    Raises:
        UserError: there are such.
    """
    if isinstance(teacher, CachedSignals) and (parts := active_parts(weights)):
        raise UserError(
            f"distill.weights: expected logits only with a cache, which holds predictions but no hidden states and no "
            f"attention maps, got {', '.join(parts)}; set cache.enabled=false, or these weights to 0"
        )


def make_parts(
    config: Config, student: PreTrainedModel, teacher: TextTeacher | CachedSignals | None
) -> "LayerParts | None":
    """Prepare the parts that have a weight; None where there are none, or no teacher in memory.

    Raises:
        UserError: see `check_source`, `map_layers` and `Taps`.
    """
    check_source(config.distill.weights, teacher)
    if not isinstance(teacher, TextTeacher) or not active_parts(config.distill.weights):
        return None
    return LayerParts(config, student, teacher.model, *teacher.names)


def check_layers(config: Config) -> None:
    """Check the layer map by the configurations of the models alone, as far as they are known.

    Raises:
        UserError: see `check_layer_map`.
    """
    setting, teacher = config.distill.layer_map, config.teacher
    if setting == "auto":
        return
    # with a cache the teacher of the hub may not even be reachable
    is_there = teacher.path == BUILD or not config.cache.enabled or is_local_path(teacher.path)
    num_layers = num_teacher_layers(config) if is_there else None
    sizes = None if num_layers is None else (num_student_layers(config), num_layers)
    names = [config.teachers.only, teacher.path] if config.teachers.only else [teacher.path]
    every = [name for member in config.teachers.members for name in (member.name, member.path) if name != BUILD]
    check_layer_map(setting, names, sizes, list(dict.fromkeys(every)))


def plan_layers(config: Config, student: PreTrainedModel, teacher: TextTeacher) -> list[tuple[int, int]]:
    """Return the pairs of student layer and teacher layer that `distill.layer_map` means, by student layer.

    Raises:
        UserError: see `map_layers`.
    """
    return map_layers(config.distill.layer_map, _num_layers(student), _num_layers(teacher.model), *teacher.names)


def describe_layer_map(session: Session[Config], data: PreparedData, teacher: TextTeacher) -> dict[str, Any]:
    """Write `teacher/layer_map.json`, before anything is trained.

    Returns:
        `student_layers` and `teacher_layers`, their numbers; `pairs` of a student and a teacher layer; `used_by`,
        the parts of the loss that compare them, without `logits`; or `missing` alone, the reason.

    Raises:
        UserError: see `map_layers` and `make_student`.
    """
    student = make_student(session.config, data)
    if not teacher.has_layers:
        missing = f"{teacher.name} gives predictions only: there are no layers of it to compare."
        session.run.write_json("teacher/layer_map.json", {"missing": missing})
        return {"missing": missing}
    facts = {
        "student_layers": _num_layers(student),
        "teacher_layers": _num_layers(teacher.model),
        "pairs": plan_layers(session.config, student, teacher),
        "used_by": active_parts(session.config.distill.weights),
    }
    session.run.write_json("teacher/layer_map.json", facts)
    return facts


def _num_layers(model: PreTrainedModel) -> int:
    return model.config.get_text_config().num_hidden_layers


class LayerParts:
    """The parts of one phase of training; their projections are trained from stage to stage, as the student is."""

    def __init__(self, config: Config, student: PreTrainedModel, teacher: PreTrainedModel, *teacher_names: str):
        """Choose layers, make projections from the run's seed; nothing is hooked yet.

        Raises:
            UserError: see `map_layers` and `Taps`.
        """
        settings = config.distill
        sizes = len(decoder_layers(student)), len(decoder_layers(teacher))
        self.pairs = map_layers(settings.layer_map, *sizes, *teacher_names)
        self.weights = {name: getattr(settings.weights, name) for name in active_parts(settings.weights)}
        self.heads, self.temperature = settings.attention_heads, settings.contrastive_temperature
        pairs = self.pairs if "layerwise" in self.weights else self.pairs[-1:]
        hidden_pairs = pairs if self.weights.keys() - {"attention"} else []
        map_pairs = self.pairs if "attention" in self.weights else []
        self.student_taps, self.teacher_taps = (
            Taps(
                model,
                [pair[side] for pair in hidden_pairs],
                [pair[side] for pair in map_pairs],
                mean_heads=self.heads == "mean",  # of many heads a layer would keep as many maps
            )
            for side, model in enumerate((student, teacher))
        )
        self.teacher_dtype = teacher.dtype
        widths = (model.config.get_text_config().hidden_size for model in (student, teacher))
        self.projections = self._make_projections(*widths, config.training_seed)
        self.balance = Balance(list(self.weights)) if settings.balance else None
        self._step_is_over = True

    def _make_projections(self, student_width: int, teacher_width: int, seed: int) -> torch.nn.ModuleDict:
        """Make a bias-free projection for each part and layer that needs one."""
        names = [name for name in ("feature", "contrastive") if name in self.weights]
        if "layerwise" in self.weights:
            names += [f"layerwise_{student_layer}" for student_layer, _ in self.pairs]
        generator = torch.Generator().manual_seed(seed)
        projections = torch.nn.ModuleDict()
        for name in names:
            projections[name] = torch.nn.Linear(student_width, teacher_width, bias=False)
            torch.nn.init.normal_(projections[name].weight, std=student_width**-0.5, generator=generator)
        return projections

    def loss_of(
        self,
        spans: Spans,
        widths: tuple[int, int],
        counted: torch.Tensor,
        num_items: float,
        kd_ratio: float,
        row_weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum the weighted parts of a batch that both models have just read with open taps.

        Args:
            widths: positions of the student's and of the teacher's batch, padding included.
            counted: bool, `[student_rows]`: those in the loss.
            num_items: tokens of the whole optimizer step.
            kd_ratio: weight of the teacher's signal as a whole.
            row_weights: see `Objective.row_weights`; alike within a span.

        Returns:
            The loss, a scalar with a graph; and of each part its raw and its weighted value, to log.
        """
        weights = span_weights(spans, counted, num_items)
        shares = weights
        if row_weights is not None:
            shares = weights * row_weights.index_select(0, spans.student_starts[:-1].to(row_weights.device))
        loss, terms = weights.new_zeros(()), {}
        for name, values in self._values(spans, widths).items():
            raw = (values * weights).sum()
            scale = self.balance.scale(name) if self.balance else 1.0
            weighted = (values * shares).sum() * (kd_ratio * self.weights[name] * scale)
            loss = loss + weighted
            terms |= {f"{name}_loss": raw.detach(), f"{name}_weighted": weighted.detach()}
        return loss, terms

    def _values(self, spans: Spans, widths: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Compare what the taps have caught; return each part's values, `[N]`, on the student's device."""
        student_states, student_maps = self.student_taps.take()
        teacher_states, teacher_maps = self.teacher_taps.take()
        device = next(iter((student_states or student_maps).values())).device
        teacher_device = next(iter((teacher_states or teacher_maps).values())).device
        student_side, teacher_side = lay_out(spans, *widths)
        student_side, teacher_side = student_side.to(device), teacher_side.to(teacher_device)
        teacher = {
            layer: _cross(pool_states(states.detach(), teacher_side), states.dtype, device)
            for layer, states in teacher_states.items()
        }
        del teacher_states
        values = self._state_values(student_states, teacher, student_side)
        if "attention" in self.weights:
            total = 0.0
            for student_layer, teacher_layer in self.pairs:
                maps = match_heads(student_maps[student_layer], teacher_maps[teacher_layer].detach(), self.heads)
                pooled = _cross(pool_maps(maps[1], teacher_side), self.teacher_dtype, device)
                total = total + compute_again(compare_maps, maps[0], pooled, student_side)
            values["attention"] = total / len(self.pairs)
        return values

    def _state_values(
        self, student: dict[int, torch.Tensor], teacher: dict[int, torch.Tensor], layout: Layout
    ) -> dict[str, torch.Tensor]:
        """Compute the parts that compare hidden states: by layer `[B, S, H_student]`, and pooled `[N, H_teacher]`."""
        values, (last, teacher_last) = {}, self.pairs[-1]
        if "feature" in self.weights:
            values["feature"] = compute_again(self._error, "feature", student[last], teacher[teacher_last], layout)
        if "layerwise" in self.weights:
            values["layerwise"] = sum(
                weight * compute_again(self._error, f"layerwise_{layer}", student[layer], teacher[other], layout)
                for weight, (layer, other) in zip(depth_weights(len(self.pairs)), self.pairs, strict=True)
            )
        if "contrastive" in self.weights:
            projected = self._project("contrastive", student[last], layout)
            values["contrastive"] = contrast(projected, teacher[teacher_last], layout, self.temperature)
        return values

    def _project(self, name: str, states: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Pool the student's states over spans and project them to the teacher's width, `[N, H_teacher]`."""
        return self.projections[name](pool_states(states, layout))

    def _error(self, name: str, states: torch.Tensor, teacher: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Compare the states of one pair of layers, `[N]`."""
        return state_error(self._project(name, states, layout), teacher)

    def begin_batch(self) -> None:
        """Clear the gradients of the last optimizer step, once; Trainer clears the student's only."""
        if self._step_is_over:
            self.projections.zero_grad(set_to_none=True)
        self._step_is_over = False

    def end_step(self, accelerator: Accelerator) -> None:
        """Average the gradients over the processes, and bring the running means up to date.

        Called after the last batch of an optimizer step, by every process.
        """
        self._step_is_over = True
        if accelerator.num_processes > 1:
            for parameter in self.projections.parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = accelerator.reduce(gradient, reduction="mean")
        if self.balance:
            self.balance.end_step(accelerator)

    def group(self, learning_rate: float, weight_decay: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the projections as an optimizer group and as a row for the table of groups; empty without any."""
        tensors = list(self.projections.parameters())
        if not tensors:
            return [], []
        rates = {"lr": learning_rate, "weight_decay": weight_decay}
        row = {
            "pattern": "(projections)",
            "lr_multiplier": 1.0,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "tensors": len(tensors),
            "parameters": sum(tensor.numel() for tensor in tensors),
        }
        return [{"params": tensors, **rates}], [row]

    def state(self) -> dict[str, Any]:
        """Return all that a resumed training needs."""
        return {"projections": self.projections.state_dict(), "means": self.balance.means if self.balance else {}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` has returned."""
        self.projections.load_state_dict(state["projections"])
        if self.balance:
            self.balance.means = dict(state["means"])


def _cross(pooled: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Move what was pooled in fp32 to a device in the precision of the teacher that made it; fp32 arrives."""
    return pooled if pooled.device == device else at_least_fp32(pooled.to(dtype).to(device))


class Balance:
    """Scales that bring each part to the size of cross-entropy: ratios of running means, without gradient.

    They change once per optimizer step, so that its cut into batches does not matter; in the first one they are 1.

    Source: the balance of NeMo-RL's distillation, sg(|CE| / |KD|) * KD, with means over steps.
    """

    def __init__(self, parts: list[str]):
        """Begin without any means."""
        self.means: dict[str, float] = {}
        self._names = ("ce", *parts)
        self._sums: dict[str, torch.Tensor] = {}

    def scale(self, part: str) -> float:
        """Return what a part is to be multiplied with."""
        return self.means["ce"] / max(self.means[part], SMALLEST_PART) if self.means else 1.0

    def add(self, terms: dict[str, torch.Tensor]) -> None:
        """Add the raw terms of a batch, divided by the tokens of the whole step."""
        for name in self._names:
            value = terms.get(f"{name}_loss")
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + value.detach()

    def end_step(self, accelerator: Accelerator) -> None:
        """Move the running means by the terms of this step, summed over the processes."""
        zero = torch.zeros((), device=accelerator.device)
        sums = torch.stack([torch.as_tensor(self._sums.get(name, zero), device=zero.device) for name in self._names])
        self._sums = {}
        values = accelerator.reduce(sums, reduction="sum").abs().tolist()
        if values[0] == 0.0 or not any(values[1:]):  # nothing was compared in this step
            return
        for name, value in zip(self._names, values, strict=True):
            # both sides of a ratio begin at 0, so the bias of a young mean cancels
            self.means[name] = MEAN_DECAY * self.means.get(name, 0.0) + (1.0 - MEAN_DECAY) * value
