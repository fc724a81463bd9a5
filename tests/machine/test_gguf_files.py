"""A GGUF file's header is checked before anything else reads the file."""

import struct

import pytest

from kdkit.errors import UserError
from kdkit.machine.gguf_files import read_gguf_header
from kdkit.runs.hashes import hash_file
from tests.gguf_files import write_llama
from tests.tiny import make_llama

pytest.importorskip("gguf", reason="the Python package gguf is not installed")


@pytest.fixture(scope="module")
def whole(small_pair, tmp_path_factory):
    """A small file in fp32."""
    return write_llama(tmp_path_factory.mktemp("gguf") / "tiny.gguf", make_llama(len(small_pair[0])), small_pair[0])


def test_a_header_says_what_is_in_the_file(whole, small_pair):
    header = read_gguf_header(str(whole), "teacher.path")
    model = make_llama(len(small_pair[0]))
    assert (header.architecture, header.context, header.quantisation) == ("llama", 2048, "F32")
    assert header.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert header.metadata["tokenizer.ggml.tokens"] == len(small_pair[0])
    assert len(hash_file(whole)) == 64


def refused(tmp_path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_gguf_header(str(file), "teacher.path")
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_is_refused_wherever_it_is_cut(whole, tmp_path):
    content = whole.read_bytes()
    refused(tmp_path, content[:-1], r"expected a GGUF file of .* bytes.*cut short, copy it again")
    for length in (6, 20, 100, 1_000, 3_000):
        refused(tmp_path, content[:length], "cut short or damaged")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with b'', not 'GGUF'"),
        (b"PK\x03\x04 something else", "not 'GGUF'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), "tensors and 1 values"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**40), "a text of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "no general.architecture"),
    ],
)
def test_what_is_no_gguf_file_is_refused(tmp_path, content, message):
    refused(tmp_path, content, message)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.gguf', which does not exist"):
        read_gguf_header(str(tmp_path / "none.gguf"), "teacher.path")


def test_a_file_without_weights_is_refused(tmp_path):
    text = b"general.architecture"
    value = struct.pack("<Q", len(text)) + text + struct.pack("<IQ", 8, 5) + b"llama"
    refused(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + value + b"\0" * 64, "no weights in")
