"""Models whose parts share a core: matrices that many use, and of each user's own a small wrapper of low rank.

In a mixture the experts of a layer share one feed-forward core; in a dense model the layers of a group share one of all
their projections. Norms, biases, routers, embeddings and, in a mixture, attention are each one's own. A part's matrix
is `core + outward @ inward`. In parameters' names stand `shared_core` and `wrapper`, so that rules of learning rates
tell them apart. config.json says under `compression_config` what is shared; only kdkit knows these classes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from kdkit.models.taps import decoder_layers

EXPERTS, LAYERS = "experts", "layers"
"""What shares a core, `compression_config["shared_by"]`."""


class Core(nn.Module):
    """Matrices that several parts use, by name."""

    def __init__(self, shapes: dict[str, tuple[int, int]], spread: float):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape).normal_(std=spread)))


class Wrapper(nn.Module):
    """The factors of what is one part's own of a matrix: `outward @ inward`, nothing at first."""

    def __init__(self, shape: tuple[int, int], rank: int, spread: float, *parts: int):
        super().__init__()
        self.outward = nn.Parameter(torch.zeros(*parts, shape[0], rank))
        self.inward = nn.Parameter(torch.empty(*parts, rank, shape[1]).normal_(std=spread))


class SharedLinear(nn.Module):
    """A linear layer whose matrix is that of a core and a wrapper of its own."""

    def __init__(self, core: Core, name: str, linear: nn.Linear, rank: int, spread: float):
        super().__init__()
        self._core, self._name = (core,), name  # in a tuple, or it would be a part of every layer
        self.wrapper = Wrapper((linear.out_features, linear.in_features), rank, spread)
        self.bias = linear.bias

    @property
    def core(self) -> nn.Parameter:
        """The matrix that it shares, `[out, in]`."""
        return self._core[0].get_parameter(self._name)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the sum of both, `[..., in]` to `[..., out]`."""
        small = F.linear(F.linear(hidden, self.wrapper.inward), self.wrapper.outward)
        return F.linear(hidden, self.core, self.bias) + small


class SharedExperts(nn.Module):
    """The experts of a layer, in the place of transformers' own; `width` is that of one expert."""

    def __init__(self, experts: nn.Module, rank: int, spread: float):
        super().__init__()
        e, h, width = experts.down_proj.shape
        self.num_experts, self.act_fn = e, experts.act_fn
        shapes = {"gate_up_proj": (2 * width, h), "down_proj": (h, width)}
        self.shared_core = Core(shapes, spread)
        self.gate_up_wrapper = Wrapper(shapes["gate_up_proj"], rank, spread, e)
        self.down_wrapper = Wrapper(shapes["down_proj"], rank, spread, e)

    def forward(self, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Add up the weighted outputs of each token's experts.

        The core reads a token once, however many experts it is sent to.

        Args:
            hidden: `[tokens, H]`.
            experts: int64, `[tokens, top_k]`.
            weights: `[tokens, top_k]`.
        """
        is_chosen = F.one_hot(experts, self.num_experts).to(hidden.dtype)[..., None]  # [tokens, top_k, E, 1]
        own = _select(self.gate_up_wrapper, hidden[:, None], is_chosen).flatten(2)
        gate_up = F.linear(hidden, self.shared_core.gate_up_proj)[:, None] + _spread(self.gate_up_wrapper, own)
        gate, up = gate_up.chunk(2, dim=-1)
        activated = self.act_fn(gate) * up * weights[..., None].to(hidden.dtype)
        own = _select(self.down_wrapper, activated, is_chosen).sum(dim=1).flatten(1)
        return F.linear(activated.sum(dim=1), self.shared_core.down_proj) + _spread(self.down_wrapper, own)


def _select(wrapper: Wrapper, values: torch.Tensor, is_chosen: torch.Tensor) -> torch.Tensor:
    """Read values, `[tokens, 1 or top_k, in]`, with the chosen experts' factors: `[tokens, top_k, E, rank]`."""
    e, rank, _ = wrapper.inward.shape
    return F.linear(values, wrapper.inward.flatten(0, 1)).unflatten(-1, (e, rank)) * is_chosen


def _spread(wrapper: Wrapper, small: torch.Tensor) -> torch.Tensor:
    """Turn `[..., E * rank]`, zero for experts that are not chosen, into `[..., out]`."""
    return small @ wrapper.outward.transpose(1, 2).flatten(0, 1)


class SharedCore(PreTrainedModel):
    """What turns a model of transformers into one whose parts share a core: mixed into its class."""

    plain: type[PreTrainedModel]
    """The class that it is mixed into."""

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Answer as the class that this is mixed into: transformers looks for an answer in the source of this file."""
        return cls.plain._can_set_experts_implementation()

    def __init__(self, config: Any):
        super().__init__(config)
        settings = config.compression_config
        rank, spread = settings["wrapper_rank"], config.initializer_range
        if settings["shared_by"] == EXPERTS:
            for block in [module for module in self.modules() if "experts" in module._modules]:
                block.experts = SharedExperts(block.experts, rank, spread)
            return
        layers = decoder_layers(self)
        self.base_model.shared_core = nn.ModuleList()
        for group in settings["groups"]:
            shapes = {_flat(name): tuple(linear.weight.shape) for name, linear in linears(layers[group[0]])}
            self.base_model.shared_core.append(core := Core(shapes, spread))
            for number in group:
                for name, linear in linears(layers[number]):
                    owner, _, last = name.rpartition(".")
                    shared = SharedLinear(core, _flat(name), linear, rank, spread)
                    setattr(layers[number].get_submodule(owner), last, shared)


def linears(layer: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Return the linear layers of a decoder layer with their names."""
    return [(name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear)]


def _flat(name: str) -> str:
    return name.replace(".", "_")


class SharedCoreLlamaConfig(LlamaConfig):
    """See `SharedCore`."""

    model_type = "shared_core_llama"


class SharedCoreQwen3Config(Qwen3Config):
    """See `SharedCore`."""

    model_type = "shared_core_qwen3"


class SharedCoreQwen3MoeConfig(Qwen3MoeConfig):
    """See `SharedCore`."""

    model_type = "shared_core_qwen3_moe"


class SharedCoreMixtralConfig(MixtralConfig):
    """See `SharedCore`."""

    model_type = "shared_core_mixtral"


class SharedCoreLlama(SharedCore, LlamaForCausalLM):
    """See `SharedCore`."""

    config_class, plain = SharedCoreLlamaConfig, LlamaForCausalLM


class SharedCoreQwen3(SharedCore, Qwen3ForCausalLM):
    """See `SharedCore`."""

    config_class, plain = SharedCoreQwen3Config, Qwen3ForCausalLM


class SharedCoreQwen3Moe(SharedCore, Qwen3MoeForCausalLM):
    """See `SharedCore`."""

    config_class, plain = SharedCoreQwen3MoeConfig, Qwen3MoeForCausalLM


class SharedCoreMixtral(SharedCore, MixtralForCausalLM):
    """See `SharedCore`."""

    config_class, plain = SharedCoreMixtralConfig, MixtralForCausalLM


SHARED: tuple[type[SharedCore], ...] = (SharedCoreLlama, SharedCoreQwen3, SharedCoreQwen3Moe, SharedCoreMixtral)


def register_shared_cores() -> None:
    """Let transformers' Auto classes load these models; before one is loaded or made by its configuration."""
    for model in SHARED:
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModelForCausalLM.register(model.config_class, model, exist_ok=True)


def shared_parts(model: SharedCore) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that use a core, with their names."""
    return ((name, part) for name, part in model.named_modules() if isinstance(part, SharedLinear | SharedExperts))
