"""Comparisons of layers with several teachers: each teacher's own parts, side by side."""

from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from kdkit.distill.committee.members import Committee
from kdkit.distill.layer_terms import LayerParts, make_parts
from kdkit.errors import UserError


class _AllTaps(AbstractContextManager):
    """The taps of all parts on the student, opened together."""

    def __init__(self, parts: list[LayerParts]):
        self._parts, self._stack = parts, ExitStack()

    def __enter__(self) -> "_AllTaps":
        for part in self._parts:
            self._stack.enter_context(part.student_taps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


class CommitteeParts:
    """The `LayerParts` of several teachers; it looks to the trainer like those of one."""

    def __init__(self, of: dict[str, LayerParts]):
        """Take those of every teacher, by name."""
        self.of = of
        self.projections = torch.nn.ModuleDict({name: part.projections for name, part in of.items()})
        self.student_taps = _AllTaps(list(of.values()))

    def begin_batch(self) -> None:
        """See `LayerParts.begin_batch`."""
        for part in self.of.values():
            part.begin_batch()

    def end_step(self, accelerator: Accelerator) -> None:
        """See `LayerParts.end_step`."""
        for part in self.of.values():
            part.end_step(accelerator)

    def group(self, learning_rate: float, weight_decay: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return an optimizer group and a row of the table for each teacher that has projections."""
        groups, table = [], []
        for name, part in self.of.items():
            more, rows = part.group(learning_rate, weight_decay)
            groups += more
            table += [row | {"pattern": f"(projections to {name})"} for row in rows]
        return groups, table

    def state(self) -> dict[str, Any]:
        """Return all that a resumed training needs."""
        return {name: part.state() for name, part in self.of.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` has returned."""
        for name, part in self.of.items():
            part.load_state(state[name])


def make_committee_parts(student: PreTrainedModel, committee: Committee) -> CommitteeParts | None:
    """Prepare the parts of every teacher; None where no part has a weight.

    Raises:
        UserError: see `make_parts`, with the teacher's name before the message.
    """
    parts = {}
    for member, teacher in zip(committee.members, committee.teachers, strict=True):
        try:
            part = make_parts(member.plan.session.config, student, teacher)
        except UserError as error:
            raise UserError(f"teachers.members.{member.name}: {error}") from None
        if part is not None:
            parts[member.name] = part
    return CommitteeParts(parts) if parts else None
