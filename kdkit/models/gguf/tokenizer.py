"""A byte-level BPE tokenizer written into a GGUF file, so that llama.cpp cuts text as it does.

llama.cpp knows the rule that cuts a text before its merges by a name (`tokenizer.ggml.pre`), not by itself. So only
tokenizers with one of the rules below can be written.
"""

import json
from typing import Any

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.errors import UserError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""llama.cpp's types of tokens."""
QWEN_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 cut a text."""


def add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerFast, num_rows: int, key: str) -> None:
    """Write the vocabulary, the merges, the special tokens and the chat template.

    A text is to begin with the start token, as in kdkit's training: llama.cpp puts it there.

    Args:
        writer: `gguf.GGUFWriter`.
        num_rows: rows of the model's head; those beyond the tokenizer are written as unused tokens.
        key: the setting that named it, for messages.

    Raises:
        UserError: see `name_cut`.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name_cut(backend, key))
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    added = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in backend["added_tokens"]}
    unused = range(len(tokens), num_rows)
    types = [added.get(token_id, NORMAL) for token_id in range(len(tokens))]
    writer.add_token_list([*tokens, *(f"[PAD{token_id}]" for token_id in unused)])
    writer.add_token_types([*types, *(UNUSED for _ in unused)])
    merges = backend["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    start, end = start_token_id(tokenizer), end_token_id(tokenizer)
    if start is not None and end is not None:
        writer.add_bos_token_id(start)
        writer.add_eos_token_id(end)
    writer.add_add_bos_token(start is not None)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def name_cut(backend: dict[str, Any], key: str) -> str:
    """Return llama.cpp's name of the rule that cuts a text before the merges.

    Args:
        backend: the tokenizer as tokenizer.json holds it.
        key: the setting that named it, for messages.

    Raises:
        UserError: another kind of tokenizer, another rule, or one that changes the text.
    """
    model, normalizer = backend["model"], backend["normalizer"]
    if model["type"] != "BPE" or "ByteLevel" not in json.dumps(backend["pre_tokenizer"]):
        raise _refusal(key, f"{model['type']} that is not byte-level")
    if prefix := model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _refusal(key, f"merges with the mark {prefix!r}")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise _refusal(key, f"the normalizer {normalizer.get('type')}, which llama.cpp does not know")
    parts = backend["pre_tokenizer"].get("pretokenizers") or [backend["pre_tokenizer"]]
    kinds = [part["type"] for part in parts]
    if any(part.get("add_prefix_space") for part in parts):
        raise _refusal(key, "a space before every text")
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and parts[0]["pattern"].get("Regex") == QWEN_REGEX:
        return "qwen2"
    raise _refusal(key, f"cuts by {', '.join(kinds)}, a rule without a name in llama.cpp")


def _refusal(key: str, reason: str) -> UserError:
    """Say why a tokenizer cannot be written."""
    return UserError(
        f"{key}: expected a byte-level BPE that cuts as GPT-2, SmolLM or Qwen do, got a tokenizer with {reason}; it "
        "cannot stand in a GGUF file"
    )
