"""Markers: text that looks like special tokens, such as a chat that was rendered with a template."""

import re
from collections import Counter
from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import read_special_tokens
from kdkit.runs.messages import note

_USUAL = r"<[|\uff5c][\w\u2581-]+[|\uff5c]>|<(?:start|end)_of_turn>|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>"
"""Markers of widespread chat templates: ChatML and Llama 3, DeepSeek, Gemma, Mistral, Llama 2."""


def handle_markers(texts: list[str], tokenizers: tuple[PreTrainedTokenizerFast, ...], are_read: bool) -> dict[str, int]:
    """Say what looks like special tokens in texts, and have the tokenizers read it as such, if that is wanted.

    Args:
        tokenizers: changed in place.

    Returns:
        See `count_markers`.
    """
    markers = count_markers(texts, tokenizers)
    for tokenizer in tokenizers if are_read else ():
        read_special_tokens(tokenizer)
    if markers:
        listed = ", ".join(f"{name} {count:,} times" for name, count in list(markers.items())[:4])
        more = f" and {len(markers) - 4} more" if len(markers) > 4 else ""
        what = "cut into pieces like any text; if special tokens are meant, set data.special_tokens=read"
        if are_read:
            what = "what is a special token of a tokenizer is read as that (data.special_tokens=read)"
        note(f"data: the text holds what looks like special tokens, {listed}{more}: {what}")
    return markers


def count_markers(texts: Iterable[str], tokenizers: tuple[PreTrainedTokenizerFast, ...]) -> dict[str, int]:
    """Count what looks like a special token in texts: by the names that the tokenizers have, and the usual ones.

    Returns:
        How often each occurs, the most frequent first.
    """
    names = {str(token) for each in tokenizers for token in each.added_tokens_decoder.values() if token.special}
    pattern = re.compile("|".join([*map(re.escape, sorted(names, key=len, reverse=True)), _USUAL]))
    return dict(Counter(found for text in texts for found in pattern.findall(text)).most_common())
