"""A whole causal LM with its weights in 8 or 4 bits, saved as a folder and loaded again.

Every matrix is rounded, also the experts of a mixture; norms, biases and gates are not. In 4 bits the head keeps 8,
since it suffers most. A table of tokens that is the head too is rounded once, as the head.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kdkit.errors import UserError
from kdkit.models.quantised.layers import QuantisedEmbedding, QuantisedLinear
from kdkit.models.quantised.rounding import BLOCK, Codes, check_width, decode, encode, round_trip

METHOD = "kdkit"
"""Our `quantization_config.quant_method` in config.json."""
HEAD_BITS = 8
WEIGHTS = "model.safetensors"
MOST_LEFT = 0.1
"""Share of the parameters that stay in full precision at most: norms, biases and gates are far fewer."""


def is_quantised(config: PreTrainedConfig) -> bool:
    """Return whether a model's configuration says that its weights are our codes."""
    return (getattr(config, "quantization_config", None) or {}).get("quant_method") == METHOD


def check_full_precision(config: PreTrainedConfig, key: str) -> None:
    """Refuse a model that was rounded already, where it is to be trained or rounded.

    Args:
        key: the setting that named it, for messages.

    Raises:
        UserError: naming its bits.
    """
    if is_quantised(config):
        bits = config.quantization_config["bits"]
        raise UserError(
            f"{key}: expected a model in full precision, got one whose weights were rounded to {bits} bits by kdkit "
            "export; name the folder that it was made from"
        )


def count_coded(model: nn.Module) -> int:
    """Return how many weights of a model lie in codes, which are no parameters of torch's; shared ones once."""
    codes = {id(each): each for each in model.buffers() if each.dtype in (torch.int8, torch.uint8)}
    return sum(each.numel() * (2 if each.dtype == torch.uint8 else 1) for each in codes.values())


def weight_bits(model: nn.Module, bits: int) -> dict[str, int]:
    """Return the bits of every matrix that is rounded, by the name of its parameter.

    Raises:
        UserError: see `check_width`.
    """
    head, found = model.get_output_embeddings().weight, {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            is_layer = isinstance(module, nn.Linear | nn.Embedding) and own == "weight"
            # experts of a mixture are one parameter of three dimensions, and so are the few weights of a convolution
            if is_layer or (parameter.dim() == 3 and not isinstance(module, nn.Conv1d)):
                chosen = HEAD_BITS if parameter is head else bits
                check_width(parameter.shape[-1], chosen, f"{name}.{own}")
                found[f"{name}.{own}"] = chosen
    _check_covered(model, found)
    return found


def _check_covered(model: nn.Module, found: dict[str, int]) -> None:
    """Refuse an architecture whose matrices lie elsewhere than in layers that are known: they would stay in fp32."""
    left = {name: value.numel() for name, value in model.named_parameters() if name not in found}
    if sum(left.values()) > MOST_LEFT * sum(value.numel() for value in model.parameters()):
        largest = max(left, key=left.__getitem__)
        raise UserError(
            f"--format: expected a model whose matrices are linear layers, tables and experts, got "
            f"{type(model).__name__} with {largest}; export it as onnx, or use its folder of safetensors"
        )


def round_weights(model: PreTrainedModel, bits: int) -> None:
    """Let every matrix of a model be seen as it will be after rounding, while it is trained in full precision."""
    chosen = weight_bits(model, bits)  # before any of them changes its name
    for path, own_bits in chosen.items():
        owner, _, name = path.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(owner), name, _RoundTrip(own_bits), unsafe=True)


def release_weights(model: PreTrainedModel) -> None:
    """Give a model of `round_weights` its own weights back, in full precision."""
    for module in model.modules():
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    model.tie_weights()


class _RoundTrip(nn.Module):
    """`round_trip` as torch's parametrisation wants it."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight as it will be."""
        return round_trip(weight, self.bits)


def save_quantised(model: PreTrainedModel, folder: Path, bits: int) -> None:
    """Write config.json and the codes of a model in full precision.

    Raises:
        UserError: see `check_width`.
    """
    chosen, tensors = weight_bits(model, bits), {}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, value in model.state_dict().items():
        if tied and name.startswith("lm_head."):
            continue
        if name in chosen:
            codes = encode(value, chosen[name])
            tensors |= {f"{name}.values": codes.values, f"{name}.scales": codes.scales}
        else:
            tensors[name] = value.float()
    values = model.config.to_dict() | {"dtype": "float32", "quantization_config": _describe(bits)}
    type(model.config).from_dict(values).save_pretrained(folder)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def _describe(bits: int) -> dict[str, Any]:
    return {"quant_method": METHOD, "bits": bits, "head_bits": HEAD_BITS, "block": BLOCK if bits == 4 else None}


def load_quantised(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> PreTrainedModel:
    """Load a model of `save_quantised`; its weights stay codes in memory.

    Args:
        config: of the folder.
        dtype: of everything that is no code, and of activations.
    """
    # copies, at addresses as torch's kernels want them
    tensors = {name: value.clone() for name, value in load_file(folder / WEIGHTS, device=device).items()}
    values = config.to_dict()
    del values["quantization_config"]
    with init_empty_weights():  # buffers, such as rotary frequencies, are made as always
        model = AutoModelForCausalLM.from_config(type(config).from_dict(values), dtype=dtype)
    for path in [name.removesuffix(".values") for name in tensors if name.endswith(".values")]:
        codes = Codes(tensors.pop(f"{path}.values"), tensors.pop(f"{path}.scales"))
        owner, _, name = path.rpartition(".")
        _put(model, owner, name, codes, tensors.pop(f"{owner}.bias", None), dtype)
    if config.tie_word_embeddings:
        model.set_output_embeddings(QuantisedLinear(model.get_input_embeddings().codes, None, dtype))
    others = {name: value.to(dtype) for name, value in tensors.items()}
    model.load_state_dict(others, strict=False, assign=True)
    _check_whole(model, folder)
    return model.requires_grad_(False).to(device).eval()


def _put(
    model: PreTrainedModel, owner: str, name: str, codes: Codes, bias: torch.Tensor | None, dtype: torch.dtype
) -> None:
    """Put codes into the place of a weight."""
    module = model.get_submodule(owner)
    if isinstance(module, nn.Embedding):
        model.set_submodule(owner, QuantisedEmbedding(codes, dtype))
    elif isinstance(module, nn.Linear):
        model.set_submodule(owner, QuantisedLinear(codes, bias if bias is None else bias.to(dtype), dtype))
    else:
        _put_experts(module, name, codes, dtype)


def _put_experts(module: nn.Module, name: str, codes: Codes, dtype: torch.dtype) -> None:
    """Keep the experts of a layer as codes; all are decoded where the layer asks for its weight."""
    delattr(module, name)
    module.register_buffer(f"{name}_values", codes.values)
    module.register_buffer(f"{name}_scales", codes.scales)

    def weight(self: nn.Module) -> torch.Tensor:
        return decode(Codes(getattr(self, f"{name}_values"), getattr(self, f"{name}_scales")), dtype)

    # a class of its own, as torch's parametrisations make one: a property stands in the class
    module.__class__ = type(type(module).__name__, (type(module),), {name: property(weight)})


def _check_whole(model: PreTrainedModel, folder: Path) -> None:
    """Refuse a folder in which a weight is missing."""
    missing = [name for name, value in model.named_parameters() if value.device.type == "meta"]
    if missing:
        raise OSError(f"no weights for {missing[0]} in {folder / WEIGHTS}")
