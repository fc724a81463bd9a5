"""The embedding teacher's answers: equal from disk and from memory, made once, and refused where others made them."""

import re
import weakref
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

from kdkit.alignment.characters import Ragged
from kdkit.config.embeddings import embedding_config_from_values
from kdkit.distill.open_teacher import repair_cache
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.models.embedder import EmbeddingModel, tokenize
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.pooling import Reading
from kdkit.embeddings.teacher import cache as embedding_cache
from kdkit.embeddings.teacher.cache import open_embedding_teacher, text_key
from kdkit.errors import UserError
from kdkit.machine.hardware import Hardware
from kdkit.runs.folder import Run
from kdkit.runs.store import open_store
from tests.embedders import make_session

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Hardware("cpu", "cpu", "fp32", "cpu", "test")
HALF = 2e-3
"""Rounding of fp16, relative and absolute."""
LAYERS = [1, 0]


class Place:
    """A folder with a saved teacher, and everything that opens it."""

    def __init__(self, folder, tokenizer, documents):
        self.folder, self.tokenizer, self.made = folder, tokenizer, 0
        words = " ".join(documents).split()
        self.texts = [" ".join(words[i : i + 1 + i % 9]) for i in range(0, 60, 3)] + [""]

    def teacher(self, seed=0, causal=False, head=None, pooling="mean"):
        """Save a teacher of two layers with random weights; return its folder."""
        torch.manual_seed(seed)
        shape = {"vocab_size": len(self.tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 2, "initializer_range": 0.5}
        if causal:
            backbone = Qwen3Model(Qwen3Config(**shape, num_key_value_heads=2, head_dim=8))
        else:
            backbone = BertModel(BertConfig(**shape, max_position_embeddings=64), add_pooling_layer=False)
        model = EmbeddingModel(backbone, self.tokenizer, Reading(pooling, True, 64), head)
        self.made += 1
        return str(save_embedding_model(model, self.folder / f"teacher{self.made}"))

    def data(self, texts=None, max_length=32, prompt=""):
        """Prepare some sentences."""
        texts = self.texts if texts is None else texts
        ids = Ragged.of(tokenize(self.tokenizer, texts, max_length, prompt))
        rows = np.arange(len(texts))
        return SentenceData(texts, rows, None, [], None, ids, ids, None, self.tokenizer, self.tokenizer, {"key": "k"})

    def open(self, path, data=None, *, tokens=False, layers=(), max_length=32, run="run", **teacher):
        """Open a teacher as training does."""
        settings = {"path": path, "batch_size": 4} | teacher
        config = embedding_config_from_values({"teacher": settings, "data": {"max_length": max_length}})
        run = Run(self.folder / run, self.folder / run / "cache")
        data = data or self.data()
        return open_embedding_teacher(make_session(config, run), data, tokens=tokens, attention_layers=list(layers))


@pytest.fixture
def place(tmp_path, small_pair, documents, monkeypatch):
    monkeypatch.setattr(embedding_cache, "CHUNK_TEXTS", 4)
    return Place(tmp_path, small_pair[0], documents)


@pytest.fixture
def no_teacher(monkeypatch):
    """Return a switch; once it is thrown, loading a teacher fails."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("the teacher was loaded")

    return lambda: monkeypatch.setattr(embedding_cache, "load_teacher", refuse)


@pytest.mark.parametrize("causal", [False, True], ids=["bert", "qwen"])
def test_a_live_teacher_equals_the_model_asked_text_by_text(place, causal):
    path = place.teacher(causal=causal, pooling="last" if causal else "mean")
    data = place.data()
    live, _ = place.open(path, data, tokens=True, layers=LAYERS, cache=False)
    rows = [3, 8, 20, 1]
    view = live.view(rows, "cpu")
    assert view.attention_mask.sum(dim=1).tolist() == [len(data.teacher_tokens[row]) for row in rows]
    for place_in_batch, row in enumerate(rows):
        ids = torch.from_numpy(data.teacher_tokens[row].astype(np.int64))[None]
        n = ids.shape[1]
        assert not view.token_states[place_in_batch, n:].any()
        assert not view.attentions[place_in_batch, :, n:].any()
        assert not view.attentions[place_in_batch, :, :, n:].any()
        if not n:
            continue
        with torch.no_grad():
            output = live.model.backbone(input_ids=ids, output_attentions=True)
        states = output.last_hidden_state[0]
        pooled = states[-1] if causal else states.mean(dim=0)
        maps = torch.stack([output.attentions[layer][0].mean(dim=0) for layer in LAYERS])
        torch.testing.assert_close(view.pooled[place_in_batch], pooled / pooled.norm(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(view.token_states[place_in_batch, :n], states, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(view.attentions[place_in_batch, :, :n, :n], maps, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("with_head", [False, True])
def test_a_cached_teacher_equals_a_live_one(place, with_head):
    path = place.teacher(head=torch.nn.Linear(16, 24) if with_head else None)
    cached, facts = place.open(path, tokens=True, layers=LAYERS)
    live, _ = place.open(path, tokens=True, layers=LAYERS, cache=False)
    for rows in ([0, 5, 20], [20], [7, 7]):
        one, other = cached.view(rows, "cpu"), live.view(rows, "cpu")
        assert (one.attention_mask == other.attention_mask).all()
        for name in ("pooled", "token_states", "attentions"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=HALF, rtol=HALF)
    np.testing.assert_allclose(cached.vectors, live.vectors, atol=HALF)
    np.testing.assert_allclose(np.linalg.norm(cached.vectors[:-1], axis=1), 1.0, atol=1e-6)
    assert cached.vectors.dtype == np.float32
    assert facts["width"] == cached.view([0], "cpu").token_states.shape[2] == (24 if with_head else 16)


def test_the_precision_of_the_student_does_not_reach_a_live_teacher(place):
    live, _ = place.open(place.teacher(head=torch.nn.Linear(16, 24)), tokens=True, cache=False)
    plain = live.view([3, 8], "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        view = live.view([3, 8], "cpu")
    assert torch.equal(view.pooled, plain.pooled)
    assert torch.equal(view.token_states, plain.token_states)


def test_only_what_is_asked_for_is_given(place):
    cached, facts = place.open(place.teacher())
    view = cached.view([0, 1], "cpu")
    assert (view.token_states, view.attention_mask, view.attentions) == (None, None, None)
    assert len(facts["files"]) == 1


def test_rows_are_found_by_their_text(place, no_teacher):
    path = place.teacher()
    first, _ = place.open(path, tokens=True)
    no_teacher()
    order = np.random.default_rng(0).permutation(len(place.texts))
    second, facts = place.open(path, place.data([place.texts[i] for i in order]), tokens=True)
    assert facts["from_cache"]
    np.testing.assert_array_equal(second.vectors, first.vectors[order])
    one, other = second.view([2, 4], "cpu"), first.view([int(order[2]), int(order[4])], "cpu")
    torch.testing.assert_close(one.token_states, other.token_states, atol=0, rtol=0)


def test_a_finished_cache_needs_no_teacher(place, no_teacher):
    path = place.teacher(causal=True, pooling="last")
    _, built = place.open(path, tokens=True, layers=LAYERS)
    no_teacher()
    _, opened = place.open(path, tokens=True, layers=LAYERS)
    assert (built["from_cache"], opened["from_cache"]) == (False, True)
    expected = {"width": 16, "layers": 2, "causal": True, "pooling": "last"}
    assert {name: opened[name] for name in expected} == expected == {name: built[name] for name in expected}
    assert opened["num_bytes"] == built["num_bytes"] == sum(Path(file).stat().st_size for file in opened["files"])


def test_token_states_are_added_to_a_cache_of_vectors(place, monkeypatch):
    path = place.teacher()
    place.open(path)
    asked = []
    answer_chunk = embedding_cache.answer_chunk
    monkeypatch.setattr(
        embedding_cache, "answer_chunk", lambda *arguments: asked.append(arguments[2]) or answer_chunk(*arguments)
    )
    place.open(path, tokens=True, layers=LAYERS)
    assert set(map(tuple, asked)) == {("token_states", "attentions")}
    assert len(asked) == -(-len(place.texts) // 4), "one pass makes both"


def test_the_teacher_is_freed_and_the_memory_reported(place, monkeypatch):
    kept = []
    load_teacher = embedding_cache.load_teacher

    def load(*arguments, **options):
        model = load_teacher(*arguments, **options)
        kept.append(weakref.ref(model))
        return model

    monkeypatch.setattr(embedding_cache, "load_teacher", load)
    _, facts = place.open(place.teacher(), tokens=True)
    assert [reference() for reference in kept] == [None]
    assert facts["memory"]["device"] == "cpu"
    assert facts["memory"]["peak"] > 0 < facts["memory"]["freed"]


def test_a_build_that_was_stopped_goes_on_whatever_the_order_of_the_texts(place, monkeypatch):
    path = place.teacher()
    answer_chunk, asked = embedding_cache.answer_chunk, []

    def stop_at_third(*arguments):
        asked.append(len(asked))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer_chunk(*arguments)

    monkeypatch.setattr(embedding_cache, "answer_chunk", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        place.open(path)
    cached, facts = place.open(path, place.data(place.texts[::-1]))
    num_chunks = -(-len(place.texts) // 4)
    assert len(asked) == 3 + num_chunks - 2
    monkeypatch.setattr(embedding_cache, "answer_chunk", answer_chunk)
    whole, other = place.open(path, run="other")
    assert Path(facts["files"][0]).read_bytes() == Path(other["files"][0]).read_bytes()
    np.testing.assert_array_equal(cached.vectors[::-1], whole.vectors)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"pooling": "cls"}, "pooling: got 'mean', expected 'cls'"),
        ({"prompt": "Query: "}, "prompt: got '', expected 'Query: '"),
        ({"max_length": 16}, "max_length: got 32, expected 16"),
    ],
)
def test_answers_read_otherwise_are_refused(place, no_teacher, change, name):
    path, file = place.teacher(), str(place.folder / "answers.h5")
    place.open(path, cache_file=file)
    no_teacher()
    with pytest.raises(UserError, match=r"answers\.h5: expected .*" + name) as error:
        place.open(path, tokens=True, cache_file=file, **change)  # before what is missing is asked
    assert "\n" not in str(error.value)


def test_answers_of_another_teacher_are_refused(place, no_teacher):
    first, second, file = place.teacher(), place.teacher(seed=1), str(place.folder / "answers.h5")
    place.open(first, cache_file=file)
    no_teacher()
    with pytest.raises(UserError, match=r"\(teacher\.files: got '\w+', expected '\w+'\)"):
        place.open(second, cache_file=file)


def test_answers_to_other_texts_are_refused(place, no_teacher):
    path, file = place.teacher(), str(place.folder / "answers.h5")
    place.open(path, cache_file=file)
    no_teacher()
    with pytest.raises(UserError, match=r"texts: got '\w+', expected '\w+'"):
        place.open(path, place.data([*place.texts[1:], "another"]), cache_file=file)


def test_maps_of_other_layers_are_refused(place, no_teacher):
    path, file = place.teacher(), str(place.folder / "answers.h5")
    place.open(path, layers=[0], cache_file=file)
    no_teacher()
    with pytest.raises(UserError, match=r"answers-attentions\.h5.*attention_layers: got \[0\], expected \[1\]"):
        place.open(path, layers=[1], cache_file=file)


def test_without_a_file_of_their_own_other_answers_get_another_file(place):
    path = place.teacher()
    files = {place.open(path, pooling=pooling)[1]["files"][0] for pooling in ("auto", "mean", "cls")}
    assert len(files) == 2


def test_sentences_in_the_tokens_of_another_length_or_prompt_are_refused(place):
    with pytest.raises(UserError, match="expected the prepared sentences in its own tokens"):
        place.open(place.teacher(), place.data(prompt="Query: "))


def broken(place, name, value, where=slice(None)):
    """Save a teacher with some weights replaced; return its folder."""
    from safetensors.torch import load_file, save_file

    path = place.teacher()
    weights = load_file(f"{path}/model.safetensors")
    weights[name][where] = value
    save_file(weights, f"{path}/model.safetensors", {"format": "pt"})
    return path


@pytest.mark.parametrize("cache", [True, False])
def test_a_teacher_that_answers_nan_is_refused(place, cache):
    path = broken(place, "encoder.layer.1.output.dense.bias", torch.nan)
    with pytest.raises(UserError, match=r"teacher\.path: expected finite .*, got NaN, infinite ones or zeros for"):
        place.open(path, cache=cache)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_texts_without_a_vector_are_named(place, value):
    ids = {text: set(place.tokenizer(text).input_ids) for text in place.texts}
    of = {token: [text for text in ids if token in ids[text]] for token in set().union(*ids.values())}
    token, (text,) = next(item for item in of.items() if len(item[1]) == 1)
    path = broken(place, "embeddings.word_embeddings.weight", value, token)
    with pytest.raises(UserError, match=rf"zeros for 1 of \d+ texts: {re.escape(repr(text[:24])[:-1])}"):
        place.open(path)


def test_a_vector_of_zeros_is_named(place):
    path = broken(place, "encoder.layer.1.output.LayerNorm.weight", 0.0)
    with pytest.raises(UserError, match=r"zeros for \d+ of \d+ texts: '"):
        place.open(path)


def test_the_file_says_what_it_was_made_from(place):
    _, facts = place.open(place.teacher(pooling="cls"), tokens=True)
    store = open_store(facts["files"][1])
    assert store.header["kind"] == "teacher token_states"
    assert (store.header["pooling"], store.header["dtype"], store.header["max_length"]) == ("cls", "float32", 32)
    assert set(store.keys) == {text_key(text) for text in place.texts}
    assert len(store.read(text_key(""))["token_states"]) == 0


def test_a_teacher_may_read_longer_inputs_than_the_student(place):
    data = replace(place.data(max_length=8), teacher_tokens=place.data(max_length=24).teacher_tokens)
    cached, _ = place.open(place.teacher(), data, tokens=True, max_length=24)
    assert cached.view([7, 8], "cpu").token_states.shape[1] > 8


def test_a_folder_in_the_place_of_the_file_is_refused(place):
    with pytest.raises(UserError, match=r"teacher\.cache_file: expected a file to write, got .* \(it is a folder\)"):
        place.open(place.teacher(), cache_file=str(place.folder))


def test_repair_of_a_cache_of_embeddings_says_what_to_do(place, tmp_path):
    _, facts = place.open(place.teacher())
    file = Path(facts["files"][0])
    with h5py.File(file, "r+") as damaged:
        next(iter(damaged["chunks"].values())).attrs["sha256"] = np.bytes_("0" * 64)
    with pytest.raises(UserError, match=r"got teacher embedding; delete the file: the next run asks its teacher again"):
        repair_cache(file, Run(tmp_path / "repair", tmp_path / "repair" / "cache"))
