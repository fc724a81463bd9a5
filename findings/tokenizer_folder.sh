#!/usr/bin/env bash
# transformers rebuilds the tokenizer of some folders by model type, whatever their tokenizer.json says.
#
# Versions: transformers 5.24.0, tokenizers 0.23.3 (seen in November 2026).
# Behaviour: a byte-level tokenizer that PreTrainedTokenizerFast saved is read back by AutoTokenizer as it stands in a
#   llama or qwen3 folder, but as a Qwen2Tokenizer in a qwen2 folder: numbers fall into single digits, no warning.
#   A cased WordPiece under tokenizer_class BertTokenizer is lower-cased, whatever the normalizer in the file says.
# Expected from memory: tokenizer.json is read as it stands.
# Seen: llama True | qwen3 True | qwen2 False Qwen2Tokenizer ['1', '9', '9', '9'] | BertTokenizer False ['the']
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXT = ["In 1999 and 1999, the year 1999 came after The year 1998."] * 30


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|e|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|e|>")


def cased_wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")


def read_back(tokenizer, model_type, tokenizer_class, word):
    folder = Path(f"{model_type}-{tokenizer_class}")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    file = folder / "tokenizer_config.json"
    if tokenizer_class:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": tokenizer_class}))
    loaded = AutoTokenizer.from_pretrained(folder)
    return loaded.tokenize(word) == tokenizer.tokenize(word), type(loaded).__name__, loaded.tokenize(word)


seen = {
    "llama": read_back(byte_level(), "llama", None, "1999"),
    "qwen3": read_back(byte_level(), "qwen3", None, "1999"),
    "qwen2": read_back(byte_level(), "qwen2", None, "1999"),
    "BertTokenizer": read_back(cased_wordpiece(), "bert", "BertTokenizer", "The"),
}
for name, what in seen.items():
    print(name, *what)
expected = {"llama": True, "qwen3": True, "qwen2": False, "BertTokenizer": False}
assert {name: what[0] for name, what in seen.items()} == expected, "the behaviour has changed: correct this finding"
assert seen["qwen2"][2] == list("1999")
PYTHON
