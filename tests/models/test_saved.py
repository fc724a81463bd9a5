"""A checkpoint goes into the model that it was made of, and into no other."""

import pytest
import torch
from transformers import set_seed

from kdkit.config.built.student import BuildStudentConfig
from kdkit.distill import train as stage
from kdkit.errors import UserError
from kdkit.models.built.dense import build_model, describe_model
from kdkit.models.saved import load_checkpoint
from kdkit.training.progress import Progress
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher

SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "tokenizer": "own"}


def build(tokenizer, seed=0, **options):
    settings = BuildStudentConfig(**SIZES | options)
    set_seed(seed)
    return build_model(describe_model(settings, tokenizer, context=64, intermediate_size=settings.intermediate_size))


@pytest.fixture(scope="module")
def saved(small_pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoint-3"
    build(small_pair[0]).save_pretrained(folder)
    return folder


def test_the_weights_are_read_into_the_same_model(saved, small_pair):
    model = build(small_pair[0], seed=1)
    load_checkpoint(model, saved)
    expected = build(small_pair[0]).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "needed", "got"),
    [
        ({"hidden_size": 16}, "hidden_size=16", "hidden_size=32"),
        ({"num_layers": 3}, "num_layers=3", "num_layers=2"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2", "num_key_value_heads=4"),
        ({"tie_embeddings": True}, "tie_embeddings=True", "tie_embeddings=False"),
        ({"hidden_act": "relu2"}, "hidden_act=relu2", "hidden_act=silu"),
        ({"sliding_window": 4}, "sliding_window=4", "sliding_window=None"),
    ],
)
def test_a_checkpoint_of_another_size_is_refused_in_one_line(saved, small_pair, options, needed, got):
    with pytest.raises(UserError) as caught:
        load_checkpoint(build(small_pair[0], **options), saved)
    message = str(caught.value)
    assert "\n" not in message
    assert f"that is configured ({needed}" in message and f"got {got}" in message
    assert "checkpoint-3; start over without --resume (RESUME = False)" in message


def test_resuming_with_another_width_says_which(tmp_path, monkeypatch):
    config = make_config(tmp_path)
    data, run = make_data(config, tmp_path), make_run(tmp_path)
    on_step_end = Progress.on_step_end

    def stop_at_five(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == 5:
            raise KeyboardInterrupt

    teacher = make_teacher(data)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", stop_at_five)
        stage.distill(make_plan(config, run, data), teacher)
    build = config.student.build.model_copy(update={"hidden_size": 32})
    wider = config.model_copy(update={"student": config.student.model_copy(update={"build": build})})
    with pytest.raises(UserError, match=r"configured \(hidden_size=32\), got hidden_size=16 in .*checkpoint-3"):
        stage.distill(make_plan(wider, run, data), teacher, resume=True)
