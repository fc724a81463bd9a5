import unicodedata
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdkit.alignment.tokenizers import (
    encode_with_ends,
    end_token_id,
    load_tokenizer,
    start_token_id,
    token_bytes,
    tokenizers_match,
    train_tokenizer,
)
from kdkit.data.text.corpora import clean_text
from kdkit.errors import UserError

REAL = ["gpt2", "qwen1.5", "smollm2", "bert-base-uncased", "stories260K"]
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
MARKS = "<|endoftext|>a<|im_start|>b<|im_end|>c<s>d</s>e[CLS]f[SEP]"
# combining marks, jamo, ligatures, SentencePiece's space
HARD = [*"ab \n\t\x00\u0301\u0327\u1100\u1161\u11a8\ufe0f\u200d\u0130\ufb01\u212b\u2581\ufffd\u4e2d", FAMILY]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "[SEP]", "</s>", "<0x41>", "##"]
TEXTS = st.one_of(
    st.text(st.characters()).map(clean_text),
    st.lists(st.sampled_from(HARD + SPECIAL)).map("".join),
    st.binary().map(lambda content: content.decode("utf-8", errors="replace")),
)


class Encoded(NamedTuple):
    ids: list[int]
    ends: np.ndarray
    spans: list[bytes]
    """Bytes of the text that each token covers."""
    pieces: list[bytes | None]
    """Bytes that the table gives each token."""


@pytest.fixture(scope="session")
def load(real_tokenizer, real_table):
    """Return one of REAL and its table."""
    return lambda name: (real_tokenizer(name), real_table(name))


def encode(tokenizer, table, text: str) -> Encoded:
    """Encode a text and check what holds for every text: the spans put together are its bytes."""
    ids, ends = encode_with_ends(tokenizer, table, text)
    content = text.encode()
    spans = [content[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert len(ids) == len(ends)
    assert ends.dtype == np.int64
    if ids:
        assert ends[0] >= 0 and (np.diff(ends) >= 0).all() and ends[-1] == len(content)
        assert b"".join(spans) == content
    return Encoded(ids, ends, spans, [table[token_id] for token_id in ids])


@pytest.fixture(scope="session")
def small(small_pair):
    return small_pair[0], token_bytes(small_pair[0])


@given(text=TEXTS)
@settings(max_examples=200)
def test_a_trained_tokenizer_covers_every_text_exactly(small, text):
    encoded = encode(*small, text)
    assert encoded.spans == encoded.pieces
    assert bool(encoded.ids) == bool(text)


@pytest.mark.parametrize("name", REAL)
@given(text=TEXTS)
@example(text=FAMILY)
@example(text="e\u0301a\u0300o\u0308")
@settings(max_examples=100)
def test_spans_of_a_real_tokenizer_put_together_are_the_text(load, name, text):
    encode(*load(name), text)


@pytest.mark.parametrize(("name", "form"), [("gpt2", None), ("qwen1.5", "NFC")])
@given(text=TEXTS)
@settings(max_examples=100)
def test_a_byte_level_vocabulary_spells_every_text_that_is_not_normalised(load, name, form, text):
    encoded = encode(*load(name), unicodedata.normalize(form, text) if form else text)
    assert encoded.spans == encoded.pieces


@given(text=TEXTS)
@settings(max_examples=100)
def test_smollm_spells_every_text_whose_bytes_it_has(load, text):
    tokenizer, table = load("smollm2")
    missing = set(range(256)) - {piece[0] for piece in table if piece and len(piece) == 1}
    assert len(missing) == 21
    encoded = encode(tokenizer, table, text)
    assert encoded.spans == encoded.pieces or not missing.isdisjoint(text.encode())


@given(text=TEXTS.filter(lambda text: text and "\u2581" not in text))
@settings(max_examples=100)
def test_sentencepiece_spells_every_text_after_a_space_of_its_own(load, text):
    encoded = encode(*load("stories260K"), text)
    assert [b" " + encoded.spans[0], *encoded.spans[1:]] == encoded.pieces


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(
    "text",
    [
        f"a {FAMILY} b \U0001f600\U0001f1eb\U0001f1f7",
        "\u4e2d\u6587\u3068\u65e5\u672c\u8a9e",
        b"ok \xff\xfe\xc3 \xe4\xb8 end".decode("utf-8", errors="replace"),
    ],
    ids=["emoji", "cjk", "invalid bytes"],
)
def test_hard_texts_are_covered(load, name, text):
    assert encode(*load(name), text).ids


@pytest.mark.parametrize("name", REAL)
def test_an_empty_text_has_no_tokens(load, name):
    encoded = encode(*load(name), "")
    assert encoded.ids == [] and encoded.ends.shape == (0,)


@pytest.mark.parametrize("name", REAL)
def test_special_tokens_in_a_text_are_read_as_text(load, name):
    tokenizer, table = load(name)
    encoded = encode(tokenizer, table, MARKS)
    assert not set(encoded.ids) & set(tokenizer.all_special_ids)
    assert None not in encoded.pieces


def test_special_tokens_are_read_as_text_after_the_tokenizer_was_called(documents):
    tokenizer = train_tokenizer(documents, 280)
    table = token_bytes(tokenizer)
    before = encode(tokenizer, table, MARKS)
    assert tokenizers_match(tokenizer, train_tokenizer(documents, 280))
    assert tokenizer("a").input_ids
    assert encode(tokenizer, table, MARKS).ids == before.ids
    assert tokenizer.eos_token_id not in before.ids


def test_a_composed_letter_covers_its_accent(load):
    encoded = encode(*load("qwen1.5"), "cafe\u0301 o\u0308l cafe\u0301s.")
    assert [unicodedata.normalize("NFC", span.decode()).encode() for span in encoded.spans] == encoded.pieces


def test_a_lower_cased_word_covers_the_spaces_before_it(load):
    encoded = encode(*load("bert-base-uncased"), "The CAF\u00c9s,  they")
    assert encoded.pieces == [b"the", b"cafes", b",", b"they"]
    assert encoded.spans == [b"The", " CAF\u00c9s".encode(), b",", b"  they"]


def test_only_the_last_token_of_a_character_covers_it_where_the_text_was_changed(load):
    # NFC changes the accented letter, so the emoji's three tokens are placed by characters
    encoded = encode(*load("qwen1.5"), "e\u0301 \U0001f9ff")
    assert encoded.pieces == [b"\xc3\xa9", b" \xf0\x9f", b"\xa7", b"\xbf"]
    assert encoded.spans == [b"e\xcc\x81", b" ", b"", b"\xf0\x9f\xa7\xbf"]


@pytest.mark.parametrize("name", ["gpt2", "qwen1.5", "smollm2"])
def test_the_table_says_what_the_decoder_says(load, name):
    tokenizer, table = load(name)
    texts = tokenizer.backend_tokenizer.decode_batch([[i] for i in range(len(table))], skip_special_tokens=False)
    special = set(tokenizer.all_special_ids)
    for token_id, (piece, text) in enumerate(zip(table, texts, strict=True)):
        assert piece is None or piece.decode("utf-8", errors="replace") == text
        assert (piece is None) >= (token_id in special)


def test_a_trained_table_has_every_byte_and_one_special_token(small):
    _, table = small
    assert table[0] is None and None not in table[1:]
    assert {piece for piece in table[1:] if len(piece) == 1} == {bytes([byte]) for byte in range(256)}
    assert len(set(table)) == len(table) == 300


@pytest.mark.parametrize(
    ("name", "token", "expected"),
    [
        ("gpt2", "\u0120the", b" the"),
        ("gpt2", "\u010a", b"\n"),
        ("qwen1.5", "<|endoftext|>", None),
        ("stories260K", "\u2581the", b" the"),
        ("stories260K", "<0x0A>", b"\n"),
        ("stories260K", "<0xFF>", b"\xff"),
        ("stories260K", "</s>", None),
        ("bert-base-uncased", "##ing", b"ing"),
        ("bert-base-uncased", "the", b"the"),
        ("bert-base-uncased", "[CLS]", None),
    ],
)
def test_a_token_stands_for_its_bytes(load, name, token, expected):
    tokenizer, table = load(name)
    assert table[tokenizer.convert_tokens_to_ids(token)] == expected


def test_training_is_deterministic(documents):
    first, second = train_tokenizer(documents, 320), train_tokenizer(documents, 320)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


@pytest.mark.parametrize("size", [260, 333, 400])
def test_a_trained_tokenizer_has_the_wanted_size(documents, size):
    assert len(train_tokenizer(documents, size)) == size


def test_digits_are_tokens_of_their_own_where_they_are_to_be_apart(tmp_path):
    texts = [f"x = {number} and y = {number + 1}" for number in range(1900, 2000)]
    together, apart = (train_tokenizer(texts, 330, digits=digits) for digits in ("together", "apart"))
    assert len(together("1987").input_ids) < 4
    assert [apart.decode([token]) for token in apart("x = 1987").input_ids][-4:] == ["1", "9", "8", "7"]
    assert apart.decode(apart("x = 1987").input_ids) == "x = 1987"
    apart.save_pretrained(tmp_path / "apart")
    assert load_tokenizer(tmp_path / "apart", "x")("2031").input_ids == apart("2031").input_ids


def test_a_saved_tokenizer_loads_as_the_same(small, tmp_path):
    tokenizer, table = small
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert token_bytes(loaded) == table
    assert encode(loaded, table, MARKS).ids == encode(tokenizer, table, MARKS).ids
    assert start_token_id(loaded) == end_token_id(loaded) == start_token_id(tokenizer) == 0


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [("gpt2", 50256, 50256), ("smollm2", 1, 2), ("bert-base-uncased", 101, 102), ("stories260K", 1, 2)],
)
def test_start_and_end_are_the_special_tokens_that_the_model_knows(load, name, start, end):
    tokenizer, _ = load(name)
    assert (start_token_id(tokenizer), end_token_id(tokenizer)) == (start, end)


def test_equally_trained_tokenizers_match(documents):
    assert tokenizers_match(train_tokenizer(documents, 300), train_tokenizer(documents, 300))


def test_tokenizers_of_other_size_text_or_start_do_not_match(documents):
    first = train_tokenizer(documents, 300)
    moved = train_tokenizer(documents, 300)
    moved.bos_token = "!"
    for other in (train_tokenizer(documents, 301), train_tokenizer(["other words here"] * 3, 300), moved):
        assert not tokenizers_match(first, other)


def test_a_tokenizer_that_cuts_otherwise_does_not_match(documents):
    first, second = train_tokenizer(documents, 300), train_tokenizer(documents, 300)
    second.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    assert not tokenizers_match(first, second)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./missing", "student.path: expected a model folder, got './missing', which does not exist"),
        ("nobody/nothing", "student.path: expected the hub or its local cache to hold 'nobody/nothing'"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_tokenizer(path, "student.path")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [None, "{", '{"version": "1.0", "added_tokens": [], "model": {"type": "Unknown"}}'],
    ids=["none", "cut off", "of a newer library"],
)
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path, content):
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match="expected a tokenizer in the folder"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_marks_no_start_is_refused(documents, tmp_path):
    tokenizer = train_tokenizer(documents, 280)
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="expected a tokenizer with a BOS, EOS or CLS token"):
        load_tokenizer(tmp_path)
