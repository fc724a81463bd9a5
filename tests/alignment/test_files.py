"""The tokenizer that was trained is the one that reads: tokenizer.json against what transformers makes of it."""

import json

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdkit.alignment.files import PROBES
from kdkit.alignment.tokenizers import load_tokenizer, train_tokenizer
from kdkit.errors import UserError
from tests.lossy import train_wordpiece

YEARS = ["In 1999 and 1999, the year 1999 came after 1998."] * 30


def save(tokenizer, folder, model_type, tokenizer_class=None):
    """Save a tokenizer beside the config of a model type."""
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if tokenizer_class:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": tokenizer_class}))
    return folder


def cuts(tokenizer):
    return [tokenizer(text, add_special_tokens=False).input_ids for text in PROBES]


def file_cuts(folder):
    written = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [written.encode(text, add_special_tokens=False).ids for text in PROBES]


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "phi3", "modernbert", "gpt2", "gemma", "bert"])
def test_a_byte_level_tokenizer_is_read_as_its_file_says_whatever_the_model_type(tmp_path, model_type):
    save(train_tokenizer(YEARS, 300), tmp_path, model_type)
    loaded = load_tokenizer(tmp_path)
    assert cuts(loaded) == file_cuts(tmp_path)
    assert loaded.eos_token == loaded.bos_token == "<|endoftext|>"
    assert loaded.tokenize("1999") != list("1999")


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("name", ["BertTokenizer", "DistilBertTokenizer", "PreTrainedTokenizerFast"])
def test_a_cased_wordpiece_stays_cased(tmp_path, name, lowercase, capsys):
    save(train_wordpiece(YEARS, 200, lowercase), tmp_path, "bert", name)
    loaded = load_tokenizer(tmp_path, "student.path")
    assert cuts(loaded) == file_cuts(tmp_path)
    assert (loaded.cls_token, loaded.pad_token) == ("[CLS]", "[PAD]")
    if cuts(AutoTokenizer.from_pretrained(tmp_path)) != file_cuts(tmp_path):
        said = capsys.readouterr().out
        assert said.startswith("student.path: transformers makes a ") and "tokenizer.json" in said
    else:
        assert capsys.readouterr().out == ""


def test_a_tokenizer_that_cannot_be_read_as_its_file_says_is_refused(tmp_path, monkeypatch):
    save(train_tokenizer(YEARS, 300), tmp_path, "qwen2")
    other = train_tokenizer(["other words"] * 9, 300)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *a, **k: other)
    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", lambda *a, **k: other)
    with pytest.raises(
        UserError, match=r"teacher\.path: expected a tokenizer that cuts text as tokenizer.json"
    ) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2", "smollm2", "bert-base-uncased", "stories260K", "qwen1.5"])
def test_real_folders_are_read_without_a_word(real_tokenizer, test_data, name, capsys):
    folder = next(folder for folder in test_data.glob(f"*/{name}"))
    load_tokenizer(folder)
    assert capsys.readouterr().out == ""
