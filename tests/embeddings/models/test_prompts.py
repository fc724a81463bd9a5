"""Prompts: by name or as texts, several of one model, and names that are mistyped."""

from dataclasses import replace

import numpy as np
import pytest

from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.models.places import choose_prompt
from kdkit.errors import UserError
from tests.embedders import save_teacher

OWN = {"query": "the cat ", "document": "a dog ", "STS": "", "web_search": "red "}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A teacher with several prompts, none of them in use."""
    model = load_embedding_model(str(save_teacher(tmp_path_factory.mktemp("m"))), "teacher.path")
    model.reading = replace(model.reading, prompts=OWN)
    return model


@pytest.mark.parametrize("pool_prompt", [True, False])
def test_one_model_reads_queries_and_documents_behind_their_prompts(model, pool_prompt):
    library = pytest.importorskip("sentence_transformers")
    model.reading = replace(model.reading, pool_prompt=pool_prompt)
    transformer, pooling, normalize = library.SentenceTransformer(model.backbone.name_or_path, device="cpu")
    pooling.include_prompt = pool_prompt
    theirs = library.SentenceTransformer(modules=[transformer, pooling, normalize], device="cpu", prompts=OWN)
    texts = ["big house", "it was not very quick and then slow"]
    for name in ("query", "document", "STS"):
        np.testing.assert_allclose(
            encode(model, texts, 2, prompt=name), theirs.encode(texts, prompt_name=name), atol=1e-5
        )
    np.testing.assert_allclose(encode(model, texts, 2), theirs.encode(texts), atol=1e-5)
    np.testing.assert_allclose(encode(model, texts, 2, prompt="big "), theirs.encode(texts, prompt="big "), atol=1e-5)


def test_the_prompt_in_use_stays_what_it_was(model):
    before = model.reading = replace(model.reading, prompt="a dog ")
    with_prompt = encode(model, ["big house"], 2)
    assert abs(encode(model, ["big house"], 2, prompt="") - with_prompt).max() > 1e-3
    assert model.reading == before
    np.testing.assert_array_equal(encode(model, ["big house"], 2), with_prompt)


@pytest.mark.parametrize(("typed", "meant"), [("Query", "query"), ("sts", "STS"), ("documents", "document")])
def test_a_name_that_is_mistyped_is_no_text(typed, meant):
    with pytest.raises(
        UserError, match=rf"teacher\.prompt: .*\(query, document, STS, web_search\), got '{typed}'; name '{meant}'"
    ):
        choose_prompt(typed, OWN, "teacher.prompt")


@pytest.mark.parametrize("text", ["query: ", "Query:", "Represent this sentence", "passage", ""])
def test_texts_are_texts(text):
    assert choose_prompt(text, OWN, "teacher.prompt") == text
    assert choose_prompt("Query", {}, "teacher.prompt") == "Query"


def test_a_declared_text_is_a_text_however_near_a_name_it_is():
    assert choose_prompt("Query", {"query": "Query", "document": ""}, "teacher.prompt") == "Query"
