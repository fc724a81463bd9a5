"""Every sampling option gives the distribution that it states: frequencies of many draws beside an own reference."""

import numpy as np
import pytest
import torch

from kdkit.models.generation import Sampling, generate_ids
from tests.tiny import make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, DRAWS = 40, 8_000
OPTIONS = [
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 4},
    {"top_p": 0.6},
    {"min_p": 0.3},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5},
    {"temperature": 1.5, "repetition_penalty": 1.3, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
]


@pytest.fixture(scope="module")
def model():
    """Return a model that likes some tokens much more than others."""
    model = make_llama(SIZE).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    return model


@pytest.fixture(scope="module")
def prompt(model):
    """Return the prompt whose last token is the most likely to come again, so that a penalty matters."""
    prompts = torch.tensor([[0, 5, token] for token in range(SIZE)])
    with torch.no_grad():
        again = model(prompts).logits[:, -1].softmax(-1).diagonal()
    return prompts[int(again.argmax())].tolist()


def expected_probabilities(logits, prompt, sampling):
    """Return what should be drawn from, token by token in plain numpy: penalty, temperature, then the three cuts."""
    logits = logits.copy()
    for token in set(prompt):
        logits[token] *= sampling.repetition_penalty if logits[token] < 0 else 1 / sampling.repetition_penalty
    weights = np.exp(logits / sampling.temperature)
    probabilities = weights / weights.sum()
    order = np.argsort(-probabilities)
    if sampling.top_k:
        probabilities[order[sampling.top_k :]] = 0.0
        probabilities /= probabilities.sum()
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= sampling.top_p]] = 0.0
    probabilities /= probabilities.sum()
    probabilities[probabilities < sampling.min_p * probabilities.max()] = 0.0
    return probabilities / probabilities.sum()


def draw(model, prompt, sampling):
    """Return how often each token was drawn first."""
    options = {"vocab_size": SIZE, "num_samples": DRAWS, "batch_size": DRAWS}
    (samples,) = generate_ids(model, [prompt], sampling, [], **options)
    return np.bincount([sample.ids[0] for sample in samples], minlength=SIZE)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_the_drawn_frequencies_are_those_that_the_options_state(model, prompt, option):
    sampling = Sampling(max_new_tokens=1, **option)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double().numpy()
    expected, counts = expected_probabilities(logits, prompt, sampling), draw(model, prompt, sampling)
    assert counts[expected == 0.0].sum() == 0
    often = expected * DRAWS >= 5
    degrees = often.sum() - 1
    chi_square = ((counts - expected * DRAWS)[often] ** 2 / (expected * DRAWS)[often]).sum()
    assert degrees >= 1 and chi_square < degrees + 5 * np.sqrt(2 * degrees)
    # and the option does something: the plain distribution would not pass
    plain = expected_probabilities(logits, prompt, Sampling())
    apart = ((counts - plain * DRAWS) ** 2 / (plain * DRAWS)).sum()
    assert apart > SIZE + 8 * np.sqrt(2 * SIZE)
