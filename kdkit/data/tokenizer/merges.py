"""Byte-pair encoding merge by merge: the same tokenizer with fewer merges, and what each number of them does to a text.

Training is greedy: a vocabulary of N entries has the first merges of any larger one from the same text. So one training
gives every smaller tokenizer.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import encode_with_ends, token_bytes
from kdkit.errors import UserError


class Merge(NamedTuple):
    """Two entries that become one wherever they stand beside each other."""

    left: str
    right: str

    @property
    def piece(self) -> str:
        """The entry that they make."""
        return self.left + self.right


def has_merges(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether a tokenizer is a BPE, whose merges have an order."""
    return _state(tokenizer)["model"]["type"] == "BPE"


def list_merges(tokenizer: PreTrainedTokenizerFast) -> list[Merge]:
    """Return the merges of a BPE in the order in which training found them.

    Raises:
        UserError: another kind of tokenizer.
    """
    return _merges(_state(tokenizer))


def num_base_entries(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many entries no merge makes: bytes or characters, and special tokens."""
    state = _state(tokenizer)
    return len(state["model"]["vocab"].keys() - {merge.piece for merge in _merges(state)})


def shorten(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a BPE with its first merges only: what training with a smaller vocabulary gives.

    Args:
        vocab_size: entries of the result at most; those that no merge makes always stay.

    Raises:
        UserError: another kind of tokenizer.
    """
    state = _state(tokenizer)
    kept, made = [], set()
    room = vocab_size - num_base_entries(tokenizer)
    for merge in _merges(state):
        if len(made) >= room:
            break
        kept.append(merge)
        made.add(merge.piece)  # two pairs may spell the same entry
    gone = {merge.piece for merge in _merges(state)} - made
    model = state["model"]
    model["vocab"] = {piece: number for piece, number in model["vocab"].items() if piece not in gone}
    model["merges"] = [list(merge) for merge in kept]
    special = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **special)


def cut_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[bytes]:
    """Return the bytes of a text that each of its tokens covers; joined they are the text."""
    _, ends = encode_with_ends(tokenizer, token_bytes(tokenizer), text)
    content, starts = text.encode(), [0, *ends.tolist()]
    return [content[start:stop] for start, stop in zip(starts, ends.tolist(), strict=False)]


def merge_steps(tokenizer: PreTrainedTokenizerFast, text: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Cut a text with growing vocabularies of the same tokenizer.

    Returns:
        For each size `vocab_size`, `merges` and `tokens`: the bytes that each token covers, in hexadecimal.
    """
    base, steps = num_base_entries(tokenizer), []
    for size in sizes:
        tokens = cut_text(shorten(tokenizer, size), text)
        steps.append({"vocab_size": size, "merges": size - base, "tokens": [token.hex() for token in tokens]})
    return steps


def step_sizes(tokenizer: PreTrainedTokenizerFast, count: int) -> list[int]:
    """Return vocabulary sizes from no merge to all of them, each step by about the same factor of merges."""
    base, size = num_base_entries(tokenizer), len(tokenizer)
    merges = max(size - base, 1)
    grown = [round(merges ** (step / (count - 1))) for step in range(1, count)]
    return sorted({base, *(base + number for number in grown)} - {base + 1} | {size})


def _state(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _merges(state: dict[str, Any]) -> list[Merge]:
    model = state["model"]
    if model["type"] != "BPE":
        raise UserError(
            f"tokenizer: expected a byte-pair encoding, whose merges have an order, got {model['type']}; train one: "
            "python -m kdkit tokenizer train FILE --vocab-size 4096 --output FOLDER"
        )
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [Merge(left, right) for left, right in pairs]
