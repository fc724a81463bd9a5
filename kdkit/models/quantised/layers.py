"""Layers whose weights lie in memory in 8 or 4 bits.

On a CPU the products are torch's own kernels for such weights, which take activations in bf16 (in fp32 they are 20
times slower, torch 2.13); elsewhere a weight is decoded for the product and forgotten.
"""

import torch
import torch.nn.functional as F
from torch import nn

from kdkit.models.quantised.rounding import BLOCK, Codes, decode, unpack

KERNEL_ROWS = 16
"""Rows of a weight in 4 bits that torch's kernel takes at once."""
KERNEL_WIDTH = 32
"""Numbers of a row that the kernels take at once: a width must be a multiple, which they leave to the caller."""
FEW_ROWS = 16
"""Up to so many rows of activations torch's kernel for 8 bits is the faster way; above, a product with the codes."""
ALIGNMENT = 16
"""Bytes: so the weight's address."""


class _Coded(nn.Module):
    """Holds a weight, `[N, K]`, as codes and scales."""

    values: torch.Tensor
    scales: torch.Tensor

    def __init__(self, codes: Codes, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("values", codes.values)
        self.register_buffer("scales", codes.scales)
        self.dtype = dtype

    @property
    def codes(self) -> Codes:
        """What it holds."""
        return Codes(self.values, self.scales)

    @property
    def weight(self) -> torch.Tensor:
        """The weight that is meant, decoded anew: `[N, K]`."""
        return decode(self.codes, self.dtype)


class QuantisedEmbedding(_Coded):
    """A table of tokens; only the rows that are asked for are decoded."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of ids: `[B, S]` to `[B, S, K]`."""
        return decode(Codes(F.embedding(input_ids, self.values), F.embedding(input_ids, self.scales)), self.dtype)


class QuantisedLinear(_Coded):
    """A product with a weight in 8 or 4 bits; it is not trained."""

    def __init__(self, codes: Codes, bias: torch.Tensor | None, dtype: torch.dtype):
        """Take a weight, and a bias in full precision or None."""
        super().__init__(codes, dtype)
        self.register_buffer("bias", bias)
        self.packed: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Multiply: `[..., K]` to `[..., N]`."""
        product = self._multiply(hidden.reshape(-1, hidden.shape[-1]).contiguous())  # as the kernels want them
        product = product.to(hidden.dtype).view(*hidden.shape[:-1], -1)
        return product if self.bias is None else product + self.bias

    def _multiply(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply by the quickest way that there is for so many rows, `[rows, K]` to `[rows, N]`."""
        fits = self._fits_kernel(rows)
        if self.is_int8 and not (fits and len(rows) <= FEW_ROWS):
            return F.linear(rows, self.values.to(rows.dtype)) * self.scales[:, 0].to(rows.dtype)
        if not fits:
            return F.linear(rows, decode(self.codes, rows.dtype))
        if self.is_int8:
            return torch._weight_int8pack_mm(rows.to(torch.bfloat16), self.values, self.scales[:, 0])
        values, scales = self._pack()
        return torch._weight_int4pack_mm_for_cpu(rows.to(torch.bfloat16), values, BLOCK, scales)

    @property
    def is_int8(self) -> bool:
        """Whether the weight has 8 bits; else 4."""
        return self.values.dtype == torch.int8

    def _fits_kernel(self, hidden: torch.Tensor) -> bool:
        """Return whether torch has a kernel for this weight here, and can take it as it is."""
        if hidden.device.type != "cpu" or hidden.shape[-1] % KERNEL_WIDTH:
            return False
        return self.values.data_ptr() % ALIGNMENT == 0 if self.is_int8 else len(self.values) % KERNEL_ROWS == 0

    def _pack(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return codes and scales in the order of torch's kernel, made once."""
        if self.packed is None:
            values = torch._convert_weight_to_int4pack_for_cpu(unpack(self.values).int(), 1)
            scales = self.scales.T.to(torch.bfloat16)
            self.packed = values, torch.stack([scales, torch.zeros_like(scales)], dim=-1).contiguous()
        return self.packed
