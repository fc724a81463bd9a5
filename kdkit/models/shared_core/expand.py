"""An ordinary model of transformers made of one whose parts share a core: for programs that do not know kdkit."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from kdkit.models.shared_core.model import SharedCore, SharedExperts, SharedLinear, Wrapper, shared_parts


def expand_core(model: SharedCore) -> PreTrainedModel:
    """Make an ordinary model of transformers, which computes the same, of one whose parts share a core."""
    values = model.config.to_dict()
    del values["compression_config"]
    plain_config = model.plain.config_class
    config = plain_config.from_dict(values | {"model_type": plain_config.model_type})
    plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype).to(model.device)
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
