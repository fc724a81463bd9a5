"""What each expert of a mixture does on a text, and which experts are worth keeping.

Every expert reads every token here, also those that its router sends elsewhere: only so can experts be compared, and
only so is known what is lost without one. `tokens` are all tokens of the text, `E` experts, `H` the hidden size.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from kdkit.config.built.from_teacher import ExpertScore
from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.moe_blocks import MoeBlock, find_blocks, find_routing, gate_logits

MAX_NUMBERS = 16_000_000
"""Numbers of all experts' outputs that exist at once (64 MB)."""


@dataclass
class ExpertUse:
    """Sums over the tokens of a text, of one MoE layer; fp64, on the CPU."""

    num_tokens: int
    routed: torch.Tensor
    """`[E]`: tokens that the router sends to each expert."""
    weight: torch.Tensor
    """`[E]`: sum of the router's weights of the chosen; of a normalised router they sum to `num_tokens`."""
    contribution: torch.Tensor
    """`[E]`: sum over its tokens of router weight x norm of its output."""
    gram: torch.Tensor
    """`[E, E]`: sum over all tokens of the inner products of the experts' outputs."""
    agreement: torch.Tensor
    """`[E]`: sum over all tokens of the inner product of an expert's output with what the layer gives."""
    gates: torch.Tensor
    """`[E, E]`: sum over all tokens of the products of the experts' gate logits, each less its token's mean."""

    @property
    def load(self) -> torch.Tensor:
        """Share of the router's choices that fall on each expert, `[E]`, 1 together."""
        return self.routed / self.routed.sum()

    @property
    def conditional(self) -> torch.Tensor:
        """Mean router weight of an expert over its tokens, `[E]`; 0 without a token (CP of arXiv:2605.28207)."""
        return self.weight / self.routed.clamp(min=1)

    @property
    def saliency(self) -> torch.Tensor:
        """Mean over an expert's tokens of weight x output norm, `[E]` (REAP, arXiv:2510.13999, eq. 9)."""
        return self.contribution / self.routed.clamp(min=1)

    @property
    def activation(self) -> torch.Tensor:
        """Mean router weight over its tokens x root mean square output norm over all, `[E]` (ACP, arXiv:2605.28207)."""
        return self.conditional * (self.gram.diagonal() / self.num_tokens).sqrt()


@torch.no_grad()
def measure_experts(model: PreTrainedModel, text: list[TextBatch]) -> list[ExpertUse]:
    """Let a mixture read a text and note what its experts do, layer by layer.

    Args:
        model: a causal LM; left as it is.
        text: some thousand tokens suffice.

    Raises:
        UserError: a dense model, or a mixture of another construction.
    """
    blocks = find_blocks(model, "teacher.path")
    find_routing(model, blocks, "teacher.path")  # which checks that the blocks compute what is computed here
    uses = [_empty(len(block.gate.weight)) for block in blocks]
    place: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        stack.callback(model.train, model.training)
        model.eval()
        for block, use in zip(blocks, uses, strict=True):
            stack.callback(block.experts.register_forward_hook(_watch(block, use, place)).remove)
        for batch in text:
            place["is_read"] = batch.is_read.flatten().to(model.device)
            model.base_model(input_ids=batch.input_ids.to(model.device), use_cache=False)
    return uses


def _empty(num_experts: int) -> ExpertUse:
    vectors = (torch.zeros(num_experts, dtype=torch.float64) for _ in range(4))
    squares = (torch.zeros(num_experts, num_experts, dtype=torch.float64) for _ in range(2))
    routed, weight, contribution, agreement = vectors
    gram, gates = squares
    return ExpertUse(0, routed, weight, contribution, gram, agreement, gates)


def _watch(block: MoeBlock, use: ExpertUse, place: dict[str, torch.Tensor]) -> Callable[..., None]:
    """Make a hook that adds what the experts of a block do to its sums.

    Args:
        place: `is_read`, bool, `[tokens]`: the tokens of the batch that count.
    """
    e, h, _ = block.experts.down_proj.shape
    size = max(1, MAX_NUMBERS // (e * max(h, block.experts.gate_up_proj.shape[1])))

    def note(experts: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Take the tokens apart, so that all experts' outputs for them fit into memory."""
        hidden, chosen, weights = inputs
        for rows in place["is_read"].nonzero().squeeze(1).split(size):
            outputs = run_apart(experts, hidden[rows])
            _add(use, gate_logits(block.gate, hidden[rows]), chosen[rows], weights[rows], outputs, output[rows])

    return note


def run_apart(experts: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Run all experts on all tokens, `[tokens, H]`, and return the output of each, fp32, `[E, tokens, H]`."""
    e, _, width = experts.down_proj.shape
    gate, up = F.linear(hidden, experts.gate_up_proj.flatten(0, 1)).view(-1, e, 2, width).unbind(2)
    return torch.einsum("tei,ehi->eth", experts.act_fn(gate) * up, experts.down_proj).float()


def _add(
    use: ExpertUse,
    logits: torch.Tensor,
    chosen: torch.Tensor,
    weights: torch.Tensor,
    outputs: torch.Tensor,
    given: torch.Tensor,
) -> None:
    """Add some tokens to the sums.

    Args:
        logits: `[tokens, E]`.
        chosen: int64, `[tokens, top_k]`.
        weights: `[tokens, top_k]`.
        outputs: `[E, tokens, H]`.
        given: what the layer gives, `[tokens, H]`.
    """
    spread = torch.zeros_like(logits).scatter_(1, chosen, weights.float())
    counts = torch.zeros_like(logits).scatter_(1, chosen, 1.0)
    flat, centred = outputs.flatten(1), (logits - logits.mean(dim=1, keepdim=True)).double()
    use.num_tokens += len(logits)
    use.routed += counts.double().sum(dim=0).cpu()
    use.weight += spread.double().sum(dim=0).cpu()
    use.contribution += (spread * outputs.norm(dim=2).T).double().sum(dim=0).cpu()
    use.gram += (flat @ flat.T).double().cpu()
    use.agreement += (flat @ given.float().flatten()).double().cpu()
    use.gates += (centred.T @ centred).cpu()


def choose_experts(use: ExpertUse, num_kept: int, score: ExpertScore) -> list[int]:
    """Choose experts of a layer to keep, in their order.

    Args:
        use: what they do on a text.
        num_kept: 1 to E.
        score: of single experts, `load`, `contribution`, `saliency` or `activation`; or of what they do together:
            `diverse`, which is `activation` among those that differ (DO-ACP of arXiv:2605.28207), or `fitted`, those
            whose weighted sum comes nearest to what the layer gives.
    """
    if score == "diverse":
        return _choose_diverse(use, num_kept)
    if score == "fitted":
        return _choose_fitted(use, num_kept)
    values = {
        "load": use.load,
        "contribution": use.contribution,
        "saliency": use.saliency,
        "activation": use.activation,
    }
    return sorted(values[score].topk(num_kept).indices.tolist())


def _choose_diverse(use: ExpertUse, num_kept: int) -> list[int]:
    """Add the expert that raises the log determinant of the weighted Gram matrix most, again and again.

    The kernel is `sqrt(I_i I_j) G_ij` with I the activation score; its mean diagonal over K is added to the diagonal.
    """
    roots = use.activation.clamp(min=1e-12).sqrt()
    kernel = roots[:, None] * roots * use.gram / use.num_tokens
    kernel = kernel + kernel.diagonal().mean() / num_kept * torch.eye(len(kernel), dtype=kernel.dtype)
    chosen: list[int] = []
    for _ in range(num_kept):
        known = kernel[chosen][:, chosen]
        explained = kernel[:, chosen] @ torch.linalg.solve(known, kernel[chosen]) if chosen else 0.0 * kernel
        gains = (kernel - explained).diagonal().clone()  # log det grows by the logarithm of these
        gains[chosen] = -1.0
        chosen.append(int(gains.argmax()))
    return sorted(chosen)


def _choose_fitted(use: ExpertUse, num_kept: int) -> list[int]:
    """Add the expert with which the best weighted sum explains most of what the layer gives, again and again."""
    chosen: list[int] = []
    for _ in range(num_kept):
        others = [expert for expert in range(len(use.gram)) if expert not in chosen]
        explained = [use.agreement[(*chosen, e),] @ fit_weights(use, [*chosen, e]) for e in others]
        chosen.append(others[int(torch.stack(explained).argmax())])
    return sorted(chosen)


def mean_weights(use: ExpertUse, chosen: list[int]) -> torch.Tensor:
    """Return the mean router weights of some experts, made to sum to what a token's weights sum to: `[K]`."""
    whole = use.weight.sum() / use.num_tokens
    return use.weight[chosen] / use.weight[chosen].sum() * whole


def fit_weights(use: ExpertUse, chosen: list[int]) -> torch.Tensor:
    """Return the weights with which some experts together come nearest to what the layer gives: `[K]`.

    Least squares over all tokens; a thousandth of the mean diagonal keeps equal experts apart.
    """
    gram = use.gram[chosen][:, chosen]
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(chosen), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, use.agreement[chosen])
