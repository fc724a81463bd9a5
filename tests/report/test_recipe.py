"""The line that says how a student was made names what its training did beyond the plain recipe."""

from kdkit.config.language import config_from_values
from kdkit.report.recipe import language_recipe, training_options


def recipe(**train: object) -> dict[str, str]:
    return dict(language_recipe(config_from_values({"train": train}).model_dump(), {}, 10))


def test_the_plain_recipe_needs_no_words_and_neither_does_an_older_run():
    assert "trained with" not in recipe() and training_options({"learning_rate": 1.0}) == []


def test_every_option_is_named():
    words = recipe(
        optimizer="muon",
        adam_betas=[0.9, 0.95],
        lr_schedule="warmup_stable_decay",
        weight_decay=0.1,
        weight_decay_end=0.0,
        average={"kind": "ema"},
        multi_token={"num_tokens": 2},
        batch_schedule={0.5: 8, 0: 2},
        length_schedule={0: 32},
    )["trained with"]
    assert words == (
        "muon, betas 0.9 and 0.95, warmup stable decay, weight decay 0.1 to 0, moving average of weights, "
        "2 further tokens, batch 2, 8, length 32"
    )
