"""The MoE blocks of a model: found by their structure, checked on a few tokens, run with all experts at once.

Tokens are those of the batch and the sequence, flattened; `expert_width` is the width inside an expert.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from kdkit.errors import UserError
from kdkit.models.loading import num_experts

SUPPORTED = "Cohere2-MoE, FlexOlmo, Mellum, MiniMax, Mixtral, OLMoE, Qwen2-MoE, Qwen3-MoE, Qwen3-Next"
"""Tried architectures. Any other with their kind of block works too: every model is checked when it is taken."""


@dataclass(frozen=True)
class MoeBlock:
    """One MoE layer: a gate that chooses experts for every token, and the experts.

    From `hidden`, `[tokens, H]`, `gate(hidden)` makes logits `[tokens, E]`, weights and indices `[tokens, top_k]` each;
    `experts(hidden, indices, weights)` makes `[tokens, H]`.
    """

    decoder_layer: int
    gate: nn.Module
    """Has the parameter `weight`, `[E, H]`, and nothing else."""
    experts: nn.Module
    """Has the parameters `gate_up_proj`, `[E, 2 * expert_width, H]`, and `down_proj`, `[E, H, expert_width]`, only."""


@dataclass(frozen=True)
class StockRouting:
    """How a model itself chooses experts, the same in all its layers."""

    num_experts: int
    top_k: int
    normalised: bool
    """Whether the chosen weights are made to sum to 1."""

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights, fp32, and experts, int64, `[tokens, top_k]` each: softmax over all experts, then the top k.

        Top k of the softmax, not of the logits, as transformers has it: so equal values are resolved alike.
        """
        weights, chosen = torch.softmax(logits.float(), dim=-1).topk(self.top_k, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True) if self.normalised else weights, chosen


def run_all_experts(experts: nn.Module, hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Run all experts on all tokens and add up their weighted outputs: two products, however many there are.

    An expert's output is linear in its activation, so the weight can multiply that, and one product over
    all of E * expert_width adds the experts up; the outputs of single experts, `[tokens, E, H]`, never exist.

    Args:
        experts: of a `MoeBlock`.
        hidden: `[tokens, H]`.
        weights: `[tokens, E]`.

    Returns:
        `[tokens, H]`.
    """
    gate_up, down = experts.gate_up_proj, experts.down_proj
    e, h, i = down.shape
    projected = F.linear(hidden, gate_up.reshape(e * 2 * i, h)).view(-1, e, 2, i)
    # without a graph, nothing has to be kept for a backward pass: less memory, and up to a fifth less time
    times = torch.mul if torch.is_grad_enabled() else torch.Tensor.mul_
    weighted = times(projected[:, :, 1], weights.to(projected.dtype)[..., None])
    activated = times(experts.act_fn(projected[:, :, 0]), weighted)
    # this copy costs 1 / tokens of the product below; to keep it would cost a third of the experts' memory
    stacked = down.permute(1, 0, 2).reshape(h, e * i)
    return F.linear(activated.reshape(-1, e * i), stacked).to(hidden.dtype)


def gate_logits(gate: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Return what a gate's softmax reads, fp32, `[tokens, E]`.

    Not taken from the gate: what it calls its logits are probabilities in transformers 5.0 and logits in later ones.

    Args:
        hidden: `[tokens, H]`.
    """
    return F.linear(hidden.reshape(-1, hidden.shape[-1]), gate.weight).float()


def find_blocks(model: PreTrainedModel, key: str) -> list[MoeBlock]:
    """Return the MoE blocks of a model in their order.

    Args:
        model: a causal LM.
        key: the setting that named it, for messages.

    Raises:
        UserError: a dense model, or one with any block of another construction.
    """
    owners = [name.removesuffix(".experts") for name, _ in model.named_modules() if name.endswith(".experts")]
    if not owners and num_experts(model.config) == 0:
        raise UserError(
            f"{key}: expected a mixture of experts, got {type(model).__name__}, a dense model; name a model with "
            "experts, or route over layers or several teachers (router.sources)"
        )
    blocks = []
    for owner in owners:
        parts = dict(model.get_submodule(owner).named_children())
        number = re.search(r"\blayers\.(\d+)\b", owner)
        if number is None or "gate" not in parts or not _is_standard(parts["gate"], parts["experts"]):
            raise _unsupported(model, key, f"another construction of {owner}")
        blocks.append(MoeBlock(int(number[1]), parts["gate"], parts["experts"]))
    if not blocks:
        raise _unsupported(model, key, "no module named experts")
    return blocks


def _is_standard(gate: nn.Module, experts: nn.Module) -> bool:
    """Recognise a linear gate without bias, and stacked gated experts, by all their parameters and buffers."""
    gate_shapes = {name: tuple(value.shape) for name, value in gate.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in experts.state_dict().items()}
    has_activation = "act_fn" in dict(experts.named_children())
    if set(gate_shapes) != {"weight"} or set(shapes) != {"gate_up_proj", "down_proj"} or not has_activation:
        return False
    e, h = gate_shapes["weight"]
    i = shapes["down_proj"][-1]
    return shapes == {"gate_up_proj": (e, 2 * i, h), "down_proj": (e, h, i)}


@torch.no_grad()
def find_routing(model: PreTrainedModel, blocks: list[MoeBlock], key: str) -> StockRouting:
    """Run a model on a few tokens and find out how it routes, whatever its configuration declares.

    Args:
        model: a causal LM.
        blocks: its MoE blocks.
        key: the setting that named it, for messages.

    Raises:
        UserError: a layer's weights do not follow from its logits, or its output not from its weights.
    """
    calls = _watch_calls(model, blocks)
    if len(calls) < len(blocks):
        raise _unsupported(model, key, "gates that answer otherwise than with logits, weights and indices")
    # of every gate its logits, and the weights and indices that it gave
    gate_outputs = [
        (gate_logits(block.gate, inputs[0]), *output[1:])
        for block, ((inputs, output), _) in zip(blocks, calls, strict=True)
    ]
    logits, weights, _ = gate_outputs[0]
    routings = [StockRouting(logits.shape[-1], weights.shape[-1], normalised) for normalised in (True, False)]
    differences = [max(_weight_distance(routing, gate_output) for gate_output in gate_outputs) for routing in routings]
    difference, routing = min(zip(differences, routings, strict=True), key=lambda pair: pair[0])
    for block, gate_output, (_, (inputs, output)) in zip(blocks, gate_outputs, calls, strict=True):
        got = run_all_experts(block.experts, inputs[0], _spread(*gate_output))
        difference = max(difference, _distance(got, output))
    if not difference <= (1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2):
        raise _unsupported(model, key, f"MoE layers that differ from these by {difference:.3g}")
    return routing


def _watch_calls(model: PreTrainedModel, blocks: list[MoeBlock]) -> list[tuple]:
    """Return for each block ((gate's inputs, its output), (experts' inputs, their output)) on eight tokens.

    Blocks that were not run, or whose gate gave the experts anything but three tensors, are left out.
    """
    calls: dict[nn.Module, tuple] = {}

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        # a copy: Qwen2-MoE of transformers 5.0 adds its shared expert in place
        calls[module] = (inputs, output.clone() if isinstance(output, torch.Tensor) else output)

    with ExitStack() as stack:
        stack.callback(model.train, model.training)
        model.eval()  # in training, Mixtral's router draws random numbers, which others may count on
        for block in blocks:
            stack.callback(block.gate.register_forward_hook(note).remove)
            stack.callback(block.experts.register_forward_hook(note).remove)
        rows = model.get_input_embeddings().weight.shape[0]
        model(input_ids=(torch.arange(8, device=model.device) * 7 % rows)[None], use_cache=False)
    pairs = [(calls.get(block.gate), calls.get(block.experts)) for block in blocks]
    return [(gate, run) for gate, run in pairs if gate and run and _has_three(gate[1]) and _has_three(run[0])]


def _has_three(values: object) -> bool:
    return isinstance(values, tuple) and len(values) == 3


def _weight_distance(routing: StockRouting, gate_output: tuple[torch.Tensor, ...]) -> float:
    """Compare the weights that a routing gives with a gate's own; infinite if it has other numbers of experts."""
    logits, weights, _ = gate_output
    if (logits.shape[-1], weights.shape[-1]) != (routing.num_experts, routing.top_k):
        return float("inf")
    return _distance(_spread(logits, *routing.choose(logits)), _spread(*gate_output))


def _spread(logits: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Write the weights of the chosen experts, `[tokens, top_k]`, among zeros for the others: fp32, `[tokens, E]`."""
    return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, indices, weights.float())


def _distance(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference as a share of the largest value expected."""
    largest = expected.float().abs().max().clamp(min=1e-12)
    return ((got.float() - expected.float()).abs().max() / largest).item()


def _unsupported(model: PreTrainedModel, key: str, got: str) -> UserError:
    return UserError(
        f"{key}: expected MoE layers with a linear softmax gate and stacked experts ({SUPPORTED}, or built alike), "
        f"got {type(model).__name__} with {got}; name another teacher or set router.kind=none"
    )
