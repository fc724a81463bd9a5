"""Models whose parameters several processes share out (FSDP2), each holding a part: made whole where that is needed."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel


def is_shared_out(model: nn.Module) -> bool:
    """Return whether this process holds a part of the parameters only."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def whole_state(model: nn.Module) -> dict[str, Any] | None:
    """Put the weights of a model together, on the CPU; all processes call it.

    Returns:
        The weights by name, in the first process; nothing in the others. None: the model is whole everywhere.
    """
    if not is_shared_out(model):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def whole_model(model: PreTrainedModel) -> PreTrainedModel | None:
    """Return a model as it is, or a whole copy of one that is shared out; None in all processes but the first."""
    state = whole_state(model)
    if state is None:
        return model
    if not state:
        return None
    with torch.random.fork_rng(devices=[]):  # its weights are drawn, and dropout goes on as without it
        copy = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    copy.load_state_dict(state)
    return copy.to(model.device)
