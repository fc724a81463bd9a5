"""A method with weights of 0: its other terms train, and one without any term is refused."""

import pytest

from kdkit.embeddings.methods.base import PairFacts
from kdkit.embeddings.training.checks import check_method
from kdkit.embeddings.training.train import build_method
from kdkit.errors import UserError
from tests.embedders import make_config, make_embedder

ZERO = [
    {"name": "talas", "anchor_weight": 0, "structure_weight": 0, "task_weight": 0},
    {"name": "dskd", "sentence_weight": 0, "token_weight": 0, "task_weight": 0},
    {"name": "rkd", "distance_weight": 0, "angle_weight": 0},
    {"name": "list_kl", "list_weight": 0, "cosine_weight": 0},
]


@pytest.mark.parametrize("options", ZERO, ids=lambda options: options["name"])
def test_a_method_without_any_weight_is_refused(options):
    method = build_method(make_config(method=options).method, PairFacts(16, 24, 3, 6))
    with pytest.raises(UserError, match=rf"^method: expected a weight above 0 for {options['name']}, got 0"):
        check_method(options["name"], method, make_embedder(), {"num_layers": 6, "pooling": "mean"})
