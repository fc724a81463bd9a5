"""Courses of the learning rate and the weight decay: transformers' own, to the steps of the training."""

import inspect

import pytest
import torch
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

from kdkit.config.language import config_from_values
from kdkit.config.recipe.schedules import SCHEDULE_OPTIONS
from kdkit.errors import UserError
from kdkit.training.options.schedules import BASE, schedule_options
from tests.tiny import make_config, make_data, make_run, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

GIVEN = {
    "cosine": {"num_cycles": 1.5},
    "cosine_with_restarts": {"num_cycles": 2},
    "cosine_with_min_lr": {"min_lr_rate": 0.5},
    "polynomial": {"power": 3, "lr_end": 1e-4},
    "inverse_sqrt": {"timescale": 4},
    "warmup_stable_decay": {"decay_share": 0.8, "decay_type": "linear", "min_lr_ratio": 0.25},
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schedules")
    return folder, make_data(make_config(folder), folder)


def rates_of(parts, tmp_path, name: str, options: dict) -> list[float]:
    folder, data = parts
    settings = {"lr_schedule": name, "lr_schedule_options": options, "warmup_steps": 2, "max_steps": 10}
    config = make_config(folder, train=settings)
    run = make_run(tmp_path, "-".join([name, *map(str, options.values())]))
    trainer = make_trainer(config, run, data, steps=10)
    trainer.train()
    return [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("name", SCHEDULE_OPTIONS)
def test_the_rate_is_transformers_own_with_the_options_that_were_given(parts, tmp_path, name):
    given = GIVEN.get(name, {})
    function = TYPE_TO_SCHEDULER_FUNCTION[name]
    wanted = dict(given)
    if name == "warmup_stable_decay":
        wanted["num_decay_steps"] = round(wanted.pop("decay_share") * 10)
    takes = inspect.signature(function).parameters
    lengths = {"num_warmup_steps": 2, "num_training_steps": 10}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    schedule = function(optimizer, **{n: v for n, v in lengths.items() if n in takes}, **wanted)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rates = rates_of(parts, tmp_path, name, given)
    assert rates == pytest.approx(expected)
    if given:
        free = {"min_lr_rate": 0.1} if name == "cosine_with_min_lr" else {}
        assert rates != pytest.approx(rates_of(parts, tmp_path, name, free)), "the options act"


def test_every_option_that_is_listed_is_transformers_own():
    for name, options in SCHEDULE_OPTIONS.items():
        takes = inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[name]).parameters
        assert {"num_decay_steps" if option == "decay_share" else option for option in options} <= set(takes)


def test_the_decay_takes_its_share_of_however_many_steps():
    train = config_from_values({"train": {"lr_schedule": "warmup_stable_decay", "warmup_steps": 10}}).train
    assert schedule_options(train, 1000) == {"num_decay_steps": 200}
    assert schedule_options(train, 12) == {"num_decay_steps": 2}, "the warm-up leaves room for it"
    assert schedule_options(config_from_values({}).train, 100) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_schedule": "linear", "lr_schedule_options": {"power": 2}}, "expected none for linear, got 'power'"),
        ({"lr_schedule": "cosine_with_min_lr"}, "either min_lr or min_lr_rate"),
        ({"lr_schedule": "warmup_stable_decay", "lr_schedule_options": {"decay_share": 1.5}}, "at most 1, got 1.5"),
        (
            {"lr_schedule": "warmup_stable_decay", "lr_schedule_options": {"decay_type": "x"}},
            "linear, cosine or 1-sqrt",
        ),
        ({"lr_schedule": "polynomial", "lr_schedule_options": {"power": "abc"}}, "power: expected a number, got 'abc'"),
        ({"lr_schedule": "polynomial", "lr_schedule_options": {"power": -1}}, "power: expected above 0, got -1"),
        ({"lr_schedule": "polynomial", "lr_schedule_options": {"lr_end": -2}}, "lr_end: expected from 0 to below"),
        ({"lr_schedule": "polynomial", "learning_rate": 1e-8}, "lr_end: expected from 0 to below train.learning_rate"),
        ({"lr_schedule": "inverse_sqrt", "lr_schedule_options": {"timescale": 0}}, "timescale: expected above 0"),
        ({"lr_schedule_options": {"num_cycles": "nan"}}, "num_cycles: expected a number, got 'nan'"),
        ({"lr_schedule": "cosine_with_restarts", "lr_schedule_options": {"num_cycles": 1.5}}, "a whole number"),
        (
            {"lr_schedule": "cosine_with_min_lr", "lr_schedule_options": {"min_lr": 1}},
            "min_lr: expected from 0",
        ),
        ({"lr_schedule": "warmup_stable_decay", "lr_schedule_options": {"min_lr_ratio": 2}}, "from 0 to 1, got 2"),
        (
            {
                "lr_schedule": "polynomial",
                "lr_schedule_options": {"lr_end": 1e-5},
                "stages": [{"name": "a", "max_steps": 1, "learning_rate": 1e-6}],
            },
            "below learning_rate of stage 'a', 1e-06, got 1e-05",
        ),
        ({"lr_schedule": "reduce_lr_on_plateau"}, "lr_schedule"),
        ({"muon": {"momentum": 0.5}}, "train.muon: expected train.optimizer=muon beside it"),
        ({"average": {"decay": 0.5}}, "train.average: expected train.average.kind=ema beside it"),
        ({"average": {"kind": "uniform", "decay": 0.5}}, "train.average.decay: expected train.average.kind=ema"),
        ({"multi_token": {"weight": 1.0}}, "train.multi_token.weight: expected train.multi_token.num_tokens=1"),
        ({"multi_token": {"num_tokens": 600}}, "expected at most 510, what a sequence of data.max_length, 512 tokens"),
        ({"adam_betas": [0.9, 0.99, 0.999]}, r"train.adam_betas: expected at most 2 items, got \[0.9, 0.99, 0.999\]"),
        ({"weight_decay": 0.0, "weight_decay_end": 0.1}, "expected train.weight_decay above 0"),
        (
            {"batch_schedule": {0.5: 8}},
            "from share 0 on, got shares 0.5; add one: {0: 4, 0.5: 8}",
        ),
        ({"length_schedule": {0: 4}}, "expected lengths from 8 to data.max_length, 512, got 4"),
        ({"length_schedule": {0: 600}}, "got 600"),
        ({"multi_token": {"num_tokens": 1}, "stages": [{"name": "a", "max_steps": 1, "on_policy": {}}]}, "on-policy"),
        ({"length_schedule": {0: 8}, "stages": [{"name": "a", "max_steps": 1, "on_policy": {}}]}, "whole ones"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as error:
        config_from_values({"train": settings})
    assert "\n" not in str(error.value)


def test_pieces_need_a_teacher_that_reads_them():
    for other in ({"cache": {"enabled": True}}, {"router": {"kind": "student_aware"}}):
        with pytest.raises(UserError, match=r"train.length_schedule: expected sequences that may be read in pieces"):
            config_from_values({"train": {"length_schedule": {0: 8}}} | other)


def test_weight_decay_moves_in_a_straight_line_and_biases_and_norms_have_none(parts, tmp_path):
    folder, data = parts
    config = make_config(folder, train={"weight_decay": 0.4, "weight_decay_end": 0.1})
    trainer = make_trainer(config, make_run(tmp_path), data, steps=4)
    seen: list[list[float]] = []
    step = torch.optim.AdamW.step

    def note(self, *arguments):
        seen.append([group["weight_decay"] for group in self.param_groups])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", note)
        trainer.train()
    assert [values[0] for values in seen] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert all(values[1] == 0.0 for values in seen)
    assert trainer.optimizer.param_groups[0][BASE] == 0.4
