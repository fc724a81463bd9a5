"""Looking inside a student: masks and maps are those that the model computes with, surprise is its own."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from kdkit.alignment.tokenizers import token_bytes
from kdkit.data.windows import PAD
from kdkit.errors import UserError
from kdkit.evaluate.attention import MAP_TOKENS, look_inside
from tests.tiny import make_config, make_data, make_run, make_session

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "head_dim": 8}
KINDS = ["sliding_attention", "full_attention"]


def build(name, size):
    """Return a random model of two layers."""
    sizes = SIZES | {"vocab_size": size, "num_hidden_layers": 2}
    torch.manual_seed(0)
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes))
    if name == "mistral":
        return MistralForCausalLM(MistralConfig(sliding_window=5, **sizes))
    config = Qwen3Config(use_sliding_window=True, sliding_window=5, layer_types=KINDS, **sizes)
    return Qwen3ForCausalLM(config)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inside")
    config = make_config(folder)
    return config, make_data(config, folder)


def look(scene, tmp_path, name, text="seven wizards"):
    """Look inside a model; return it, the run and the arrays."""
    config, data = scene
    run = make_run(tmp_path)
    build(name, len(data.student_tokenizer)).save_pretrained(run.path / "student")
    model = look_inside(make_session(config, run), data, text)
    with np.load(run.path / "inside.npz") as arrays:
        return model, run, {key: arrays[key] for key in arrays}


@pytest.mark.parametrize(("name", "windows"), [("llama", (None, None)), ("mistral", (5, 5)), ("qwen", (5, None))])
def test_what_a_layer_sees_is_its_window(scene, tmp_path, name, windows):
    _, _, arrays = look(scene, tmp_path, name)
    row = scene[1].evaluation.student_ids[0]
    length = int((row != PAD).sum())
    places = np.arange(length)
    far = places[:, None] - places
    assert arrays["seen"].shape == (2, length, length) and length > 5
    for seen, window in zip(arrays["seen"], windows, strict=True):
        assert np.array_equal(seen, (far >= 0) & (far < (window or length)))


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_the_maps_are_those_that_transformers_computes(scene, tmp_path, name):
    model, run, arrays = look(scene, tmp_path, name)
    tokenizer = scene[1].student_tokenizer
    ids = [tokenizer.bos_token_id, *tokenizer("seven wizards", add_special_tokens=False).input_ids]
    model.set_attn_implementation("eager")
    expected = torch.stack(model(input_ids=torch.tensor([ids]), output_attentions=True).attentions)[:, 0]
    assert np.allclose(arrays["maps"], expected.detach().numpy(), atol=1e-6)
    assert np.allclose(arrays["maps"].sum(axis=-1), 1, atol=1e-5)
    tokens = [bytes.fromhex(token) for token in run.read_json("inside.json")["text_tokens"]]
    assert tokens[0] == b"" and b"".join(tokens[1:]) == b"seven wizards"


def test_surprise_adds_up_to_the_cross_entropy_of_the_window(scene, tmp_path):
    model, run, _ = look(scene, tmp_path, "llama")
    row = scene[1].evaluation.student_ids[0]
    window = torch.tensor([row[row != PAD].tolist()])
    facts = run.read_json("inside.json")
    loss = model(input_ids=window, labels=window).loss.item()
    assert np.mean(facts["bits"]) * np.log(2) == pytest.approx(loss, rel=1e-5)
    table = token_bytes(scene[1].student_tokenizer)
    spelled = b"".join(table[i] or b"" for i in window[0, 1:].tolist())
    assert b"".join(map(bytes.fromhex, facts["window_tokens"])) == spelled


def test_a_long_text_is_cut(scene, tmp_path):
    _, run, arrays = look(scene, tmp_path, "llama", "seven wizards boxed " * 30)
    assert arrays["maps"].shape[-1] == MAP_TOKENS == len(run.read_json("inside.json")["text_tokens"])


def test_a_run_without_a_student_says_so(scene, tmp_path):
    config, data = scene
    with pytest.raises(UserError, match="student"):
        look_inside(make_session(config, make_run(tmp_path)), data, "seven")
