"""What the doctor for embedding models finds, and what it does not complain of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

from kdkit.embeddings.models.doctor import examine_embeddings, mean_off_diagonal_cosine
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.models.pooling import Reading

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["the river under the bridge", "a teacher", "morning in the garden, slowly", "winter letters to a student"]


@pytest.fixture
def make_model(small_pair):
    """Make a model with random weights that is read in a given way."""
    tokenizer = small_pair[0]

    def make(causal=False, **reading):
        torch.manual_seed(0)
        shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 2, "initializer_range": 0.5}
        if causal:
            backbone = Qwen3Model(Qwen3Config(**shape, num_key_value_heads=2, head_dim=8))
        else:
            backbone = BertModel(BertConfig(**shape, max_position_embeddings=64), add_pooling_layer=False)
        usual = {"pooling": "mean", "normalize": True, "max_length": 64, "own_pooling": "mean"}
        return EmbeddingModel(backbone, tokenizer, Reading(**usual | reading)).eval()

    return make


def findings(model, texts=TEXTS):
    """Return state and text of each topic."""
    return {finding.topic: (finding.state, finding.text) for finding in examine_embeddings(model, texts, 2)}


def test_nothing_is_wrong_with_a_model_read_as_its_folder_says(make_model):
    assert {state for state, _ in findings(make_model()).values()} == {"ok"}


def test_a_pooling_other_than_the_folders_is_a_problem(make_model):
    state, text = findings(make_model(pooling="cls", own_pooling="mean"))["pooling"]
    assert state == "problem"
    assert text.startswith("cls, but its folder says mean: set pooling=auto")


def test_the_first_token_of_a_causal_model_is_a_problem(make_model):
    state, text = findings(make_model(causal=True, pooling="cls", own_pooling=""))["pooling"]
    assert state == "problem"
    assert "set pooling=last" in text


def test_a_pooling_that_was_assumed_is_noted(make_model):
    assert findings(make_model(own_pooling=""))["pooling"][0] == "note"


def test_all_poolings_are_measured(make_model):
    model = make_model(pooling="last", own_pooling="last")
    text = findings(model)["pooling"][1]
    from kdkit.embeddings.models.embedder import encode

    for how in ("mean", "cls", "last"):
        vectors = encode(EmbeddingModel(model.backbone, model.tokenizer, replace(model.reading, pooling=how)), TEXTS, 4)
        assert f"{how} {mean_off_diagonal_cosine(vectors):.2f}" in text


def test_vectors_that_all_point_one_way_are_a_problem(make_model):
    model = make_model()
    with torch.no_grad():
        model.backbone.encoder.layer[-1].output.LayerNorm.bias += 50.0
    state, text = findings(model)["collapse"]
    assert state == "problem"
    assert "1.00" in text


def test_vectors_of_other_lengths_are_noted(make_model):
    assert findings(make_model(normalize=False))["normalisation"][0] == "note"


def test_a_prompt_left_out_is_noted(make_model):
    prompts = {"query": "Query: ", "document": ""}
    state, text = findings(make_model(prompts=prompts))["prompt"]
    assert (state, "query" in text, "document" in text) == ("note", True, False)
    assert findings(make_model(prompts=prompts, prompt="Query: "))["prompt"][0] == "ok"


def test_a_tokenizer_that_pads_an_absolute_model_left_is_a_problem(make_model):
    model = make_model()
    model.tokenizer.padding_side = "left"
    try:
        assert findings(model)["padding"][0] == "problem"
    finally:
        model.tokenizer.padding_side = "right"


def test_a_missing_end_token_is_noted_where_the_last_token_is_read(make_model):
    state, text = findings(make_model(causal=True, pooling="last", own_pooling="last"))["padding"]
    assert (state, "end token" in text) == ("note", True)
    assert findings(make_model(causal=True, pooling="mean"))["padding"][0] == "ok"


@pytest.mark.parametrize("texts", [[], ["one"], ["same", "same"], ["", "a"]])
def test_few_or_equal_texts_are_no_error(make_model, texts):
    assert len(findings(make_model(), texts)) == 5


def test_the_mean_cosine_equals_that_of_the_whole_matrix():
    vectors = np.random.default_rng(0).normal(size=(30, 8)) + 0.5
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units.T
    expected = cosines[~np.eye(30, dtype=bool)].mean()
    assert mean_off_diagonal_cosine(vectors.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


def test_the_mean_cosine_of_opposites_equals_and_singles():
    assert mean_off_diagonal_cosine(np.array([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-1.0)
    assert mean_off_diagonal_cosine(np.ones((5, 3))) == pytest.approx(1.0)
    assert mean_off_diagonal_cosine(np.zeros((3, 3))) == 0.0
    assert mean_off_diagonal_cosine(np.ones((1, 3))) == 0.0
