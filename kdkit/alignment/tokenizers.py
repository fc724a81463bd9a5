"""Tokenizers: training a byte-level BPE, loading one, and the bytes that each token stands for."""

import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdkit.errors import UserError
from kdkit.machine.hub import explain_load_error, hub_is_reachable, is_local_path, resolve_model_path

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(documents: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE whose only special token, `<|endoftext|>`, starts and ends documents.

    Args:
        documents: training texts only; evaluation text must not shape the vocabulary.
        vocab_size: entries, the 256 bytes and the special token included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def load_tokenizer(
    path: str | Path, key: str = "teacher.path", revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerFast:
    """Load a tokenizer by hub name or folder.

    Args:
        path: hub name or folder.
        key: the setting that named it, for messages.

    Raises:
        UserError: no tokenizer there, no network, or one without a fast (Rust) implementation.
    """
    name = resolve_model_path(str(path), key)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=trust_remote_code,
            local_files_only=is_local_path(name) or not hub_is_reachable(),
        )
    except Exception as error:  # tokenizers raises bare Exception for a file that it cannot read
        raise explain_load_error(error, name, key, "tokenizer") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"{key}: expected a fast tokenizer (tokenizer.json), got a slow one in {str(path)!r}; "
            "convert it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    if start_token_id(tokenizer) is None:
        raise UserError(f"{key}: expected a tokenizer with a BOS, EOS or CLS token, got none in {str(path)!r}; add one")
    return tokenizer


def start_token_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the id that every sequence starts with: BOS, else EOS (it separates documents), else CLS."""
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id)
    return next((token_id for token_id in candidates if token_id is not None), None)


def end_token_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the id that ends a document: EOS, else SEP, else the start token."""
    candidates = (tokenizer.eos_token_id, tokenizer.sep_token_id, start_token_id(tokenizer))
    return next((token_id for token_id in candidates if token_id is not None), None)


def tokenizers_match(first: PreTrainedTokenizerFast, second: PreTrainedTokenizerFast) -> bool:
    """Return whether token ids mean the same: equal vocabularies, special tokens and cutting rules."""
    if first.get_vocab() != second.get_vocab() or start_token_id(first) != start_token_id(second):
        return False
    sample = "Hello world, na\u00efve caf\u00e9 42 \U0001f600\n\tdef f(x):\n    return  x\n"
    return first(sample).input_ids == second(sample).input_ids


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes | None]:
    """Return the UTF-8 bytes that each id adds to a text; None for special and unused ids.

    Byte-level vocabularies spell bytes with printable characters (GPT-2's table), SentencePiece ones
    write a space as U+2581 and single bytes as <0x0A>; entries of other vocabularies are the text itself.
    """
    backend = tokenizer.backend_tokenizer
    byte_level = "ByteLevel" in backend.to_str()
    table: list[bytes | None] = [None] * backend.get_vocab_size(with_added_tokens=True)
    added = tokenizer.added_tokens_decoder
    for piece, token_id in backend.get_vocab(with_added_tokens=True).items():
        if token_id >= len(table):
            table.extend([None] * (token_id + 1 - len(table)))
        if token_id in added:
            table[token_id] = None if added[token_id].special else piece.encode()
        else:
            table[token_id] = _byte_level_bytes(piece) if byte_level else _piece_bytes(piece)
    return table


def encode_with_ends(
    tokenizer: PreTrainedTokenizerFast, table: list[bytes | None], text: str
) -> tuple[list[int], np.ndarray]:
    """Tokenize a text without special tokens; return the ids, and the byte at which each token ends.

    Token i covers bytes ends[i - 1] to ends[i] of the UTF-8 text, so the spans put together are the
    text. Exact where the vocabulary's bytes spell the text; where a normaliser changed it (NFC,
    lower case, dropped spaces), character offsets are used: a combining mark counts to the token
    before it, any other gap to the token after it, and of several tokens inside one character only
    the last covers it.

    Args:
        tokenizer: a fast tokenizer.
        table: `token_bytes(tokenizer)`.
        text: valid text (see `clean_text`).

    Returns:
        Token ids, and their ends in bytes: int64, non-decreasing, the last one the text's length.
    """
    # every call of the tokenizer itself resets this; a document must not end itself
    tokenizer.backend_tokenizer.encode_special_tokens = True
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    ids, content = encoding.ids, text.encode()
    if not ids:
        return [], np.zeros(0, dtype=np.int64)
    pieces = [piece for token_id in ids if (piece := table[token_id]) is not None]
    if len(pieces) == len(ids):
        spelled = b"".join(pieces)
        # SentencePiece puts a space before the first word that the text does not have
        extra = 1 if spelled == b" " + content else 0
        if extra or spelled == content:
            return ids, np.maximum(np.cumsum([len(piece) for piece in pieces]) - extra, 0)
    return ids, _ends_by_offsets(encoding.offsets, text)


def _ends_by_offsets(offsets: list[tuple[int, int]], text: str) -> np.ndarray:
    """Turn character offsets into byte ends that never go back and reach the text's end."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    byte_at = np.concatenate([[0], np.cumsum(widths)])
    starts, stops = np.array(offsets).T
    for i, next_start in enumerate(starts[1:]):
        # NFC joins `e` and its accent to one character, whose offsets name the `e` alone
        while stops[i] < next_start and unicodedata.combining(text[stops[i]]):
            stops[i] += 1
    # tokens inside one character share its offsets: all but the last end where it starts
    stops[:-1] = np.where(starts[1:] < stops[:-1], starts[1:], stops[:-1])
    ends = np.maximum.accumulate(byte_at[stops])
    ends[-1] = byte_at[-1]
    return ends


@lru_cache(maxsize=1)
def _byte_level_alphabet() -> dict[str, int]:
    """Return GPT-2's table from printable characters to bytes: the rest is moved above 255."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(moved)}


def _byte_level_bytes(piece: str) -> bytes:
    """Spell a byte-level piece as bytes."""
    alphabet = _byte_level_alphabet()
    if all(character in alphabet for character in piece):
        return bytes(alphabet[character] for character in piece)
    return piece.encode()


def _piece_bytes(piece: str) -> bytes:
    """Spell a SentencePiece or WordPiece piece as bytes."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.removeprefix("##").replace("\u2581", " ").encode()
