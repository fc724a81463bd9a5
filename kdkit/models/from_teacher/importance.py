"""What matters in a model, measured on text."""

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.taps import decoder_layers


@torch.no_grad()
def layer_influences(model: PreTrainedModel, text: list[TextBatch]) -> list[float]:
    """Return how much each layer turns the residual stream: `1 - cos(in, out)`, the mean over all places.

    Source: block influence of ShortGPT, arXiv:2403.03853, eq. 1.
    """
    layers = decoder_layers(model)
    sums, count, is_read = torch.zeros(len(layers), dtype=torch.float64), 0, torch.zeros(0)
    handles = []

    def watch(number: int) -> None:
        def hook(_: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            before = (args[0] if args else kwargs["hidden_states"])[is_read]
            after = (output[0] if isinstance(output, tuple) else output)[is_read]
            sums[number] += (1.0 - F.cosine_similarity(before.float(), after.float(), dim=-1)).sum().item()

        handles.append(layers[number].register_forward_hook(hook, with_kwargs=True))

    for number in range(len(layers)):
        watch(number)
    try:
        for batch in text:
            is_read = batch.is_read.to(model.device)
            model.base_model(input_ids=batch.input_ids.to(model.device), use_cache=False)
            count += int(is_read.sum())
    finally:
        for handle in handles:
            handle.remove()
    return (sums / max(count, 1)).tolist()
