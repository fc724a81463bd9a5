"""What a search chooses from: ranges and values, read from the command line and checked against the settings."""

import pytest

from kdkit.config.language import load_config
from kdkit.errors import UserError
from kdkit.workflow.search.space import read_space
from tests.workflow.projects import ROOT

SMOKE = str(ROOT / "configs" / "smoke.yaml")


def read(*texts, overrides=()):
    return read_space(SMOKE, list(overrides), list(texts))


def test_a_range_is_of_whole_numbers_where_the_setting_takes_no_others():
    warmup, ratio, rate = read("train.warmup_steps=0:6", "distill.kd_ratio=0:1", "train.learning_rate=1e-5:1e-2:log")
    assert (warmup.is_whole, ratio.is_whole, rate.is_whole) == (True, False, False)
    assert (rate.low, rate.high, rate.is_log) == (1e-5, 1e-2, True)
    assert rate.words == "1e-05 to 0.01, by its logarithm" and warmup.words == "0 to 6, whole numbers"


def test_values_may_be_mappings_and_come_back_as_they_were_given():
    (loss,) = read("distill.loss=alm,{name: projected_kl, divergence: jsd}")
    texts = loss.distribution().choices
    assert [loss.value(text) for text in texts] == ["alm", {"name": "projected_kl", "divergence": "jsd"}]


def test_the_configuration_s_own_value_is_found_in_ranges_and_among_values():
    overrides = ["distill.kd_ratio=0.25", "distill.loss=alm"]
    ratio, loss, steps = read(
        "distill.kd_ratio=0:1", "distill.loss=gold,alm", "train.max_steps=1:5", overrides=overrides
    )
    config = load_config(SMOKE, overrides)
    assert ratio.own(SMOKE, overrides, config) == 0.25
    assert loss.own(SMOKE, overrides, config) == "alm"
    assert steps.own(SMOKE, overrides, config) is None  # 12 lies outside


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["distill.temperatur=1:2"], "did you mean 'distill.temperature'?"),
        (["distill.kd_ratio=0:2"], "distill.kd_ratio: expected"),
        (["distill.kd_ratio=1:0"], "expected the lower end first, got 'distill.kd_ratio=1:0'"),
        (["distill.kd_ratio=0:1:log"], "expected a lower end above 0 with :log"),
        (["distill.temperature=1:2:lin"], "expected nothing or :log behind a range, got ':lin'"),
        (["distill.temperature=a:b"], "expected numbers, got 'distill.temperature=a:b'"),
        (["distill.temperature=2"], "expected section.key=LOW:HIGH or several values, got 'distill.temperature=2'"),
        (["distill.loss=alm,tvdd"], "distill.loss"),
        (["seed=0:5"], "expected any setting but the seed"),
        (["distill.kd_ratio=0:1", "distill.kd_ratio=0,1"], "expected every key once, got distill.kd_ratio twice"),
    ],
)
def test_a_wrong_space_is_refused(texts, words):
    with pytest.raises(UserError) as caught:
        read(*texts)
    assert words in str(caught.value)
