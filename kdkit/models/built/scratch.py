"""Random initial weights of the built teacher and the built student.

Measured on the student (width 64, two layers, 200 steps of 8 x 128 tokens, bits per byte on held-out text):
0.02 everywhere with tied embeddings about 3.1, untied 2.60, untied with wide input embeddings 2.51; see LOG.md.
"""

import torch
from transformers import PreTrainedModel

EMBEDDING_SPREAD = 0.5
"""Standard deviation of random input embeddings. They are normalised before use, so only the speed at
which training turns them depends on it."""


def initializer_range(hidden_size: int) -> float:
    """Return the spread of the other random weights: the usual 0.02 at width 625, wider for narrower models."""
    return 0.5 / hidden_size**0.5


@torch.no_grad()
def spread_embeddings(model: PreTrainedModel) -> PreTrainedModel:
    """Draw the input embeddings anew, wider than the other weights; a table that is the head too stays as it is."""
    if not model.config.tie_word_embeddings:
        model.get_input_embeddings().weight.normal_(std=EMBEDDING_SPREAD)
    return model
