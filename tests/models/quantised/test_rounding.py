"""Weights in 8 and 4 bits: what is kept of them, the same as GGUF's, and gradients that pass."""

import pytest
import torch

from kdkit.errors import UserError
from kdkit.models.quantised.rounding import check_width, decode, encode, round_trip


@pytest.fixture(scope="module")
def weight():
    values = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))
    values[3] = 0.0
    values[5, :32] = -7.0  # a block of one value
    return values


def test_four_bits_are_ggufs_q4_0_bit_for_bit(weight):
    quants = pytest.importorskip("gguf.quants", reason="the Python package gguf is not installed")
    from gguf import GGMLQuantizationType

    stored = quants.quantize(weight.numpy(), GGMLQuantizationType.Q4_0)
    theirs = torch.from_numpy(quants.dequantize(stored, GGMLQuantizationType.Q4_0))
    assert torch.equal(decode(encode(weight, 4)), theirs)


def test_eight_bits_miss_a_weight_by_half_a_step_at_most(weight):
    step = weight.abs().amax(dim=-1, keepdim=True) / 127
    assert ((decode(encode(weight, 8)) - weight).abs() <= 0.75 * step).all()  # 0.5, and the scale's own rounding


@pytest.mark.parametrize(("bits", "bytes_each"), [(8, 1), (4, 0.5)])
def test_codes_take_so_many_bits(weight, bits, bytes_each):
    codes = encode(weight, bits)
    assert codes.values.numel() * codes.values.element_size() == bytes_each * weight.numel()


@pytest.mark.parametrize("bits", [8, 4])
def test_what_was_rounded_stays_as_it_is(weight, bits):
    once = decode(encode(weight, bits))
    assert torch.equal(decode(encode(once, bits)), once)


def test_experts_of_three_dimensions_are_rounded_row_by_row(weight):
    stacked = torch.stack([weight, -2 * weight])
    assert torch.equal(decode(encode(stacked, 4))[1], decode(encode(-2 * weight, 4)))


def test_gradients_pass_the_rounding(weight):
    own = weight.clone().requires_grad_()
    rounded = round_trip(own, 4)
    (rounded * weight).sum().backward()
    assert torch.equal(rounded.detach(), decode(encode(weight, 4)))
    assert torch.equal(own.grad, weight)


def test_a_width_that_fills_no_block_is_refused_in_four_bits_alone():
    with pytest.raises(UserError, match=r"multiple of 32, .* got 40 in mlp\.up_proj\.weight; use --format int8"):
        check_width(40, 4, "mlp.up_proj.weight")
    check_width(40, 8, "mlp.up_proj.weight")
