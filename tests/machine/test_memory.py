"""Memory of the process: what is held, and the peak since a moment."""

import sys

import numpy as np
import pytest
import torch

from kdkit.machine.memory import memory_in_use, read_peak, start_peak

CPU, MEGABYTE = torch.device("cpu"), 2**20
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what a process holds")


def hold(megabytes):
    """Hold memory that was written to: pages that nobody touched do not count."""
    return np.ones(megabytes * MEGABYTE, np.uint8)


def test_what_was_freed_counts_in_the_peak_only():
    before = start_peak(CPU)
    block = hold(100)
    del block
    assert 90 * MEGABYTE < read_peak(CPU) - before < 150 * MEGABYTE
    assert abs(memory_in_use(CPU) - before) < 20 * MEGABYTE


def test_what_is_held_is_in_use():
    before = memory_in_use(CPU)
    block = hold(100)
    assert 90 * MEGABYTE < memory_in_use(CPU) - before < 120 * MEGABYTE
    assert block.size == 100 * MEGABYTE


def test_a_peak_before_the_start_does_not_count():
    block = hold(200)
    del block
    start_peak(CPU)
    assert read_peak(CPU) - memory_in_use(CPU) < 50 * MEGABYTE


def test_many_small_blocks_are_given_back():
    before = memory_in_use(CPU)
    blocks = [bytes(1000) for _ in range(100_000)]
    held = memory_in_use(CPU)
    del blocks
    assert held - before > 80 * MEGABYTE
    assert memory_in_use(CPU) - before < 30 * MEGABYTE
