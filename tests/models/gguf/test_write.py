"""Models written as GGUF files: what the file holds, what llama.cpp computes from it, and what is refused."""

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import load_tokenizer, train_tokenizer
from kdkit.errors import UserError
from kdkit.machine.gguf_files import read_gguf_header
from kdkit.models.gguf.tokenizer import QWEN_REGEX, name_cut
from kdkit.models.gguf.write import read_weights, write_gguf
from kdkit.models.quantised.rounding import decode, encode
from kdkit.teachers.gguf import GGUFTeacher
from tests.gguf_files import needs_llama_cpp
from tests.gguf_models import KINDS, build_kind

gguf = pytest.importorskip("gguf", reason="the Python package gguf is not installed")

TEXTS = (
    "It was 1999, and 12   345 of 007",
    " a space first",
    "  two\n\nlines\tand a tab ",
    "na\u00efve caf\u00e9 \u4e2d\u6587 \U0001f600 \u00bd \u0301 \u200d",
    "def f(x):\n    return x**2  # it's, they'LL\r\n\r\n",
    "\x00\x07\x7f",
)


@pytest.fixture(scope="module")
def tokenizer(documents):
    return train_tokenizer(documents, 700)


def write(tmp_path, tokenizer, name="model.gguf", **options):
    model = build_kind(tokenizer, **options)
    write_gguf(model, tokenizer, tmp_path / name, "tiny", "MODEL")
    return model, tmp_path / name


def test_the_header_says_what_the_model_is(tmp_path, tokenizer):
    model, file = write(tmp_path, tokenizer, num_key_value_heads=2)
    header = read_gguf_header(str(file), "MODEL")
    assert (header.architecture, header.context, header.quantisation) == ("llama", 256, "F32")
    assert header.parameters == sum(parameter.numel() for parameter in model.parameters())
    values = header.metadata
    assert (values["llama.attention.head_count"], values["llama.attention.head_count_kv"]) == (4, 2)
    assert (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert values["tokenizer.ggml.tokens"] == len(tokenizer)
    assert values["tokenizer.ggml.add_bos_token"] is True


def test_every_weight_is_in_the_file_and_none_is_changed_but_the_order_of_turned_rows(tmp_path, tokenizer):
    model, file = write(tmp_path, tokenizer, qk_norm=True)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    weights = model.state_dict()
    assert len(tensors) == len(weights)
    shape = weights["model.layers.1.self_attn.q_proj.weight"].shape
    read = np.array(tensors["blk.1.attn_q.weight"].data).reshape(shape)
    assert np.array_equal(read, weights["model.layers.1.self_attn.q_proj.weight"].numpy())  # Qwen3 turns halves
    assert np.array_equal(tensors["blk.2.attn_k_norm.weight"].data, weights["model.layers.2.self_attn.k_norm.weight"])


def test_one_table_stands_once(tmp_path, tokenizer):
    _, file = write(tmp_path, tokenizer, tie_embeddings=True)
    assert "output.weight" not in {tensor.name for tensor in gguf.GGUFReader(file).tensors}


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path, tokenizer):
    model = build_kind(tokenizer)
    model.register_buffer("unknown", torch.zeros(1))
    with pytest.raises(ValueError, match="not enough values"):
        write_gguf(model, tokenizer, tmp_path / "model.gguf", "tiny", "MODEL")
    assert list(tmp_path.iterdir()) == []


@needs_llama_cpp
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_cuts_and_predicts_as_transformers_does(tmp_path, tokenizer, documents, kind):
    model, file = write(tmp_path, tokenizer, **KINDS[kind])
    teacher = GGUFTeacher(str(file), load_tokenizer(file), "MODEL")
    for text in (*TEXTS, *documents[:40]):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == teacher.llama.tokenize(text) == teacher.tokenizer(text, add_special_tokens=False).input_ids
    ids = torch.tensor([tokenizer(" ".join(documents[:40]), add_special_tokens=False).input_ids[:200]])
    assert ids.shape == (1, 200)
    with torch.no_grad():
        expected = model(ids).logits
    assert expected.abs().max() > 10.0
    # the bound of an fp32 file whose keys and values are fp32 too; see test_gguf.py
    assert (teacher.get_logits(ids) - expected).abs().max() < 1e-4


@needs_llama_cpp
def test_rows_beyond_the_tokenizer_are_unused_tokens(tmp_path, tokenizer):
    model = build_kind(tokenizer)
    model.resize_token_embeddings(len(tokenizer) + 5)
    write_gguf(model, tokenizer, tmp_path / "padded.gguf", "tiny", "MODEL")
    teacher = GGUFTeacher(str(tmp_path / "padded.gguf"), tokenizer, "MODEL")
    ids = torch.tensor([tokenizer("the river", add_special_tokens=False).input_ids])
    with torch.no_grad():
        expected = model(ids).logits
    assert (teacher.get_logits(ids) - expected).abs().max() < 1e-4


@needs_llama_cpp
@pytest.mark.parametrize("name", ["gpt2", "smollm2", "qwen1.5"])
def test_published_tokenizers_are_cut_as_published(tmp_path, test_data, name):
    published = load_tokenizer(test_data / "tokenizers" / name)
    model = build_kind(published)
    write_gguf(model, published, tmp_path / "model.gguf", name, "MODEL")
    llama = GGUFTeacher(str(tmp_path / "model.gguf"), published, "MODEL").llama
    text = (test_data / "lm" / "wikitext2_valid_raw.txt").read_text()[:30_000]
    for part in (*TEXTS[:-1], *text.split("\n\n")):
        assert llama.tokenize(part) == published(part, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sliding_window": 8}, "a sliding window of 8 in ministral, for which llama.cpp has none"),
        ({"sliding_window": 8, "qk_norm": True}, "a sliding window of 8 in qwen3"),
        ({"hidden_act": "relu2"}, "hidden_act=relu2, where llama.cpp's llama has silu"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused_with_the_reason(tmp_path, tokenizer, options, reason):
    with pytest.raises(UserError) as caught:
        write(tmp_path, tokenizer, **options)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def changed(tokenizer, **parts) -> dict:
    """Return a tokenizer as its file holds it, with other parts."""
    import json

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    for name, part in parts.items():
        setattr(backend, name, part)
    return json.loads(PreTrainedTokenizerFast(tokenizer_object=backend).backend_tokenizer.to_str())


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"normalizer": normalizers.Lowercase()}, "the normalizer Lowercase"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "a space before every text"),
        (
            {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel()])},
            "a space before every text",
        ),
        (
            {
                "pre_tokenizer": pre_tokenizers.Sequence(
                    [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
                )
            },
            "cuts by Punctuation, ByteLevel",
        ),
        ({"pre_tokenizer": pre_tokenizers.Whitespace()}, "BPE that is not byte-level"),
    ],
)
def test_a_tokenizer_that_llama_cpp_cannot_repeat_is_refused(tokenizer, parts, reason):
    with pytest.raises(UserError, match=reason):
        name_cut(changed(tokenizer, **parts), "MODEL")


def test_the_rules_have_their_names_in_llama_cpp(tokenizer):
    digits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    qwen = [
        pre_tokenizers.Split(Regex(QWEN_REGEX), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    assert name_cut(changed(tokenizer), "MODEL") == "gpt-2"
    assert name_cut(changed(tokenizer, pre_tokenizer=pre_tokenizers.Sequence(digits)), "MODEL") == "smollm"
    assert name_cut(changed(tokenizer, pre_tokenizer=pre_tokenizers.Sequence(qwen)), "MODEL") == "qwen2"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("quantise", "near"), [("none", 0.0), ("q8_0", 0.01), ("q4_0", 0.2)])
def test_weights_are_read_back_as_they_were_rounded(tmp_path, tokenizer, kind, quantise, near):
    model = build_kind(tokenizer, **KINDS[kind])
    write_gguf(model, tokenizer, tmp_path / "model.gguf", "tiny", "MODEL", quantise)
    weights = model.state_dict()
    read = read_weights(tmp_path / "model.gguf", model.config, weights)
    for name, value in weights.items():
        assert (read[name] - value).norm() <= near * value.norm(), name
    if quantise == "q4_0":  # the same rounding as our folders of 4 bits, and the head in 8
        inner = "model.layers.1.mlp.down_proj.weight"
        assert torch.equal(read[inner], decode(encode(weights[inner], 4)))
        assert (read["lm_head.weight"] - weights["lm_head.weight"]).norm() < 0.01 * weights["lm_head.weight"].norm()


def test_a_width_that_fills_no_block_is_refused(tmp_path, tokenizer):
    model = build_kind(tokenizer)
    model.model.layers[1].mlp.down_proj = torch.nn.Linear(80, 64, bias=False)
    with pytest.raises(UserError, match=r"multiple of 32, .* got 80 in model\.layers\.1\.mlp\.down_proj\.weight"):
        write_gguf(model, tokenizer, tmp_path / "model.gguf", "tiny", "MODEL", "q4_0")
    assert list(tmp_path.iterdir()) == []
