"""Names of special tokens in a text: counted and said, and read as such where that is wanted."""

import copy
import json

import pytest

from kdkit.alignment.encoding import TextEncoder
from kdkit.alignment.tokenizers import encode_with_ends, read_special_tokens, reads_special_tokens, token_bytes
from kdkit.data.chat.markers import count_markers
from tests.tiny import make_config, make_data

CHAT = "<|im_start|>user\nWhat is {0} and {0}?<|im_end|>\n<|im_start|>assistant\nIt is {1}.<|im_end|>\n"


def prepare(folder, test_data, **settings):
    """Prepare a rendered chat for SmolLM2 and Qwen, which both have its markers as special tokens."""
    rows = [json.dumps({"text": CHAT.format(n, 2 * n) + "word " * n}) for n in range(40)]
    (folder / "chat.jsonl").write_text("\n".join(rows), encoding="utf-8")
    tokenizers = {"student": "smollm2", "teacher": "qwen1.5"}
    models = {name: {"path": str(test_data / "tokenizers" / path)} for name, path in tokenizers.items()}
    data = {"path": str(folder / "chat.jsonl"), "max_length": 48, "near_duplicates": "keep"} | settings
    return make_data(make_config(folder, data=data, **models), folder)


def count(data, name):
    """Count a special token in the training text of both sides, start tokens aside."""
    ids = data.train.student_ids[:, 1:], data.train.teacher_ids[:, 1:]
    tokenizers = data.student_tokenizer, data.teacher_tokenizer
    return [int((each == t.convert_tokens_to_ids(name)).sum()) for each, t in zip(ids, tokenizers, strict=True)]


def test_markers_are_text_unless_they_are_meant_and_both_are_said(tmp_path, test_data, capsys):
    data = prepare(tmp_path, test_data)
    found = data.manifest["corpus"]["markers"]
    assert count(data, "<|im_start|>") == [0, 0]
    said = capsys.readouterr().out
    assert f"<|im_start|> {found['<|im_start|>']} times" in said
    assert "set data.special_tokens=read" in said

    read = prepare(tmp_path, test_data, special_tokens="read")
    assert read.manifest["corpus"]["markers"] == found
    assert count(read, "<|im_start|>") == [found["<|im_start|>"]] * 2
    assert "(data.special_tokens=read)" in capsys.readouterr().out
    # the same bytes, each token standing for its own, and the tokenizers that are kept go on so
    assert read.manifest["train"]["num_bytes"] == data.manifest["train"]["num_bytes"]
    assert read.manifest["train"]["student_unknown_share"] == 0
    # the end of a document has one partner, though SmolLM2 and Qwen name the ends of both
    assert len(set(read.overlap.student_ids)) == len(set(read.overlap.teacher_ids)) == len(read.overlap.student_ids)
    assert reads_special_tokens(read.student_tokenizer)
    assert not reads_special_tokens(data.student_tokenizer)


def test_ordinary_text_holds_no_markers(small_pair):
    assert count_markers(["a <b> c | d", "if a <| b"], small_pair) == {}
    assert count_markers(["<|user|> [INST] x<|user|>"], small_pair) == {"<|user|>": 2, "[INST]": 1}
    others = [
        "<\uff5cUser\uff5c>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<<SYS>>",
        "<|fim-prefix|>",
        "[/SYSTEM_PROMPT]",
    ]
    assert count_markers(others, small_pair) == dict.fromkeys(others, 1)


@pytest.mark.parametrize("name", ["smollm2", "qwen1.5"])
def test_special_tokens_that_are_read_are_never_cut(real_tokenizer, name):
    tokenizer = copy.deepcopy(real_tokenizer(name))
    read_special_tokens(tokenizer)
    encoder, table, text = TextEncoder(tokenizer), token_bytes(tokenizer), CHAT.format(1, 2)
    assert encoder.is_fast
    ids, _, _, losses = encoder.encode([text])
    assert ids.tolist() == encode_with_ends(tokenizer, table, text)[0] == tokenizer(text).input_ids
    assert not len(losses)
