"""What the files of a tokenizer say, against what a library makes of them."""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file

from kdkit.errors import UserError

PROBES = (
    "In 1999 and 2026, 3.14159 or 1,000,000 of 007",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m, cafe\u0301 A\u030angstro\u0308m",
    "The THE the QUICK iPhone McDonald don't WE'LL",
    " one  two   three\tfour\n\nfive \n  six ",
    "def f(x):\n    return  x != y  # \u2026 \u201cquoted\u201d \u2014 <tag/> a_b-c@d.org",
    "\u4e2d\u6587\u3068\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u0440\u0443\u0441\u0441\u043a \u0627\u0644\u0639",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \ufb01ne \uff21\uff22 \u00bd \u2581 \u00a0x",
)
"""Digits, accents, case, spaces, code, scripts, rare characters: where rules that cut or change text differ."""


def find_difference(first: Tokenizer, second: Tokenizer, texts: tuple[str, ...] = PROBES) -> str | None:
    """Return the first text that two tokenizers cut into different tokens, special tokens aside; None if none.

    Tokens are compared by their ids and their spelling, so equal ids of two vocabularies do not count as equal tokens.
    """
    for text in texts:
        cuts = [tokenizer.encode(text, add_special_tokens=False) for tokenizer in (first, second)]
        if cuts[0].ids != cuts[1].ids or cuts[0].tokens != cuts[1].tokens:
            return text
    return None


def obey_file(
    tokenizer: PreTrainedTokenizerFast, name: str, key: str, revision: str | None, is_offline: bool
) -> PreTrainedTokenizerFast:
    """Return a loaded tokenizer, or the one of its `tokenizer.json` where the library made another one of it.

    transformers 5 rebuilds the tokenizer of some folders by their model type or `tokenizer_class`, with rules of its
    own for digits, accents or case. The model was trained with the file.

    Args:
        tokenizer: as `AutoTokenizer` loaded it.
        name: hub name or folder.
        key: the setting that named it, for messages.
        is_offline: read the folder or the hub's cache only.

    Raises:
        UserError: what is loaded cuts text otherwise than the file, and so does the file's own tokenizer.
    """
    path = cached_file(
        name,
        "tokenizer.json",
        revision=revision,
        local_files_only=is_offline,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return tokenizer
    written = Tokenizer.from_file(path)
    difference = _disagreement(written, tokenizer)
    if difference is None:
        return tokenizer
    obeyed = PreTrainedTokenizerFast.from_pretrained(name, revision=revision, local_files_only=is_offline)
    if _disagreement(written, obeyed) is not None:
        raise UserError(
            f"{key}: expected a tokenizer that cuts text as {Path(path).name} of {name!r} says, got "
            f"{type(tokenizer).__name__}, {difference}; set tokenizer_class to PreTrainedTokenizerFast in its "
            "tokenizer_config.json, or install the transformers that the model was made with"
        )
    print(
        f"{key}: transformers makes a {type(tokenizer).__name__} of {name!r}, {difference}; the file is used, with "
        "which the model was trained"
    )
    return obeyed


def _disagreement(written: Tokenizer, tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Say how a loaded tokenizer differs from its file; None where it does not."""
    loaded = tokenizer.backend_tokenizer
    if not written.get_vocab(with_added_tokens=True).items() <= loaded.get_vocab(with_added_tokens=True).items():
        return "whose entries are not those of tokenizer.json"
    text = find_difference(written, loaded)
    if text is None:
        return None
    # one word tells more than a line, where one word is enough to differ
    text = find_difference(written, loaded, tuple(text.split())) or text
    was, became = (each.encode(text, add_special_tokens=False).tokens for each in (written, loaded))
    return f"which cuts {text!r} into {became[:6]} where tokenizer.json has {was[:6]}"
