"""The student-aware router: gates that can be trained, and what the student's own state adds to them.

It routes to the experts of each MoE layer, or to whole teachers or layers (then `num_layers` is 1).

Sources: Kim, Chu, Yang 2025 ("Every Expert Matters", student-aware router), arXiv:2502.12947, for trained gates with
a balance term; capacity, gap, importance and the growing top-k are kdkit's reading of the idea of a router that sends
a student what it can learn.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from kdkit.config.teacher import RouterConfig
from kdkit.errors import UserError

RANK = 32
"""Width of what is kept of the student's state."""
MEMORY = 0.9
"""Share of a running mean that the next measurement leaves of it."""


@dataclass(frozen=True)
class StudentForecast:
    """Forecast of the student's loss, gap and source importance, from its hidden states alone."""

    loss: torch.Tensor
    """fp32, `[student_rows]`: capacity: expected cross-entropy of the next token, in multiples of its running mean;
    low where the student copes."""
    gap: torch.Tensor
    """fp32, `[student_rows]`: expected divergence from the teacher, in multiples of its running mean."""
    scores: torch.Tensor
    """fp32, `[student_rows, num_layers, num_sources]`: importance of each source, added to the gates' logits."""


class StudentReader(torch.nn.Module):
    """Reads capacity, knowledge gap and the importance of every source from a student's hidden state."""

    def __init__(self, width: int, num_layers: int, num_sources: int, generator: torch.Generator):
        """Make the heads; importance starts at 0, so the router starts with the teacher's own gates.

        Args:
            width: H_student.
        """
        super().__init__()
        self.shape = num_layers, num_sources
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False)
        self.encode = torch.nn.Linear(width, RANK)
        self.expect = torch.nn.Linear(RANK, 2)
        self.importance = torch.nn.Linear(RANK + 2, num_layers * num_sources)
        torch.nn.init.normal_(self.encode.weight, std=width**-0.5, generator=generator)
        torch.nn.init.zeros_(self.encode.bias)
        for layer in (self.expect, self.importance):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, hidden: torch.Tensor) -> StudentForecast:
        """Read some rows, `[student_rows, H_student]`."""
        state = functional.gelu(self.encode(self.norm(hidden.float())))
        # 1 at the start: the running mean
        loss, gap = (functional.softplus(self.expect(state)) / math.log(2.0)).unbind(dim=-1)
        # the expectations learn from their own target only, not from what the router makes of them
        read = torch.cat([state, loss.detach()[:, None], gap.detach()[:, None]], dim=-1)
        return StudentForecast(loss, gap, self.importance(read).unflatten(-1, self.shape))


class Router(torch.nn.Module):
    """Gates in fp32, which start as the teacher's, and a reader of the student's state where one is wanted."""

    def __init__(self, initial_gates: torch.Tensor, student_width: int | None, seed: int):
        """Prepare the router.

        Args:
            initial_gates: `[num_layers, num_sources, H_teacher]`: the teacher's, or zeros for sources that have none.
            student_width: H_student; None: the student's state is not read.
        """
        super().__init__()
        self.gates = torch.nn.Parameter(initial_gates.detach().float().clone())
        self.register_buffer("initial_gates", initial_gates.detach().float().clone())
        self.register_buffer("means", torch.zeros(2))
        """Running means of the student's cross-entropy and of its gap to the teacher, nats; 0: nothing measured."""
        num_layers, num_sources, _ = initial_gates.shape
        generator = torch.Generator().manual_seed(seed)
        self.reader = (
            None if student_width is None else StudentReader(student_width, num_layers, num_sources, generator)
        )

    def logits(self, layer: int, hidden: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
        """Return the routing logits of one layer, fp32, `[tokens, num_sources]`.

        Args:
            hidden: `[tokens, H_teacher]`: what the layer's gate reads.
            scores: fp32, `[tokens, num_layers, num_sources]`: importance; None: none.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            logits = functional.linear(hidden.float(), self.gates[layer])
        return logits if scores is None else logits + scores[:, layer]

    def remember(self, loss: torch.Tensor, gap: torch.Tensor) -> None:
        """Move the running means towards what was measured, fp32, `[num_places]`; nats."""
        new = torch.stack([loss.mean(), gap.mean()]).to(self.means.device)
        self.means.copy_(new if not self.means.any() else MEMORY * self.means + (1.0 - MEMORY) * new)

    def anchor(self, logits: list[torch.Tensor], initial: list[torch.Tensor], kind: str) -> torch.Tensor:
        """Return the distance from the initial router: KL(initial || now) per token, or that of the weights.

        Args:
            logits: per layer, `[tokens, num_sources]`.
            initial: the same from the initial gates, without what the student adds.
            kind: `kl` in nats, or `l2`: the squared distance over the squared norm of the initial gates.
        """
        if kind == "l2":
            size = self.initial_gates.square().sum().clamp(min=1e-12) if self.initial_gates.any() else 1.0
            return (self.gates - self.initial_gates).square().sum() / size
        return torch.stack([routing_kl(a, b) for a, b in zip(initial, logits, strict=True)]).mean()


def routing_kl(initial: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return KL(softmax(initial) || softmax(logits)), the mean over tokens, nats."""
    before, now = initial.detach().float().log_softmax(-1), logits.log_softmax(-1)
    return (before.exp() * (before - now)).sum(dim=-1).mean()


def balance(logits: list[torch.Tensor]) -> torch.Tensor:
    """Return the squared coefficient of variation of the sources' importance, the mean over layers.

    A source's importance is the sum of its probabilities over the tokens (Shazeer et al. 2017, sec. 4).

    Args:
        logits: per layer, `[tokens, num_sources]`.
    """
    importance = torch.stack([layer.softmax(dim=-1).sum(dim=0) for layer in logits])
    return (importance.var(dim=-1, unbiased=False) / importance.mean(dim=-1).square()).mean()


def scheduled(settings: RouterConfig, step: int, num_steps: int) -> tuple[int, float]:
    """Return the sources per token and the temperature at a step: linear in k, geometric in temperature.

    Args:
        step: optimizer steps done.
        num_steps: of the whole stage.
    """
    if not settings.progressive:
        return settings.final_top_k, settings.final_temperature
    done = min(1.0, step / max(1.0, settings.schedule_share * num_steps))
    # every k gets an equal share of the steps; floor would leave the last one to a single step
    span = settings.final_top_k - settings.initial_top_k
    top_k = settings.initial_top_k + min(span, int(done * (span + 1)))
    return top_k, settings.initial_temperature * (settings.final_temperature / settings.initial_temperature) ** done


def check_sources(settings: RouterConfig, num_sources: int, what: str) -> None:
    """Refuse a router that has nothing to choose from, or routes to more sources than there are.

    Args:
        what: name of the sources for the message: `experts`, `layers`, `teachers`.

    Raises:
        UserError: a single source; a k above their number.
    """
    if num_sources < 2:
        raise UserError(
            f"router.kind: expected at least 2 {what} to route over, got {num_sources}; set router.kind=none, or route "
            "over something else (router.sources)"
        )
    wanted = {"training_top_k": settings.training_top_k}
    if settings.kind == "student_aware":
        wanted |= {"initial_top_k": settings.initial_top_k, "final_top_k": settings.final_top_k}
    for name, value in wanted.items():
        if value is not None and value > num_sources and not (name == "initial_top_k" and not settings.progressive):
            raise UserError(
                f"router.{name}: expected at most {num_sources}, the number of {what}, got {value}; lower it"
            )
