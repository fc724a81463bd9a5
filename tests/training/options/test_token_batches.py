"""Dynamic batching: which sequences stand together, within the budget and with the least padding."""

from itertools import pairwise

import numpy as np
import pytest

from kdkit.config.language import config_from_values
from kdkit.errors import UserError
from kdkit.training.options.token_batches import OVERHEAD, StepCollator, group_by_length, padded_size


def cost(lengths, groups, budget):
    """Return the tokens of all micro-batches, and what each costs beside."""
    return sum(len(group) * max(lengths[place] for place in group) + OVERHEAD * budget for group in groups)


def every_cut(places):
    """Yield every way to sort places into groups."""
    if not places:
        yield []
        return
    first, *rest = places
    for groups in every_cut(rest):
        yield [[first], *groups]
        for number, group in enumerate(groups):
            yield [*groups[:number], [first, *group], *groups[number + 1 :]]


@pytest.mark.parametrize("seed", range(30))
def test_no_other_cut_costs_less(seed):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 40, size=int(draw.integers(1, 8))).tolist()
    budget = int(draw.integers(40, 120))
    groups = group_by_length(lengths, budget)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    fitting = [
        cost(lengths, cut, budget)
        for cut in every_cut(list(range(len(lengths))))
        if all(len(group) * max(lengths[place] for place in group) <= budget for group in cut)
    ]
    assert cost(lengths, groups, budget) == pytest.approx(min(fitting))


def test_the_first_micro_batch_is_that_of_the_first_sequence_and_long_ones_stand_alone():
    assert group_by_length([5, 90, 6, 20, 4, 21], 42) == [[0, 2, 4], [1], [3, 5]]
    assert group_by_length([90, 5], 42) == [[0], [1]]
    assert group_by_length([], 42) == []


def test_many_sequences_keep_to_the_budget():
    lengths = np.random.default_rng(0).geometric(0.01, size=512).clip(1, 1024).tolist()
    groups = group_by_length(lengths, 4096)
    sizes = [len(group) * max(lengths[place] for place in group) for group in groups]
    assert max(sizes) <= 4096 and sorted(place for group in groups for place in group) == list(range(512))
    # neighbours in length stand together
    ranges = sorted((min(lengths[p] for p in group), max(lengths[p] for p in group)) for group in groups)
    assert all(first[1] <= second[0] for first, second in pairwise(ranges))
    read = sum(lengths)
    assert 1 - read / sum(sizes) < 0.15 < 0.4 < 1 - read / padded_size(lengths, 4)


def test_a_step_is_collated_group_by_group_and_says_what_it_would_take_ungrouped():
    class Rows:
        def lengths(self, rows):
            return [10 * row for row in rows]

        def __call__(self, rows):
            return {"rows": rows}

    step = StepCollator(Rows(), budget=60, batch_size=2)([3, 1, 5, 1, 3])
    assert step == {"micro_batches": [{"rows": [3, 3]}, {"rows": [1, 1]}, {"rows": [5]}], "ungrouped": 60 + 100 + 30}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"micro_batch_tokens": 100},
            "expected at least data.max_length, 128, or the longest .*, got 100; set ",
        ),
        ({"micro_batch_tokens": 500, "batch_schedule": {0.0: 2, 0.5: 4}}, "got train.batch_schedule beside it"),
        ({"micro_batch_tokens": 500, "length_schedule": {0.0: 32}}, "got train.length_schedule beside it"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(UserError, match=f"train.micro_batch_tokens: .*{said}"):
        config_from_values({"data": {"max_length": 128}, "train": settings})
