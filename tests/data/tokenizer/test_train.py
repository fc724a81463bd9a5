"""A tokenizer that is trained here: nothing is lost, whatever the text, and what cannot be is refused."""

import json
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from kdkit.alignment.tokenizers import END_OF_TEXT, load_tokenizer, token_bytes, train_tokenizer, unknown_id
from kdkit.config.language import DataConfig
from kdkit.data.tokenizer.train import check_new_folder, save_tokenizer, train_on
from kdkit.errors import UserError

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
FLAG = "\U0001f1eb\U0001f1f7"
THINK = "<|think|>"
HARD = [*"ab \n\r\t\x00\x07\x1b\x7f\x85\u0301\u0327\u1100\u1161\u11a8\ufe0f\u200d\u0130\ufb01\u212b\u2581\ufffd\u4e2d"]
HARD += [FAMILY, FLAG, "\ud7ff", "\ue000", "\U0010ffff", "e\u0301", "\u05d0\u202e", " .", " n't", " 's", "\u2028"]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from([*HARD, END_OF_TEXT, THINK, "<0x41>", "##"])).map("".join),
    st.binary().map(lambda content: content.decode("utf-8", errors="replace")),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, documents):
    """A tokenizer with a special token more, trained and saved by the library."""
    place = tmp_path_factory.mktemp("trained")
    file = place / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    made = train_on([DataConfig(path=str(file))], 400, [THINK], "--vocab-size")
    save_tokenizer(made.tokenizer, place / "tokenizer", "--output")
    return place / "tokenizer"


@pytest.fixture(scope="module", params=[load_tokenizer, AutoTokenizer.from_pretrained], ids=["kdkit", "transformers"])
def loaded(request, folder):
    """The saved tokenizer, as kdkit and as transformers loads it."""
    return request.param(folder)


@given(text=TEXTS)
@example(text="")
@example(text=f"caf\u00e9 cafe\u0301 {FAMILY}{FLAG} \x00\r\n\t .  ,  n't")
@settings(max_examples=300)
def test_a_text_comes_back_as_it_was(loaded, text):
    assert loaded.decode(loaded(text).input_ids) == text


@given(text=TEXTS)
@settings(max_examples=200)
def test_the_bytes_of_the_tokens_are_those_of_the_text_with_marks_read_as_text(loaded, text):
    table = token_bytes(loaded)
    backend = loaded.backend_tokenizer
    backend.encode_special_tokens = True
    ids = backend.encode(text, add_special_tokens=False).ids
    assert b"".join(table[i] or b"" for i in ids) == text.encode()


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=100)
def test_nothing_is_unknown_and_nothing_is_normalised(loaded, text):
    assert unknown_id(loaded) is None
    assert loaded.backend_tokenizer.normalizer is None
    assert loaded.decode(loaded(unicodedata.normalize("NFD", text)).input_ids) == unicodedata.normalize("NFD", text)


def test_every_byte_has_an_entry(loaded):
    assert {piece for piece in token_bytes(loaded) if piece and len(piece) == 1} == {bytes([i]) for i in range(256)}


def test_special_tokens_are_one_id_each_and_can_be_skipped(loaded):
    ids = loaded(f"a{THINK}b{END_OF_TEXT}").input_ids
    assert ids.count(loaded.convert_tokens_to_ids(THINK)) == 1 and ids[-1] == loaded.eos_token_id
    assert loaded.decode(ids, skip_special_tokens=True) == "ab"
    assert len(loaded) == 400 and {END_OF_TEXT, THINK} <= set(loaded.all_special_tokens) | set(loaded.get_added_vocab())


def test_training_reads_several_sources_in_their_order(tmp_path, documents):
    for name, part in (("a", documents[:20]), ("b", documents[20:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    sources = [DataConfig(path=str(tmp_path / f"{name}.jsonl")) for name in "ab"]
    made = train_on(sources, 300, [], "--vocab-size")
    assert made.tokenizer.get_vocab() == train_tokenizer(documents, 300).get_vocab()
    assert made.num_texts == 40 and made.num_bytes == sum(len(text.encode()) for text in documents)
    assert "43 merges" in made.describe()


def test_conversations_bring_the_markers_and_the_template_of_chatml(tmp_path):
    rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}, said the river."} for n in range(40)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = train_on([DataConfig(path=str(tmp_path / "chat.jsonl"))], 280, ["<|im_start|>"], "--vocab-size")
    text = made.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert made.is_chat and "<|im_start|>user\nHi<|im_end|>" in text
    assert made.tokenizer.convert_tokens_to_ids("<|im_end|>") < 4


@pytest.mark.parametrize(
    ("vocab_size", "special", "words"),
    [
        (256, [], "--vocab-size: expected at least 257 entries (256 bytes, 1 special), got 256; set --vocab-size=1024"),
        (258, ["<a>", "<b>"], "--vocab-size: expected at least 259 entries (256 bytes, 3 special), got 258"),
        (300, ["<a>", "<b>", "<a>"], "special tokens: expected each of them once, got '<a>' twice; name it once"),
        (300, [END_OF_TEXT], "got '<|endoftext|>' twice; leave it out, it is always there"),
        (300, [" "], "special tokens: expected a mark that no text holds by chance, got ' '; write it as <|name|>"),
        (300, ["e"], "got 'e'; write it as <|name|>"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, vocab_size, special, words):
    (tmp_path / "text.txt").write_text("The river took the letter. " * 20)
    with pytest.raises(UserError) as refused:
        train_on([DataConfig(path=str(tmp_path / "text.txt"))], vocab_size, special, "--vocab-size")
    assert words in str(refused.value)


def test_a_vocabulary_that_the_text_does_not_support_is_refused_with_its_merges(tmp_path):
    (tmp_path / "text.txt").write_text("aaab " * 50)
    with pytest.raises(UserError) as refused:
        train_on([DataConfig(path=str(tmp_path / "text.txt"))], 5000, [], "--vocab-size")
    # " aaab" and "aaab": aa, aaab (or ab), and one with the space
    supported = int(str(refused.value).split("expected at most ")[1].split(" ")[0])
    assert f"{supported - 257} merges), got 5,000; set --vocab-size={supported}" in str(refused.value)
    made = train_on([DataConfig(path=str(tmp_path / "text.txt"))], supported, [], "--vocab-size")
    assert len(made.tokenizer) == supported


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_text_is_refused(tmp_path, text):
    (tmp_path / "text.txt").write_text(text)
    with pytest.raises(UserError, match=r"expected text, got none in .*text\.txt"):
        train_on([DataConfig(path=str(tmp_path / "text.txt"))], 300, [], "--vocab-size")


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "tokenizer.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with pytest.raises(UserError, match=r"--output: expected a new or empty folder, got .*; name another one"):
            check_new_folder(tmp_path / name, "--output")
    (tmp_path / "empty").mkdir()
    check_new_folder(tmp_path / "empty", "--output")
