"""Whole passes: what each process reads, dealt out by accelerate itself."""

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import SequentialSampler

from kdkit.training.order import EvenBatches, shuffled_order


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("num_rows", [*range(1, 30), 96, 97])
def test_processes_read_every_sequence_once_in_as_many_batches_each(num_rows, batch_size, num_processes):
    batches = EvenBatches(SequentialSampler(range(num_rows)), batch_size, num_processes)
    shards = [
        list(BatchSamplerShard(batches, num_processes, process, even_batches=False)) for process in range(num_processes)
    ]
    lengths = {len(shard) for shard in shards}
    assert lengths == {len(batches) // num_processes} == {-(-num_rows // (batch_size * num_processes))}
    sizes = [len(batch) for shard in shards for batch in shard]
    assert 1 <= min(sizes) <= max(sizes) <= batch_size
    counts = Counter(row for shard in shards for batch in shard for row in batch)
    assert set(counts) == set(range(num_rows))
    twice = sum(counts.values()) - num_rows
    if batch_size > 1 and num_rows >= num_processes:
        assert twice == 0
    assert twice < num_processes


def test_whole_rounds_are_dealt_out_in_turn():
    batches = list(EvenBatches(SequentialSampler(range(11)), 2, 2))
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
    assert list(EvenBatches(SequentialSampler(range(9)), 2, 2)) == [[0, 1], [2, 3], [4, 5], [6], [7], [8]]


@pytest.mark.parametrize(("num_sequences", "num_draws"), [(17, 51), (17, 60), (5, 3), (1, 4)])
def test_each_pass_of_a_shuffled_order_holds_every_sequence_once(num_sequences, num_draws):
    order = shuffled_order(num_sequences, num_draws, seed=1)
    passes = [order[start : start + num_sequences] for start in range(0, num_draws, num_sequences)]
    assert len(order) == num_draws
    assert all(len(set(each)) == len(each) for each in passes)
    assert all(sorted(each) == list(range(num_sequences)) for each in passes[:-1])
    assert num_sequences < 2 or num_draws < 34 or passes[0] != passes[1]
    assert order == shuffled_order(num_sequences, num_draws, seed=1)
    assert {type(row) for row in order} == {int}


def test_a_batch_sampler_that_accelerate_seeds_follows_it():
    batches = EvenBatches(SequentialSampler(range(4)), 2, 2)
    batches.sampler = [3, 1, 0, 2]
    assert list(batches) == [[3, 1], [0, 2]]
