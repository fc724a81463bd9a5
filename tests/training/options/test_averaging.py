"""Averaged weights: the two formulas, and where an average begins."""

import pytest
import torch

from kdkit.config.recipe.settings import AverageConfig
from kdkit.training.options.averaging import WeightAverage
from tests.tiny import make_config, make_data, make_run, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 5


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaging")
    return folder, make_data(make_config(folder), folder)


def weights_of_steps(parts, tmp_path, average: AverageConfig) -> tuple[list[torch.Tensor], WeightAverage]:
    """Train; return a matrix after every step, and the average."""
    folder, data = parts
    config = make_config(folder, train={"average": average.model_dump()})
    trainer = make_trainer(config, make_run(tmp_path), data, steps=STEPS)
    seen: list[torch.Tensor] = []
    take = trainer.options.average.on_step_end

    def note(*arguments, **rest):
        seen.append(rest["model"].lm_head.weight.detach().clone())
        take(*arguments, **rest)

    trainer.options.average.on_step_end = note
    trainer.train()
    return seen, trainer.options.average


def test_a_moving_average_begins_with_the_first_weights_that_it_sees(parts, tmp_path):
    seen, average = weights_of_steps(parts, tmp_path, AverageConfig(kind="ema", decay=0.7))
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.7 * expected + 0.3 * weight
    assert torch.allclose(average.model.lm_head.weight, expected, atol=1e-7)


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.4, 2), (0.9, 4)])
def test_a_mean_is_that_of_the_steps_after_its_start(parts, tmp_path, start, first):
    seen, average = weights_of_steps(parts, tmp_path, AverageConfig(kind="uniform", start=start))
    assert len(seen) == STEPS
    expected = torch.stack(seen[first:]).mean(dim=0)
    assert torch.allclose(average.model.lm_head.weight, expected, atol=1e-6)


def test_before_its_start_there_is_none(parts):
    folder, data = parts
    config = make_config(folder, train={"average": {"kind": "ema"}})
    trainer = make_trainer(config, make_run(folder, "none"), data)
    assert trainer.options.averaged is None
