"""Routing of a mixture of experts: read its gate logits, and choose its experts instead of the gates.

Tokens are those of the batch and the sequence, flattened. A `Route` is called once per MoE layer and forward pass. Its
choice may carry a graph: the gradient flows through the frozen experts back to the weights and to the layers below,
never into the experts.
Top-k routing: Shazeer et al. 2017, "Outrageously Large Neural Networks", eq. 3-5, with softmax and top-k exchanged.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from kdkit.errors import UserError
from kdkit.models.moe_blocks import find_blocks, find_routing, gate_logits, run_all_experts


@dataclass(frozen=True)
class Choice:
    """Which experts each token of a layer is sent to, and with which weights."""

    weights: torch.Tensor
    """`[tokens, top_k]`: what each chosen expert's output is multiplied by."""
    experts: torch.Tensor | None
    """int64, `[tokens, top_k]`; None: `weights` are `[tokens, E]`, for all experts in order (the soft forward)."""


Route = Callable[[int, torch.Tensor, torch.Tensor], Choice]
"""From the number of the MoE layer, counted from 0, its input `[tokens, H]` and its gate logits (fp32, `[tokens, E]`)
to a choice."""


def top_k_choice(logits: torch.Tensor, k: int, *, temperature: float = 1.0, normalised: bool = True) -> Choice:
    """Choose the k most likely experts of every token.

    Args:
        logits: `[tokens, E]`; they may carry a graph.
        k: 1 to E.
        temperature: of the softmax.
        normalised: softmax over the chosen experts; otherwise softmax over all, so that the weights sum to less than 1.
    """
    chosen = logits.topk(k, dim=-1).indices
    if normalised:
        return Choice(torch.softmax(logits.gather(-1, chosen) / temperature, dim=-1), chosen)
    return Choice(torch.softmax(logits / temperature, dim=-1).gather(-1, chosen), chosen)


def all_experts(logits: torch.Tensor, temperature: float = 1.0) -> Choice:
    """Send every token to all experts, weighed by softmax(logits / temperature), `[tokens, E]`."""
    return given(torch.softmax(logits / temperature, dim=-1))


def augmented(logits: torch.Tensor, k: int, rate: float, generator: torch.Generator | None = None) -> Choice:
    """Draw the experts of some tokens instead of taking the top ones: knowledge augmentation.

    With probability `rate` a token's k experts are drawn without replacement from softmax(logits), otherwise they are
    its top k; the weights are the softmax over the chosen. Published with k = E - 1 and rate 0.05 (Kim, Chu, Yang,
    "Every Expert Matters", arXiv 2502.12947). The top k of logits plus Gumbel noise are such a draw (Kool et al. 2019,
    "Stochastic Beams and Where to Find Them", arXiv 1903.06059, sec. 2.3).

    Args:
        logits: `[tokens, E]`.
        k: 1 to E.
        rate: 0 to 1, per token.
        generator: of the draws; its device may differ from that of the logits.
    """
    device = logits.device if generator is None else generator.device
    gumbel = -torch.empty(logits.shape, device=device).exponential_(generator=generator).log()
    is_drawn = torch.rand(logits.shape[0], 1, device=device, generator=generator) < rate
    scores = logits.detach() + torch.where(is_drawn, gumbel, 0.0).to(logits)
    chosen = scores.topk(k, dim=-1).indices
    return Choice(torch.softmax(logits.gather(-1, chosen), dim=-1), chosen)


def given(weights: torch.Tensor) -> Choice:
    """Weigh all experts of every token with given weights, `[tokens, E]`."""
    return Choice(weights, None)


def check_trainable(k: int, normalised: bool, key: str) -> None:
    """Refuse a routing through which no gradient can reach the gates.

    Args:
        k: chosen experts of the pass that trains the gates.
        normalised: whether their weights are made to sum to 1.
        key: the setting that decides it, for the message.

    Raises:
        UserError: one expert with normalised weights.
    """
    if k == 1 and normalised:
        raise UserError(
            f"{key}: expected at least 2 experts (or all) to train the gates with, got 1; the normalised weight of a "
            "single expert is the constant 1, so the gradient of the gates is exactly zero: set it to null for all "
            "experts, or to 2"
        )


class Experts:
    """The experts of a model, its own routing, and a way to route it differently.

    The experts' parameters are frozen; everything else of the model stays as it is.

    Attributes:
        model: the model.
        layers: decoder layers that are mixtures, in order; the number of a MoE layer is its place in this list.
        num_experts: E.
        top_k: experts that the model itself chooses per token.
        normalised: whether the model itself makes the chosen weights sum to 1.
    """

    def __init__(self, model: PreTrainedModel, key: str = "teacher.path"):
        """Find the MoE layers, and check on a few tokens that their routing is understood.

        Args:
            model: a causal LM in transformers' form.
            key: the setting that named it, for messages.

        Raises:
            UserError: a dense model, or a mixture of another construction.
        """
        self.model = model
        self._blocks = find_blocks(model, key)
        self._routing = find_routing(model, self._blocks, key)
        for block in self._blocks:
            block.experts.requires_grad_(False)
        self.layers = [block.decoder_layer for block in self._blocks]
        self.num_experts, self.top_k = self._routing.num_experts, self._routing.top_k
        self.normalised = self._routing.normalised

    def gate_weights(self) -> torch.Tensor:
        """Copy the gates' weights: fp32, `[num_moe_layers, E, H]`; logits are `input @ weights.T`."""
        return torch.stack([block.gate.weight.detach().float() for block in self._blocks])

    def stock(self, layer: int, logits: torch.Tensor) -> Choice:
        """Choose as the model itself does.

        Args:
            layer: number of the MoE layer; all choose alike.
            logits: `[tokens, E]`.
        """
        return Choice(*self._routing.choose(logits))

    @contextmanager
    def routed(self, route: Route) -> Iterator[list[torch.Tensor]]:
        """Let the model's forward passes be routed by `route` while the context is open.

        Yields:
            The gate logits of the last forward pass: fp32, `[tokens, E]`, one per MoE layer; emptied when the next pass
            begins.
        """
        with self._hooked(route) as seen:
            yield seen

    @contextmanager
    def watched(self) -> Iterator[list[torch.Tensor]]:
        """Leave the routing to the model and record its gate logits, as `routed` does."""
        with self._hooked(None) as seen:
            yield seen

    @contextmanager
    def _hooked(self, route: Route | None) -> Iterator[list[torch.Tensor]]:
        seen: list[torch.Tensor] = []
        with ExitStack() as stack:
            for layer, block in enumerate(self._blocks):
                handle = block.gate.register_forward_hook(_gate_hook(layer, route, seen))
                stack.callback(handle.remove)
                if route is not None:
                    stack.enter_context(_soft_forward(block.experts))
            yield seen


def _gate_hook(layer: int, route: Route | None, seen: list[torch.Tensor]) -> Callable:
    """Make a gate record its logits and, if there is a route, return the route's choice.

    Indices None go through the block as they are and mean that the weights are for all experts.
    """

    def hook(gate: nn.Module, inputs: tuple, output: tuple) -> tuple | None:
        """Replace a gate's choice by that of the routing."""
        if layer == 0:
            seen.clear()
        logits = gate_logits(gate, inputs[0])
        seen.append(logits)
        if route is None:
            return None
        choice = route(layer, inputs[0].reshape(-1, inputs[0].shape[-1]), logits)
        return output[0], choice.weights.to(output[1].dtype), choice.experts

    return hook


@contextmanager
def _soft_forward(experts: nn.Module) -> Iterator[None]:
    """Make an experts module accept indices None while the context is open."""
    stock_forward, own = experts.forward, vars(experts).get("forward")

    def forward(hidden: torch.Tensor, indices: torch.Tensor | None, weights: torch.Tensor) -> torch.Tensor:
        if indices is None:
            return run_all_experts(experts, hidden, weights)
        return stock_forward(hidden, indices, weights)

    experts.forward = forward
    try:
        yield
    finally:
        if own is None:
            del experts.forward
        else:
            experts.forward = own
