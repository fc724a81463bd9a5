"""A teacher that is routed while it teaches: all sources, drawn experts, or a router that follows the student.

Source of the first three kinds: Kim, Chu, Yang 2025 ("Every Expert Matters"), arXiv:2502.12947; of the router:
`kdkit.teachers.router.gates`.
"""

from dataclasses import dataclass
from typing import Any

import torch

from kdkit.alignment.spans import Spans
from kdkit.config.teacher import RouterConfig
from kdkit.losses.chunked.events import EventPair
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.machine.stopwatch import Stopwatch
from kdkit.models.experts import Choice, all_experts, augmented, top_k_choice
from kdkit.teachers.online import OnlineTeacher, StudentRows
from kdkit.teachers.router.emphasis import Emphasis
from kdkit.teachers.router.gates import Router, balance, routing_kl, scheduled
from kdkit.teachers.router.training import (
    Comparison,
    RouterOptimizer,
    compare,
    first_sequences,
    measure_rows,
    text_loss,
)
from kdkit.teachers.sources import Sources, spread

TRAINED = ("student_aware_routing", "student_aware")
"""Kinds of routing whose gates are trained."""


@dataclass
class Routed:
    """One routed pass of the teacher, and how it was routed."""

    signals: DenseSignals
    logits: list[torch.Tensor]
    """Per layer, `[teacher_rows, num_sources]`: the router's."""
    gates: list[torch.Tensor]
    """The same without what the student's state adds; only in a pass that trains the router."""
    initial: list[torch.Tensor]
    """The same of the gates as they were at first."""
    shares: list[list[float]]
    """Per layer, `[num_sources]`: mean weight of every source; empty in a pass that trains the router."""


class RoutedTeacher(OnlineTeacher):
    """A teacher in memory whose sources are chosen anew for every batch."""

    def __init__(
        self,
        teacher: OnlineTeacher,
        sources: Sources,
        settings: RouterConfig,
        *,
        events: EventPair,
        temperature: float,
        student_width: int,
        num_steps: int,
        seed: int,
    ):
        """Prepare the routing of one stage.

        Args:
            teacher: the main one, whose device the router shares.
            events: what predictions are compared on when the router is trained; tables on the teacher's device.
            temperature: softmax temperature of that comparison.
            num_steps: optimizer steps of the stage.
        """
        self.model, self.head, self.autocast_dtype = teacher.model, teacher.head, teacher.autocast_dtype
        self.device, self.context = teacher.device, teacher.context
        self.sources, self.settings, self.num_steps = sources, settings, num_steps
        self.comparison = Comparison(events, temperature, settings.direction)
        self.router: Router | None = None
        if settings.kind in TRAINED:
            reads = student_width if settings.uses("importance") else None
            self.router = Router(sources.initial_gates, reads, seed).to(self.model.device)
            self.optimizer = RouterOptimizer(self.router, settings.learning_rate, self.model.dtype)
        self.final_top_k = settings.final_top_k or sources.top_k
        self.emphasis = Emphasis(settings)
        self.figures: dict[str, Any] = {}
        """What the last batch showed; see `describe`."""
        self.clock, self.tokens_compared = Stopwatch(torch.device(self.model.device)), 0
        """Time of the router's own steps, and the teacher's tokens that they looked at."""
        self._step, self._seed = -1, seed
        self._draws = torch.Generator(self.model.device)

    def answer(
        self, inputs: dict[str, Any], device: torch.device, student: StudentRows | None = None
    ) -> tuple[DenseSignals, ...]:
        """Train the router at the steps set for it, then run the routed teacher; one set of signals per pass."""
        assert student is not None, "a routed teacher looks at the student"
        if self._step != student.step:  # the first micro-batch of a step
            self._step = student.step
            # seeded by the step, so that a resumed training draws what an uninterrupted one would, on any device
            self._draws.manual_seed(self._seed * 1_000_003 + student.step)
            if self.router is not None and student.step % self.settings.update_every == 0:
                few, their_rows = first_sequences(inputs, student, self.settings.update_sequences)
                with self.clock.running():
                    self._update(few, their_rows)
                self.tokens_compared += len(few["spans"].teacher_rows)
            if self.settings.kind == "student_aware":
                self.figures |= self.emphasis.begin_step()
                self.figures["top_k"], self.figures["temperature"] = self.schedule(student.step)
        self.emphasis.look(student, inputs["spans"])
        with torch.no_grad():
            scores = self.importance(inputs["spans"], student)
            count = self.settings.num_passes if self.settings.kind == "knowledge_augmentation" else 1
            passes = [self.run(inputs, device, scores, student.step) for _ in range(count)]
        self.figures["shares"] = passes[-1].shares
        return tuple(routed.signals for routed in passes)

    def schedule(self, step: int) -> tuple[int, float]:
        """Return the sources per token and the temperature at a step; see `scheduled`."""
        return scheduled(self.settings, step, self.num_steps, self.final_top_k, self.sources.normalised)

    def choose(self, logits: torch.Tensor, step: int) -> Choice:
        """Choose the sources of every token for the student's lesson.

        Args:
            logits: fp32, `[tokens, num_sources]`.
        """
        settings = self.settings
        if settings.kind == "knowledge_augmentation":
            return augmented(logits, max(1, logits.shape[-1] - 1), settings.augmentation_rate, self._draws)
        if settings.kind == "student_aware":
            top_k, temperature = self.schedule(step)
            return top_k_choice(logits, top_k, temperature=temperature, normalised=self.sources.normalised)
        return all_experts(logits)

    def describe(self) -> dict[str, Any]:
        """Return the figures of the last batch, a line of phase `router` in metrics.jsonl.

        `shares`: mean weight of every source, `[num_layers, num_sources]`; `top_k`, `temperature`. Of the step before:
        `capacity_mean`, the student's loss, and `gap_mean`, its divergence, at the places where the teacher was asked,
        `capacity_moved` and `gap_moved`, the share of the teacher's signal that each moved to other places. Of the last
        update, where there is one: `kl`, `text`, `balance`, `anchor`, `kl_to_initial` per layer, `teacher_loss`,
        `student_loss` and `gap`; and `skipped_updates`, left out for their overflow, of all.
        """
        return self.figures

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs to go on as an uninterrupted one would."""
        state = {"figures": self.figures, "emphasis": self.emphasis.state_dict()}
        if self.router is not None:
            state |= {"router": self.router.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self.figures = state["figures"]
        self.emphasis.load_state_dict(state["emphasis"])
        if self.router is not None:
            self.router.load_state_dict(state["router"])
            self.optimizer.load_state_dict(state["optimizer"])

    def importance(self, spans: Spans, student: StudentRows) -> torch.Tensor | None:
        """Return what the student's state adds to the routing, `[teacher_rows, num_layers, num_sources]`.

        None where the router does not read it.
        """
        if self.router is None or self.router.reader is None:
            return None
        device = self.model.device
        with torch.autocast(device.type, enabled=False):
            scores = self.router.reader(student.hidden.to(device).float())
        return scores.index_select(0, _student_row(spans).to(device))

    def run(
        self,
        inputs: dict[str, Any],
        device: torch.device,
        scores: torch.Tensor | None,
        step: int,
        in_training: bool = False,
    ) -> Routed:
        """Run the teacher, routed for the lesson at a step, or to train the router."""
        places = self.sources.token_of_rows(inputs).to(self.model.device)
        everywhere = None
        if scores is not None:
            everywhere = scores.new_zeros(self.sources.num_tokens(inputs), *scores.shape[1:])
            everywhere = everywhere.index_copy(0, places, scores)
        now: list[torch.Tensor] = []
        gates: list[torch.Tensor] = []
        initial: list[torch.Tensor] = []
        shares: list[list[float]] = []

        def route(layer: int, hidden: torch.Tensor, logits: torch.Tensor) -> Choice:
            """Choose the experts of a layer, and keep its logits for the update."""
            mine = logits.float() if self.router is None else self.router.logits(layer, hidden, everywhere)
            now.append(mine.index_select(0, places))
            initial.append(logits.float().index_select(0, places))
            if in_training:
                if self.router is not None:
                    gates.append(self.router.logits(layer, hidden, None).index_select(0, places))
                return self._choose_for_training(mine, step)
            choice = self.choose(mine, step)
            weights = spread(choice, mine.shape[-1]).index_select(0, places)
            shares.append((weights / weights.sum(dim=-1, keepdim=True)).mean(dim=0).tolist())
            return choice

        signals = self.sources.run(inputs, device, route)
        return Routed(signals, now, gates, initial, shares)

    def _choose_for_training(self, logits: torch.Tensor, step: int) -> Choice:
        """Choose as in the lesson, but from two sources at least: the gate of one has no gradient."""
        top_k = self.settings.training_top_k
        if top_k is None and self.settings.kind == "student_aware":
            top_k = max(2, self.schedule(step)[0])
        return all_experts(logits) if top_k is None else top_k_choice(logits, top_k)

    @torch.enable_grad()
    def _update(self, inputs: dict[str, Any], student: StudentRows) -> None:
        """Take one step of the router: closer to the student, right about the text, balanced, near its beginning."""
        assert self.router is not None
        settings = self.settings
        scores = self.importance(inputs["spans"], student)
        routed = self.run(inputs, self.model.device, scores, student.step, in_training=True)
        terms = {
            "kl": compare(routed.signals, student, inputs, self.comparison),
            "balance": balance(routed.logits),
            "anchor": self.router.anchor(routed.gates, routed.initial, settings.anchor),
        }
        # what the student wrote itself is nothing to be right about
        if settings.text_weight > 0.0 and not inputs.get("is_own_text", False):
            terms["text"] = text_loss(routed.signals, inputs.get("teacher_counted"))
        loss = (
            terms["kl"]
            + settings.text_weight * terms.get("text", 0.0)
            + settings.balance_weight * terms["balance"]
            + settings.anchor_weight * terms["anchor"]
        )
        measured = measure_rows(routed.signals, student, inputs, self.comparison)
        if len(measured.gap):
            for name in ("teacher_loss", "student_loss", "gap"):
                self.figures[name] = getattr(measured, name).mean().item()
        self.optimizer.step(loss)
        self.figures["skipped_updates"] = self.optimizer.skipped
        self.figures |= {name: value.item() for name, value in terms.items()}
        self.figures["kl_to_initial"] = [
            routing_kl(a, b).item() for a, b in zip(routed.initial, routed.logits, strict=True)
        ]


def _student_row(spans: Spans) -> torch.Tensor:
    """Return the student row whose state each teacher row goes by: the first of its span, int64, `[teacher_rows]`.

    It has read no more text than the teacher row has.
    """
    return spans.student_starts[:-1].index_select(0, spans.span_of_teacher_rows())
