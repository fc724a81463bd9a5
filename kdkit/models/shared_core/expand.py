"""An ordinary model of transformers made of one whose parts share a core: for programs that do not know kdkit."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kdkit.models.shared_core.model import SHARED, SharedCore, SharedExperts, SharedLinear, Wrapper, shared_parts


def plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the architecture of the ordinary model that computes the same; any other as it is."""
    kind = next((kind for kind in SHARED if isinstance(config, kind.config_class)), None)
    if kind is None:
        return config
    values = config.to_dict()
    del values["compression_config"]
    return kind.plain.config_class.from_dict(values | {"model_type": kind.plain.config_class.model_type})


def make_plain(model: PreTrainedModel) -> PreTrainedModel:
    """Return an ordinary model of transformers that computes what one with a shared core does; any other as it is."""
    if not isinstance(model, SharedCore):
        return model
    plain = AutoModelForCausalLM.from_config(plain_config(model.config), dtype=model.dtype).to(model.device)
    names = plain.state_dict().keys()
    weights = {name: value for name, value in model.state_dict().items() if name in names}
    with torch.no_grad():
        for name, part in shared_parts(model):
            if isinstance(part, SharedLinear):
                weights[f"{name}.weight"] = part.core + product(part.wrapper)
            elif isinstance(part, SharedExperts):
                core = part.shared_core
                weights[f"{name}.gate_up_proj"] = core.gate_up_proj + product(part.gate_up_wrapper)
                weights[f"{name}.down_proj"] = core.down_proj + product(part.down_wrapper)
    plain.load_state_dict(weights)
    plain.generation_config = model.generation_config
    return plain.eval()


def product(wrapper: Wrapper) -> torch.Tensor:
    """Return what a wrapper adds to its core, `[..., out, in]`."""
    return wrapper.outward @ wrapper.inward
