"""Tokenizers: training a byte-level BPE, loading one, and the bytes that each token stands for."""

import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdkit.alignment.bytes import utf8_widths
from kdkit.alignment.files import PROBES, obey_file
from kdkit.config.types import Digits
from kdkit.errors import UserError
from kdkit.machine.gguf_files import is_gguf
from kdkit.machine.gguf_tokenizer import load_gguf_tokenizer
from kdkit.machine.hub import explain_load_error, hub_is_reachable, is_local_path, resolve_model_path
from kdkit.machine.user_code import is_user_code, make_user_object

END_OF_TEXT = "<|endoftext|>"
DOCUMENT_END = "document_end"
"""Name, in a tokenizer's own settings, of the token that separates documents where it is not EOS."""
READS_SPECIAL = "reads_special_tokens"
"""Name, in a tokenizer's own settings, of whether special tokens in a text are read as such."""

MAX_SHOWN = 12
"""Special tokens that a message names at most."""


def train_tokenizer(
    documents: Iterable[str],
    vocab_size: int,
    more_special: tuple[str, ...] = (),
    key: str = "vocab_size",
    digits: Digits = "together",
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE whose special token `<|endoftext|>` starts and ends documents.

    Every byte has an entry, so no text is unknown. Where a text runs out of pairs to merge, the vocabulary is smaller
    than asked for.

    Args:
        documents: training texts only; evaluation text must not shape the vocabulary. They are read once.
        vocab_size: entries, the 256 bytes and the special tokens included.
        more_special: other special tokens, such as those of a chat template.
        key: the setting that named the size, for messages.
        digits: `apart` cuts every digit off before the merges, as SmolLM's tokenizer does.

    Raises:
        UserError: a vocabulary smaller than the alphabet, or special tokens that cannot be (see `check_special`).
    """
    special = check_special(more_special)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(special):
        raise UserError(
            f"{key}: expected at least {len(alphabet) + len(special)} entries ({len(alphabet)} bytes, {len(special)} "
            f"special), got {vocab_size}; set {key}={4 * len(alphabet)}"
        )
    tokenizer = Tokenizer(models.BPE())
    cutting: pre_tokenizers.PreTokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if digits == "apart":
        cutting = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cutting])
    tokenizer.pre_tokenizer = cutting
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def check_special(more_special: Sequence[str]) -> list[str]:
    """Return all special tokens of a tokenizer that is trained here, `<|endoftext|>` first.

    Raises:
        UserError: one that is given twice, is blank, or is a single character that stands for a byte.
    """
    special = [END_OF_TEXT, *more_special]
    if len(set(special)) < len(special):
        twice = next(token for token in special if special.count(token) > 1)
        remedy = "leave it out, it is always there" if twice == END_OF_TEXT else "name it once"
        raise UserError(f"special tokens: expected each of them once, got {twice!r} twice; {remedy}")
    for token in more_special:
        if not token.strip() or len(token) == 1:
            raise UserError(
                f"special tokens: expected a mark that no text holds by chance, got {token!r}; write it as <|name|>"
            )
    return special


def load_tokenizer(
    path: str | Path, key: str = "teacher.path", revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerFast:
    """Load a tokenizer by hub name or folder; where `tokenizer.json` and transformers disagree, the file is obeyed.

    Args:
        path: hub name or folder, a GGUF file, or a teacher of the user's own (`python:MODULE:CLASS`).
        key: the setting that named it, for messages.

    Raises:
        UserError: no tokenizer there, no network, or one without a fast (Rust) implementation; see also `obey_file`.
    """
    if is_gguf(str(path)):
        return load_gguf_tokenizer(path, key)
    if is_user_code(str(path)):
        return deepcopy(make_user_object(str(path), key).tokenizer)  # settings of a run are put into it
    name = resolve_model_path(str(path), key)
    is_offline = is_local_path(name) or not hub_is_reachable()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code, local_files_only=is_offline
        )
    except Exception as error:  # tokenizers raises bare Exception for a file that it cannot read
        raise explain_load_error(error, name, key, "tokenizer") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"{key}: expected a fast tokenizer (tokenizer.json), got a slow one in {str(path)!r}; "
            "convert it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    tokenizer = obey_file(tokenizer, name, key, revision, is_offline)
    if start_token_id(tokenizer) is None:
        raise UserError(f"{key}: expected a tokenizer with a BOS, EOS or CLS token, got none in {str(path)!r}; add one")
    return tokenizer


def start_token_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the id that every sequence starts with: BOS, else EOS (it separates documents), else CLS."""
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id)
    return next((token_id for token_id in candidates if token_id is not None), None)


def end_token_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the id that ends a document: what `set_document_end` chose, else EOS, else SEP, else the start token."""
    chosen = tokenizer.init_kwargs.get(DOCUMENT_END)
    if chosen is not None:
        return tokenizer.convert_tokens_to_ids(chosen)
    candidates = (tokenizer.eos_token_id, tokenizer.sep_token_id, start_token_id(tokenizer))
    return next((token_id for token_id in candidates if token_id is not None), None)


def set_document_end(tokenizer: PreTrainedTokenizerFast, choice: str, key: str) -> None:
    """Decide which token separates documents; it is kept in the tokenizer's files.

    Args:
        tokenizer: changed in place.
        choice: `eos`; `bos`; a token's text; or `auto`: what the files say. A tokenizer that puts a start token before
            a text, and nothing behind it, belongs to a model that was trained on documents that a start token divides.
        key: the setting, for messages.

    Raises:
        UserError: `bos`, or another token, and there is no such one.
    """
    tokenizer.init_kwargs.pop(DOCUMENT_END, None)
    choice = choice.lower() if choice.lower() in ("auto", "eos", "bos") else choice
    if choice == "bos" and tokenizer.bos_token is None:
        raise UserError(f"{key}: expected a tokenizer with a BOS token for 'bos', got none; set {key}=eos")
    if choice == "auto":
        # the template that surrounds a text: its special tokens before and behind it
        mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        ids = tokenizer("a").input_ids
        starts_only = mask[0] == 1 and mask[-1] == 0 and ids[0] == tokenizer.bos_token_id
        choice = "bos" if starts_only else "eos"
    if choice == "eos":
        return
    token_id = tokenizer.bos_token_id if choice == "bos" else _named_id(tokenizer, choice, key)
    if token_id != end_token_id(tokenizer):
        tokenizer.init_kwargs[DOCUMENT_END] = tokenizer.convert_ids_to_tokens(token_id)


def _named_id(tokenizer: PreTrainedTokenizerFast, text: str, key: str) -> int:
    """Return the id of the token that a text names: an entry of the vocabulary, or the token that spells it.

    A token that texts may hold too is pointed out, in a line: a mistyped `eos` may be one.

    Raises:
        UserError: there is none; the message names the special tokens that there are.
    """
    vocabulary = tokenizer.get_vocab()
    table = [] if text in vocabulary else token_bytes(tokenizer)
    if text in vocabulary or text.encode() in table:
        token_id = table.index(text.encode()) if table else vocabulary[text]
        if token_id not in tokenizer.added_tokens_decoder:
            print(f"{key}: {text!r} is a token of ordinary text; wherever it stands, a document ends")
        return token_id
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    near = difflib.get_close_matches(text, ["auto", "eos", "bos", *special], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"set {key}=eos"
    shown = ", ".join(map(repr, special[:MAX_SHOWN])) + ", ..." * (len(special) > MAX_SHOWN)
    raise UserError(
        f"{key}: expected auto, eos, bos, or a token of the tokenizer (its special ones: {shown or 'none'}), got "
        f"{text!r}; {hint}"
    )


def set_turn_end(tokenizer: PreTrainedTokenizerFast, token_id: int) -> None:
    """Let the token that ends an answer end what is read; it is kept in the tokenizer's files, in place."""
    tokenizer.init_kwargs[DOCUMENT_END] = tokenizer.convert_ids_to_tokens(token_id)


def read_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Read special tokens that a text names as such from now on, not as text; it is kept in the tokenizer's files."""
    tokenizer.init_kwargs[READS_SPECIAL] = True


def reads_special_tokens(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether special tokens in a text are read as such; else a document cannot end itself."""
    return bool(tokenizer.init_kwargs.get(READS_SPECIAL))


def tokenizers_match(first: PreTrainedTokenizerFast, second: PreTrainedTokenizerFast) -> bool:
    """Return whether token ids mean the same: equal vocabularies, special tokens and cutting rules."""
    if first.get_vocab() != second.get_vocab() or start_token_id(first) != start_token_id(second):
        return False
    # with the special tokens around the text
    return all(first(text).input_ids == second(text).input_ids for text in PROBES)


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes | None]:
    """Return the UTF-8 bytes that each id adds to a text; None for special and unused ids, and for the unknown one.

    Special tokens that are read in texts (see `read_special_tokens`) stand for their names.

    Byte-level vocabularies spell bytes with printable characters (GPT-2's table), SentencePiece ones
    write a space as U+2581 and single bytes as <0x0A>; entries of other vocabularies are the text itself.
    """
    backend = tokenizer.backend_tokenizer
    byte_level = "ByteLevel" in backend.to_str()
    unknown = unknown_id(tokenizer)
    table: list[bytes | None] = [None] * backend.get_vocab_size(with_added_tokens=True)
    added, are_read = tokenizer.added_tokens_decoder, reads_special_tokens(tokenizer)
    for piece, token_id in backend.get_vocab(with_added_tokens=True).items():
        if token_id >= len(table):
            table.extend([None] * (token_id + 1 - len(table)))
        if token_id == unknown:
            continue
        if token_id in added:
            table[token_id] = None if added[token_id].special and not are_read else piece.encode()
        else:
            table[token_id] = _byte_level_bytes(piece) if byte_level else _piece_bytes(piece)
    return table


def unknown_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the id that stands for text without an entry of its own, by the model's file; None for none."""
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.model, models.Unigram):
        return json.loads(backend.to_str())["model"].get("unk_id")
    return None if backend.model.unk_token is None else backend.token_to_id(backend.model.unk_token)


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
    # every call of the tokenizer itself resets this
    tokenizer.backend_tokenizer.encode_special_tokens = not reads_special_tokens(tokenizer)
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
    byte_at = np.concatenate([[0], np.cumsum(utf8_widths(codes))])
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
def _byte_level_alphabet() -> dict[int, int]:
    """Return GPT-2's table from printable characters to bytes: the rest is moved above 255, and is no byte itself."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    return dict.fromkeys(moved, 0xFFFF) | {256 + i: byte for i, byte in enumerate(moved)}


def _byte_level_bytes(piece: str) -> bytes:
    """Spell a byte-level piece as bytes; one with a character that is not of the table is the text itself."""
    try:
        return piece.translate(_byte_level_alphabet()).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode()


def _piece_bytes(piece: str) -> bytes:
    """Spell a SentencePiece or WordPiece piece as bytes."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.removeprefix("##").replace("\u2581", " ").encode()


def after_special(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a tokenizer that reads a text as one behind a special token.

    Newer SentencePiece tokenizers put a space before the first word of a text, and none before what follows a special
    token.
    """
    cutting = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(cutting, pre_tokenizers.Metaspace) or cutting.prepend_scheme != "first":
        return tokenizer
    reader = deepcopy(tokenizer)
    reader.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=cutting.replacement, prepend_scheme="never", split=cutting.split
    )
    return reader
