"""Sources of a router: the experts of a MoE teacher, several teachers, or the last layers of one.

Both kinds run the teacher with a `Route` (`kdkit.models.experts`) and map teacher rows to its tokens. Mixed teachers or
layers count as one routed layer.
"""

from typing import Any

import torch

from kdkit.losses.chunked.signals import DenseSignals
from kdkit.models.experts import Choice, Experts, Route
from kdkit.teachers.mixing import MixedSignals, last_layers
from kdkit.teachers.online import OnlineTeacher


class ExpertSources:
    """The experts of every MoE layer."""

    what = "experts"

    def __init__(self, teacher: OnlineTeacher):
        """Take control of a teacher's experts.

        Raises:
            UserError: it has none, or gates that are not supported.
        """
        self.teacher = teacher
        self.experts = Experts(teacher.model)
        self.initial_gates = self.experts.gate_weights()
        """fp32, `[num_layers, num_sources, H_teacher]`."""
        self.top_k = self.experts.top_k
        """Sources per token without a router."""
        self.normalised = self.experts.normalised
        """Whether the weights of the chosen sources sum to 1."""

    def run(self, inputs: dict[str, Any], device: torch.device, route: Route) -> DenseSignals:
        """Run the teacher over a batch with its tokens routed."""
        with self.experts.routed(route):
            return self.teacher.pack(self.teacher.hidden(inputs), inputs, device)

    def token_of_rows(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the routed token of every teacher row, int64, `[teacher_rows]`."""
        return inputs["spans"].teacher_rows

    def num_tokens(self, inputs: dict[str, Any]) -> int:
        """Return how many tokens are routed, padding included."""
        return inputs["teacher_input_ids"].numel()


class MixedSources:
    """Several teachers with one tokenizer, or the last layers of one teacher."""

    normalised = True

    def __init__(self, teachers: list[OnlineTeacher], num_layers: int | None = None):
        """Prepare the mixture.

        Args:
            teachers: the first one's hidden state is what the gate reads.
            num_layers: mix that many last layers of the only teacher; None: mix the teachers.
        """
        self.teachers, self.num_layers = teachers, num_layers
        self.what = "teachers" if num_layers is None else "layers"
        main = teachers[0].model
        if num_layers is not None:
            with last_layers(main, num_layers):
                pass  # refuses what cannot be done before anything is trained
        width, count = main.config.get_text_config().hidden_size, num_layers or len(teachers)
        self.initial_gates = torch.zeros(1, count, width, device=main.device)
        """fp32, `[1, num_sources, H_teacher]`; zeros: all sources weigh the same at first."""
        self.top_k = count
        """Sources per token without a router: all."""

    def run(self, inputs: dict[str, Any], device: torch.device, route: Route) -> MixedSignals:
        """Run all sources without a graph, then weigh them row by row."""
        with torch.no_grad():
            parts = tuple(self._parts(inputs, device))
        first = parts[0] if self.num_layers is None else parts[-1]
        choice = route(0, first.hidden, first.hidden.new_zeros(len(first.hidden), len(parts), dtype=torch.float32))
        weights = spread(choice, len(parts)).to(device)
        is_in = weights > 0.0
        # the logarithm is not taken of 0, whose gradient would be NaN
        log_weights = torch.where(is_in, weights, 1.0).log().masked_fill(~is_in, -torch.inf)
        fields = (first.hidden, first.head, first.device, first.targets, first.windows)
        return MixedSignals(*fields, parts=parts, log_weights=log_weights)

    def _parts(self, inputs: dict[str, Any], device: torch.device) -> list[DenseSignals]:
        """Compute the signals of every source."""
        if self.num_layers is None:
            return [teacher.pack(teacher.hidden(inputs), inputs, device) for teacher in self.teachers]
        teacher = self.teachers[0]
        with last_layers(teacher.model, self.num_layers) as caught:
            teacher.hidden(inputs)
        return [teacher.pack(layer.flatten(0, 1), inputs, device) for layer in caught]

    def token_of_rows(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the routed token of every teacher row, int64, `[teacher_rows]`."""
        return torch.arange(len(inputs["spans"].teacher_rows))

    def num_tokens(self, inputs: dict[str, Any]) -> int:
        """Return how many tokens are routed."""
        return len(inputs["spans"].teacher_rows)


Sources = ExpertSources | MixedSources


def spread(choice: Choice, num_sources: int) -> torch.Tensor:
    """Return a choice's weights for all sources, `[tokens, num_sources]`, 0 for those not chosen."""
    if choice.experts is None:
        return choice.weights
    nothing = choice.weights.new_zeros(len(choice.weights), num_sources)
    return nothing.scatter(1, choice.experts, choice.weights)
