"""Weights in 8 and 4 bits, and back: the rounding that a quantised folder, a GGUF file and the recovery share.

8 bits: codes of -127 to 127 and a scale for every row, symmetric.
4 bits: GGUF's Q4_0, bit for bit: codes of 0 to 15 for blocks of 32 neighbours, whose weight is `(code - 8) * scale`;
the largest weight of a block, whatever its sign, has the code 0. Source: ggml-org/ggml, `quantize_row_q4_0_ref`.
"""

from dataclasses import dataclass

import torch

from kdkit.errors import UserError

BLOCK = 32
"""Weights that share a scale, in 4 bits."""


@dataclass(frozen=True)
class Codes:
    """A weight of shape `[..., K]` in few bits."""

    values: torch.Tensor
    """8 bits: int8, `[..., K]`. 4 bits: uint8, `[..., K / 2]`: the even columns in the lower half of each byte."""
    scales: torch.Tensor
    """8 bits: bf16, `[..., 1]`. 4 bits: fp16, `[..., K / 32]`."""


def check_width(width: int, bits: int, name: str) -> None:
    """Refuse a weight whose rows cannot be cut into blocks.

    Raises:
        UserError: 4 bits, and a width that is not a multiple of the block.
    """
    if bits == 4 and width % BLOCK:
        raise UserError(
            f"--format int4: expected weights whose width is a multiple of {BLOCK}, the block that shares a scale, got "
            f"{width} in {name}; use --format int8, or a student whose sizes are such multiples"
        )


def encode(weight: torch.Tensor, bits: int) -> Codes:
    """Round a weight, `[..., K]`, to 8 or 4 bits."""
    weight = weight.detach().float()
    if bits == 8:
        # in bf16, in which torch's kernel takes the scale: so nothing is rounded a second time
        scales = (weight.abs().amax(dim=-1, keepdim=True) / 127).to(torch.bfloat16)
        return Codes((weight * _inverse(scales.float())).round().clamp(-127, 127).to(torch.int8), scales)
    blocks = weight.unflatten(-1, (-1, BLOCK))
    largest = blocks.gather(-1, blocks.abs().argmax(dim=-1, keepdim=True))
    scales = largest / -8
    codes = (blocks * _inverse(scales) + 8.5).trunc().clamp(0, 15).to(torch.uint8).flatten(-2)
    return Codes(codes[..., ::2] | (codes[..., 1::2] << 4), scales[..., 0].to(torch.float16))


def decode(codes: Codes, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the weight that codes stand for, `[..., K]`."""
    if codes.values.dtype == torch.int8:
        return (codes.values.float() * codes.scales.float()).to(dtype)
    blocks = unpack(codes.values).unflatten(-1, (-1, BLOCK)).float() - 8
    return (blocks * codes.scales.float()[..., None]).flatten(-2).to(dtype)


def unpack(values: torch.Tensor) -> torch.Tensor:
    """Return the codes of 4 bits one by one: uint8, `[..., K / 2]` to `[..., K]`."""
    return torch.stack([values & 15, values >> 4], dim=-1).flatten(-2)


def round_trip(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return a weight as it is after rounding, while gradients pass as if nothing had happened.

    Source: Bengio, Leonard & Courville 2013, arXiv:1308.3432 (the straight-through estimator).
    """
    return weight + (decode(encode(weight, bits)) - weight).detach()


def _inverse(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales == 0, 0.0, 1 / scales)
