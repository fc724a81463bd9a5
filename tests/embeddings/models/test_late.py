"""Token vectors: equal to those of MultiVectorEncoder, and what is seen, scored, cut and left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdkit.embeddings.evaluate.by_mteb import score_by_mteb
from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.late import LateReading, parse_late, write_late
from kdkit.embeddings.models.onnx import check_exportable
from kdkit.embeddings.models.token_vectors import encode_tokens, pad_vectors, role_batch, role_ids
from kdkit.errors import UserError
from kdkit.losses.ranking.late_interaction import maxsim
from tests.late_models import LATE_WIDTH, make_late, save_encoder

QUERIES = ["the cat", "a big red house and the tree", "dog " * 30]
DOCUMENTS = ["the cat, the dog.", "it was not very quick", "., ,", "slow " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny encoder."""
    path = tmp_path_factory.mktemp("late")
    save_encoder(path)
    return path


def similarity(model, queries, documents):
    """Return the scores of all pairs by our own functions."""
    (asked, counted), (found, there) = pad_vectors(queries), pad_vectors(documents)
    return maxsim(asked, found, counted, there, mean=model.reading.late.mean)


@pytest.mark.parametrize(
    "reading",
    [
        {},
        {"mean": True, "query_prompt": "the ", "document_prompt": "a "},
        {"attend": True},
        {"query_length": 20},
        {"expansion": 0},
        {"expansion_token": "[SEP]", "skipped": (), "query_length": 24},
        {"skipped_in": ("query", "document")},
    ],
)
def test_a_saved_model_is_what_the_library_makes_of_it(folder, tmp_path, reading):
    library = pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs version 6")
    model = make_late(folder, **reading)
    saved = save_embedding_model(model, tmp_path / "saved")
    again, theirs = load_embedding_model(str(saved), "student.path"), library.MultiVectorEncoder(str(saved))
    assert again.reading.late == model.reading.late
    queries = theirs.encode_query(QUERIES, convert_to_numpy=True)
    documents = theirs.encode_document(DOCUMENTS, convert_to_numpy=True)
    for texts, role, expected in ((QUERIES, "query", queries), (DOCUMENTS, "document", documents)):
        for ours in (encode_tokens(model, texts, role, 2), encode_tokens(again, texts, role, 3)):
            for one, other in zip(ours, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
    scores = similarity(
        again, encode_tokens(again, QUERIES, "query", 4), encode_tokens(again, DOCUMENTS, "document", 4)
    )
    torch.testing.assert_close(scores, theirs.similarity(queries, documents).cpu(), atol=1e-4, rtol=1e-5)


def test_what_the_library_saves_is_read(folder, tmp_path):
    pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs version 6")
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    token = {"module_input_name": "token_embeddings"}
    parts = [
        Transformer(str(folder / "encoder"), document_length=9, query_expansion={"strategy": "min", "length": 6}),
        Dense(24, 7, bias=False, activation_function=torch.nn.Identity(), **token),
        MultiVectorMask(skiplist_words=[","]),
        Normalize(**token),
    ]
    library = MultiVectorEncoder(modules=parts, prompts={"query": "the ", "document": "a "})
    library.save_pretrained(str(tmp_path / "theirs"))
    ours = load_embedding_model(str(tmp_path / "theirs"), "teacher.path")
    assert (ours.width, ours.reading.late.expansion, ours.reading.late.document_prompt) == (7, 6, "a ")
    for role, texts, encode in (
        ("query", QUERIES[:2], library.encode_query),
        ("document", DOCUMENTS, library.encode_document),
    ):
        for one, other in zip(encode_tokens(ours, texts, role, 2), encode(texts, convert_to_numpy=True), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_vectors_have_length_one_whatever_stands_beside_a_text(folder):
    model = make_late(folder)
    together = encode_tokens(model, DOCUMENTS, "document", 4)
    for text, vectors in zip(DOCUMENTS, together, strict=True):
        (alone,) = encode_tokens(model, [text], "document", 1)
        np.testing.assert_allclose(vectors, alone, atol=1e-6)
        assert vectors.shape[1] == LATE_WIDTH
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_short_queries_are_filled_up_and_only_scored(folder):
    model = make_late(folder)
    late, tokenizer = model.reading.late, model.tokenizer
    batch = role_batch(tokenizer, role_ids(tokenizer, QUERIES, "query", late), "query", late)
    assert batch.input_ids.shape == (3, 12) and batch.counts.all()
    assert batch.input_ids[0, 4:].tolist() == [tokenizer.mask_token_id] * 8
    assert batch.attention_mask.sum(dim=1).tolist() == [4, 9, 12]
    seen = role_batch(tokenizer, [[2, 3]], "query", replace(late, attend=True))
    assert seen.attention_mask.tolist() == [[1] * 12]
    unfilled = role_batch(tokenizer, [[2, 5, 3], [2, 3]], "query", replace(late, expansion=0))
    assert unfilled.counts.tolist() == [[True] * 3, [True, True, False]]


def test_punctuation_of_documents_does_not_count(folder):
    model = make_late(folder)
    late, tokenizer = model.reading.late, model.tokenizer
    ids = role_ids(tokenizer, ["the cat, the dog."], "document", late)
    batch = role_batch(tokenizer, ids, "document", late)
    skipped = [tokenizer.decode([number]) for number in batch.input_ids[0][~batch.counts[0]]]
    assert skipped == [",", "."] and batch.attention_mask.all()
    asked = role_batch(tokenizer, role_ids(tokenizer, ["cat,"], "query", late), "query", late)
    assert asked.counts.all()


def test_lengths_are_cut_to_the_context_and_no_fill_token_is_refused(folder, tmp_path):
    model = make_late(folder, document_length=100)
    saved = save_embedding_model(model, tmp_path / "long")
    assert load_embedding_model(str(saved), "student.path").reading.late.document_length == 32
    plain = load_embedding_model(str(folder / "plain"), "teacher.path")
    with pytest.raises(UserError, match=r"expected a tokenizer with a mask or end token.*query_expansion=false"):
        role_batch(plain.tokenizer, [[2, 3]], "query", model.reading.late)


def test_settings_survive_being_written_and_images_are_refused():
    late = LateReading(32, 100, "Q ", "D ", 16, True, "[MASK]", (",",), ("query", "document"), True)
    assert parse_late(*write_late(late), 512, "name", "key") == late
    with pytest.raises(UserError, match=r"^key: expected a model of texts, got 'name'"):
        parse_late({}, {"keep_only_token_ids": [5]}, {}, 512, "name", "key")


def test_what_is_made_for_one_vector_is_refused_by_name(folder, tmp_path):
    model = make_late(folder)
    with pytest.raises(UserError, match=r"^--format onnx: expected a model with one vector for a text"):
        check_exportable(model, "--format onnx")
    saved = save_embedding_model(model, tmp_path / "saved")
    with pytest.raises(UserError, match=r"^--tasks: expected models with one vector for a text"):
        score_by_mteb(str(saved), [], "--tasks")
