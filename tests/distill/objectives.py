"""A pair of prepared data and a teacher, a batch of it with the teacher's answers, and the loss that compares them."""

from dataclasses import dataclass

import pytest
import torch

from kdkit.alignment.spans import Spans
from kdkit.config.language import config_from_values
from kdkit.config.losses import ALM, LossSettings, loss_options
from kdkit.data.batches import WindowCollator
from kdkit.data.prepare import PreparedData
from kdkit.distill.objective import Objective, make_objective
from kdkit.losses.chunked.engine import Head, chunked_loss
from kdkit.losses.chunked.signals import check_teacher
from kdkit.losses.closed_forms import MEASURES
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels
from kdkit.teachers.online import OnlineTeacher
from kdkit.teachers.prepare import Teacher
from tests.references import random_logits

CPU = torch.device("cpu")
LOSSES = [name for name in loss_options() if name != "auto"]

every_loss = pytest.mark.parametrize("loss", LOSSES)


@dataclass(frozen=True)
class Pair:
    """Prepared data, and a teacher for it."""

    data: PreparedData
    teacher: Teacher


def pair_for(pairs: dict[str, Pair], loss: str) -> Pair:
    return pairs["same" if loss in MEASURES else "crossed"]


def settings_of(loss: str | dict) -> LossSettings:
    return config_from_values({"distill": {"loss": loss}}).distill.loss


def objective_for(loss: str | dict, data: PreparedData, kd_ratio: float = 0.6, temperature: float = 2.0) -> Objective:
    settings = settings_of(loss)
    temperature = 1.0 if isinstance(settings, ALM) else temperature
    return make_objective(settings, data, kd_ratio=kd_ratio, temperature=temperature, device=CPU)


class Batch:
    """A batch with the teacher's answers, and a student that is a random head on random hidden states."""

    def __init__(self, pair: Pair, rows: list[int], masked: dict[int, int] | None = None):
        """Collate windows; `masked` gives the number of leading labels that a place of the batch has not."""
        self.inputs = WindowCollator(pair.data.train, with_teacher=True)(rows)
        for place, count in (masked or {}).items():
            self.inputs["labels"][place, :count] = IGNORE_INDEX
        self.spans: Spans = self.inputs["spans"]
        self.targets = shift_labels(self.inputs["labels"]).flatten()[self.spans.student_rows]
        online = OnlineTeacher(pair.teacher.model, len(pair.data.teacher_tokenizer))
        self.signals = online.answer(self.inputs, CPU)
        size = len(pair.data.student_tokenizer)
        self.hidden = random_logits(len(self.targets), 8, scale=1.0, dtype=torch.float32).requires_grad_()
        self.head = Head(random_logits(size, 8, seed=1, scale=1.0, dtype=torch.float32).requires_grad_(), size)

    def compute(self, objective: Objective, num_items: float = 10.0) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the terms, and the gradients of hidden states and head."""
        chunk_loss, chunks = objective.loss_of(self.spans, self.targets, self.signals, num_items)
        loss, terms = chunked_loss(self.hidden, self.head, chunk_loss, chunks)
        check_teacher(self.signals, terms)
        assert loss.item() == pytest.approx(terms[0].item())
        return terms, list(torch.autograd.grad(loss, [self.hidden, self.head.weight]))

    def student_logits(self) -> torch.Tensor:
        return self.head.logits(self.hidden.detach()).detach()

    def teacher_logits(self) -> torch.Tensor:
        return self.signals.logits(torch.arange(len(self.spans.teacher_rows)))

    def cross_entropies(self) -> torch.Tensor:
        """Return the cross-entropy of every row; 0 where nothing counts."""
        options = {"ignore_index": IGNORE_INDEX, "reduction": "none"}
        return torch.nn.functional.cross_entropy(self.student_logits(), self.targets, **options)
