"""The verifier reads what it says it reads, and learns what states tell."""

import numpy as np
import pytest
import torch

from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.evaluate.maths.verifier import describe_scores, fit_verifier, read_states
from kdkit.models.writer import read_prompt
from tests.tiny import make_llama

PROMPTS = ["Solve 2x = 4.\n", "Solve 3x = 9 and say why.\n", "Solve x = 1.\n"]
TEXTS = ["x = 2", "x = 3 since 9 / 3 = 3", ""]


@pytest.fixture(scope="module")
def model():
    """Make a small model and its tokenizer."""
    tokenizer = train_tokenizer([*PROMPTS, *TEXTS] * 3, 300)
    return make_llama(len(tokenizer), seed=3).eval(), tokenizer


def test_states_are_those_of_the_solutions_tokens_alone(model):
    model, tokenizer = model
    states = read_states(model, tokenizer, PROMPTS, TEXTS, batch_size=2)
    for row, prompt, text in zip(states, PROMPTS, TEXTS, strict=True):
        before, own = read_prompt(prompt, tokenizer), tokenizer(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            hidden = model.base_model(input_ids=torch.tensor([before + own])).last_hidden_state[0]
        # of an empty solution there is the prompt's last token
        own_states = hidden[len(before) :] if own else hidden[-1:]
        expected = torch.cat([own_states[-1], own_states.mean(dim=0)])
        assert row == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_head_learns_to_tell_right_from_wrong_on_fresh_samples():
    draw = np.random.default_rng(0)
    is_right = draw.random(400) < 0.5
    states = draw.normal(size=(400, 10)).astype(np.float32)
    states[:, 3] += 2.0 * is_right
    verifier = fit_verifier(states[:200], is_right[:200].tolist())
    quality = describe_scores(verifier.scores(states[200:]), is_right[200:].tolist())
    assert quality["area_under_curve"] > 0.85 and quality["solutions"] == 200
    blind = describe_scores(draw.random(200), is_right[200:].tolist())
    assert 0.35 < blind["area_under_curve"] < 0.65


def test_there_is_nothing_to_learn_where_all_are_alike():
    states = np.zeros((4, 2), np.float32)
    assert fit_verifier(states, [True] * 4) is None
    assert describe_scores(np.zeros(4), [False] * 4)["area_under_curve"] is None
