"""Any chain of modules: vectors equal to sentence-transformers', whose own modules save the folders that are read."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    MT5Config,
    MT5EncoderModel,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from kdkit.embeddings.evaluate.run import _off_the_shelf
from kdkit.embeddings.models.doctor import examine_embeddings
from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.errors import UserError
from kdkit.models.keep_layers import keep_layers
from tests.embedders import WORDS, cpu, make_config, save_teacher

library = pytest.importorskip("sentence_transformers")
parts = library.sentence_transformer.modules
pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 24
TEXTS = ["", "the cat", " ".join(WORDS), "a red house and then a small dog ran on the grass", "it was not very quick"]
SMALL = {"vocab_size": 40, "d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 3}
BACKBONES = {
    "bert": lambda: BertModel(
        BertConfig(vocab_size=40, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    ),
    "t5": lambda: T5EncoderModel(T5Config(**SMALL)),
    "t5 with its decoder": lambda: T5Model(T5Config(**SMALL)),
    "mt5": lambda: MT5EncoderModel(MT5Config(**SMALL, feed_forward_proj="gated-gelu")),
    "qwen": lambda: Qwen3Model(
        Qwen3Config(
            vocab_size=40,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=12,
        )
    ),
}
POOLINGS = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("mean", "cls"), ("cls", "max")]
GEMMA = [parts.Dense, {"out_features": 40, "bias": False, "activation_function": None}]
CHAINS = {
    "nothing": [],
    "normalize": [parts.Normalize],
    "LaBSE": [[parts.Dense, {"out_features": 16}], parts.Normalize],
    "EmbeddingGemma": [GEMMA, [parts.Dense, {"out_features": 12, "activation_function": None}], parts.Normalize],
    "sentence-t5": [[parts.Dense, {"out_features": 16, "bias": False, "activation_function": None}], parts.Normalize],
    "normalize first": [parts.Normalize, [parts.Dense, {"out_features": 9, "activation_function": nn.GELU()}]],
    "several": [
        parts.LayerNorm,
        parts.Dropout,
        [parts.Dense, {"out_features": 16, "activation_function": nn.ReLU()}],
        parts.Normalize,
        [parts.Dense, {"out_features": 16, "use_residual": True, "activation_function": nn.PReLU()}],
        [parts.Dense, {"out_features": 8, "use_residual": True, "activation_function": nn.SiLU()}],
    ],
}


def save_theirs(folder, backbone="bert", pooling="mean", chain="nothing", **options):
    """Save a model with random weights by sentence-transformers' own modules; return theirs."""
    torch.manual_seed(0)
    save_teacher(folder / "words")
    model = BACKBONES[backbone]()
    with torch.no_grad():
        for parameter in model.parameters():  # so that sentences differ
            parameter.normal_(0.0, 0.2)
    (folder / "words/model.safetensors").unlink()
    model.save_pretrained(folder / "words")
    transformer = parts.Transformer(str(folder / "words"), **options)
    modules, width = [transformer, parts.Pooling(WIDTH, pooling)], WIDTH
    width *= 1 if isinstance(pooling, str) else len(pooling)
    for part in CHAINS[chain]:
        if isinstance(part, list):
            modules.append(part[0](width, **part[1]))
            width = part[1]["out_features"]
        else:
            modules.append(part(width) if part is parts.LayerNorm else part())
    theirs = library.SentenceTransformer(modules=modules, device="cpu").eval()
    theirs.save_pretrained(str(folder / "theirs"))
    return theirs


def compare(theirs, model, folder):
    """Compare vectors of a model that was read, and of the folder that it is saved as."""
    expected = theirs.encode(TEXTS)
    np.testing.assert_allclose(encode(model, TEXTS, 3, normalize=model.reading.normalize), expected, atol=1e-5)
    save_embedding_model(model, folder)
    again = library.SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), expected, atol=1e-5)
    ours = load_embedding_model(str(folder), "teacher.path")
    np.testing.assert_array_equal(encode(ours, TEXTS, 3), encode(model, TEXTS, 3))


@pytest.mark.parametrize(
    ("pooling", "chain"),
    [(pooling, "LaBSE") for pooling in POOLINGS] + [(p, chain) for chain in CHAINS for p in ("max", ("mean", "cls"))],
    ids=str,
)
def test_any_pooling_before_any_chain(tmp_path, pooling, chain):
    theirs = save_theirs(tmp_path, pooling=pooling, chain=chain)
    compare(theirs, load_embedding_model(str(tmp_path / "theirs"), "teacher.path"), tmp_path / "ours")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("pooling", "chain"), [("mean", "sentence-t5"), ("weightedmean", "several")])
def test_any_transformer(tmp_path, backbone, pooling, chain):
    theirs = save_theirs(tmp_path, backbone, pooling, chain)
    model = load_embedding_model(str(tmp_path / "theirs"), "teacher.path")
    assert "Decoder" not in type(model.backbone).__name__ and model.num_layers == 3
    compare(theirs, model, tmp_path / "ours")


@pytest.mark.parametrize("causal", [False, True])
def test_a_prompt_that_is_not_pooled_keeps_its_places(tmp_path, causal):
    theirs = save_theirs(tmp_path, "qwen" if causal else "bert", ("weightedmean", "cls", "max"), "LaBSE")
    theirs[1].include_prompt = False
    theirs.prompts = {"query": "the big house "}
    theirs.save_pretrained(str(tmp_path / "theirs"))
    model = load_embedding_model(str(tmp_path / "theirs"), "teacher.path")
    expected = theirs.encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(encode(model, TEXTS, 3, prompt="query"), expected, atol=1e-5)


@pytest.mark.parametrize("backbone", ["bert", "t5"])
def test_a_student_with_the_first_and_last_layers_is_read_by_the_library(tmp_path, backbone):
    save_theirs(tmp_path, backbone, ("mean", "cls"), "several")
    model = load_embedding_model(str(tmp_path / "theirs"), "teacher.path")
    before = encode(model, TEXTS, 3, normalize=False)
    keep_layers(model.backbone, [0, 2])
    mine = encode(model, TEXTS, 3, normalize=False)
    assert model.num_layers == 2 and abs(mine - before).max() > 1e-3
    theirs = library.SentenceTransformer(str(save_embedding_model(model, tmp_path / "cut")), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), mine, atol=1e-5)


def test_the_limit_that_version_6_saves_is_read(tmp_path):
    theirs = save_theirs(tmp_path, processor_kwargs={"model_max_length": 16})
    assert "max_seq_length" not in json.loads((tmp_path / "theirs/sentence_bert_config.json").read_text())
    model = load_embedding_model(str(tmp_path / "theirs"), "teacher.path")
    assert model.reading.max_length == theirs.max_seq_length == 16
    text = " ".join(WORDS * 3)
    np.testing.assert_allclose(encode(model, [text], 1, normalize=False), theirs.encode([text]), atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "pooling"), [("bert", "mean"), ("bert", ("mean", "cls")), ("t5", "max"), ("qwen", "weightedmean")]
)
def test_the_doctor_examines_any_of_them(tmp_path, backbone, pooling):
    save_theirs(tmp_path, backbone, pooling, "LaBSE")
    model = load_embedding_model(str(tmp_path / "theirs"), "teacher.path")
    findings = {finding.topic: finding.state for finding in examine_embeddings(model, TEXTS[1:], 3)}
    assert findings["pooling"] == "ok" and findings["normalisation"] == "ok"


def change(folder, file, **values):
    """Change values of a JSON file."""
    path = folder / "theirs" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder):
    """Return the message with which a folder is refused."""
    with pytest.raises(UserError) as caught:
        load_embedding_model(str(folder / "theirs"), "teacher.path")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", ["os.system", "torch.load", "torch.nn.functional.gelu", "torch.nn.parameter.Buffer2"])
def test_only_modules_of_torch_are_activations(tmp_path, path):
    save_theirs(tmp_path, chain="LaBSE")
    change(tmp_path, "2_Dense/config.json", activation_function=path)
    assert f"expected an activation of torch.nn in 2_Dense of '{tmp_path}/theirs', got '{path}'" in refusal(tmp_path)


def test_weights_and_widths_that_do_not_belong_are_refused(tmp_path):
    save_theirs(tmp_path, chain="LaBSE")
    change(tmp_path, "1_Pooling/config.json", pooling_mode=["mean", "cls"])
    assert f"expected a head for vectors of width {2 * WIDTH}, got one for {WIDTH} in 2_Dense" in refusal(tmp_path)
    change(tmp_path, "1_Pooling/config.json", pooling_mode="mean")
    change(tmp_path, "2_Dense/config.json", out_features=17)
    assert "expected the weights of a Dense in" in refusal(tmp_path)
    (tmp_path / "theirs/2_Dense/model.safetensors").unlink()
    assert "expected 2_Dense/model.safetensors" in refusal(tmp_path)
    change(tmp_path, "2_Dense/config.json", module_input_name="token_embeddings")
    assert "with module_input_name 'token_embeddings'" in refusal(tmp_path)


def test_a_kind_of_module_that_we_do_not_know_is_refused_with_those_we_do(tmp_path):
    save_theirs(tmp_path, chain="LaBSE")
    path = tmp_path / "theirs/modules.json"
    path.write_text(path.read_text().replace('Dense"', 'WordWeights"'))
    expected = "then any of Dense, Normalize, LayerNorm, Dropout, got Transformer, Pooling, WordWeights"
    assert expected in refusal(tmp_path)


REMOTE = """
from transformers import BertConfig, BertModel


class OwnConfig(BertConfig):
    model_type = "own-bert"


class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_code_of_a_ready_model_runs_only_if_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    plain = encode(load_embedding_model(str(save_teacher(tmp_path / "m")), "k"), TEXTS, 3)
    (tmp_path / "m/own.py").write_text(REMOTE)
    file = tmp_path / "m/config.json"
    own = {"model_type": "own-bert", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    settings = {"off_the_shelf": str(tmp_path / "m")}
    with pytest.raises(UserError, match=r"got code of its own .* set evaluate\.trust_remote_code=true"):
        _off_the_shelf(make_config(evaluate=settings), cpu())
    ready = _off_the_shelf(make_config(evaluate=settings | {"trust_remote_code": True}), cpu())
    assert type(ready.model.backbone).__name__ == "OwnModel"
    np.testing.assert_array_equal(encode(ready.model, TEXTS, 3), plain)
