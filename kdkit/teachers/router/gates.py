"""The student-aware router: gates that can be trained, and what the student's own state adds to them.

It routes to the experts of each MoE layer, or to whole teachers or layers (then `num_layers` is 1).

Sources: Kim, Chu, Yang 2025 ("Every Expert Matters", student-aware router), arXiv:2502.12947, for trained gates with
a balance term; importance and the growing top-k are kdkit's reading of the idea of a router that sends a student what
it can learn. Its other two parts, capacity and gap, stand in `kdkit.teachers.router.emphasis`.
"""

import torch
from torch.nn import functional

from kdkit.config.teacher import RouterConfig
from kdkit.errors import UserError

RANK = 32
"""Width of what is kept of the student's state."""


class StudentReader(torch.nn.Module):
    """Reads the importance of every source from a student's hidden state."""

    def __init__(self, width: int, num_layers: int, num_sources: int, generator: torch.Generator):
        """Make the head; importance starts at 0, so the router starts with the teacher's own gates.

        Args:
            width: H_student.
        """
        super().__init__()
        self.shape = num_layers, num_sources
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False)
        self.encode = torch.nn.Linear(width, RANK)
        self.importance = torch.nn.Linear(RANK, num_layers * num_sources)
        torch.nn.init.normal_(self.encode.weight, std=width**-0.5, generator=generator)
        for values in (self.encode.bias, self.importance.weight, self.importance.bias):
            torch.nn.init.zeros_(values)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what is added to the gates' logits, fp32, `[student_rows, num_layers, num_sources]`.

        Args:
            hidden: `[student_rows, H_student]`.
        """
        state = functional.gelu(self.encode(self.norm(hidden.float())))
        return self.importance(state).unflatten(-1, self.shape)


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


def scheduled(
    settings: RouterConfig, step: int, num_steps: int, final_top_k: int, normalised: bool
) -> tuple[int, float]:
    """Return the sources per token and the temperature at a step: linear in k, geometric in temperature.

    The normalised weight of a single source is 1 at every temperature, so the temperature begins to fall with the
    second source.

    Args:
        step: optimizer steps done.
        num_steps: of the whole stage.
        final_top_k: sources per token in the end.
        normalised: whether their weights sum to 1.
    """
    if not settings.uses("annealing"):
        return final_top_k, settings.final_temperature
    done = min(1.0, step / max(1.0, settings.schedule_share * num_steps))
    # every k gets an equal share of the steps; floor would leave the last one to a single step
    span = final_top_k - settings.initial_top_k
    top_k = settings.initial_top_k + min(span, int(done * (span + 1)))
    idle = 1.0 / (span + 1) if normalised and settings.initial_top_k == 1 else 0.0
    cooled = 1.0 if idle == 1.0 else max(0.0, done - idle) / (1.0 - idle)
    return top_k, settings.initial_temperature * (settings.final_temperature / settings.initial_temperature) ** cooled


def check_sources(settings: RouterConfig, num_sources: int, own_top_k: int, what: str) -> None:
    """Refuse a router that has nothing to choose from, or routes to more sources than there are.

    Args:
        own_top_k: sources per token without a router.
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
        wanted["final_top_k"] = settings.final_top_k
    for name, value in wanted.items():
        if value is not None and value > num_sources:
            raise UserError(
                f"router.{name}: expected at most {num_sources}, the number of {what}, got {value}; lower it"
            )
    last = settings.final_top_k or own_top_k
    if settings.uses("annealing") and settings.initial_top_k > last:
        raise UserError(
            f"router.initial_top_k: expected at most {last}, the {what} per token in the end, got "
            f"{settings.initial_top_k}; lower it, or set router.final_top_k"
        )
