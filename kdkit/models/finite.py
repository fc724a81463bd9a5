"""The first place where a model's numbers stop being numbers: which layer, on which text."""

import torch
from transformers import PreTrainedModel

from kdkit.errors import UserError
from kdkit.models.heads import autocast

REMEDY = "train.precision=fp32, or bf16 on a GPU that has it"


@torch.no_grad()
def check_finite(
    model: PreTrainedModel, input_ids: torch.Tensor, key: str, what: str, autocast_dtype: torch.dtype | None = None
) -> None:
    """Run a model and stop at NaN or inf among its logits, naming the model, the layer where they begin, and the text.

    Args:
        input_ids: int64, `[B, S]`.
        key: the setting that named the model, for messages.
        what: the text, in words.
        autocast_dtype: dtype for autocast; None: none.

    Raises:
        UserError: logits that are not finite.
    """
    first: list[str] = []
    input_ids = input_ids.to(model.device)

    def look(name: str, output: object) -> None:
        """Remember the first module whose output is not finite."""
        value = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
        if not first and isinstance(value, torch.Tensor) and value.is_floating_point() and not is_finite(value):
            first.append(name)

    with autocast(model, autocast_dtype):
        if is_finite(model(input_ids=input_ids, use_cache=False).logits):
            return
        handles = [
            module.register_forward_hook(lambda _, __, output, name=name: look(name, output))
            for name, module in model.named_modules()
            if name
        ]
        try:
            model(input_ids=input_ids, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    raise UserError(
        f"{key}: expected finite logits, got NaN or inf from {describe_model(model)}, first in layer "
        f"{first[0] if first else 'the logits'}, for {what}; check its weights, or run it in a dtype that holds them "
        f"({REMEDY})"
    )


def is_finite(values: torch.Tensor) -> bool:
    """Return whether all values are numbers."""
    return bool(values.isfinite().all())


def describe_model(model: PreTrainedModel) -> str:
    """Return a model's class and the dtype of its weights, for messages."""
    return f"{type(model).__name__} in {str(model.dtype).removeprefix('torch.')}"
