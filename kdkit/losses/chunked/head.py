"""The output head of a causal LM, apart from the model: hidden states in, logits out, some rows at a time."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Head:
    """logits = softcap * tanh(scale * (W h + bias) / softcap), without the cap where there is none."""

    weight: torch.Tensor
    """Rows h; rows beyond `vocab_size` are padding."""
    vocab_size: int
    """True size of the tokenizer, v."""
    bias: torch.Tensor | None = None
    scale: float = 1.0
    """Cohere's `logit_scale`, Granite's 1 / `logits_scaling`."""
    softcap: float | None = None
    """Gemma's `final_logit_softcapping`."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute the logits of some rows in fp32, a v; the product runs in the dtype of `hidden`."""
        logits = hidden @ self.weight[: self.vocab_size].to(hidden.dtype).T
        if self.bias is not None:
            logits = logits + self.bias[: self.vocab_size].to(hidden.dtype)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def undo_cap(self, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Turn a gradient by the logits into one by `W h + bias`, in place where it can."""
        if self.softcap is not None:
            gradient = gradient * (1.0 - (logits / self.softcap).square_())
        return gradient.mul_(self.scale) if self.scale != 1.0 else gradient
