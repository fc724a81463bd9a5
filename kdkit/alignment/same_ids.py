"""Whether two tokenizers are one: the same ids mean the same text, whatever either adds or calls its ends."""

from copy import deepcopy
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.files import PROBES, find_difference
from kdkit.alignment.tokenizers import end_token_id, start_token_id


@dataclass(frozen=True)
class SharedTokenizer:
    """Two tokenizers of one family as one: what both models read."""

    student: PreTrainedTokenizerFast
    """The smaller of the two (the student's where they are equal); it has no id that a model lacks."""
    teacher: PreTrainedTokenizerFast
    """The same, with the teacher's own start token where it has one."""
    notes: tuple[str, ...]
    """What differed and what was done about it, a phrase each; empty for equal tokenizers."""


def share_tokenizer(
    student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast, texts: list[str] | None = None
) -> SharedTokenizer | None:
    """Make one tokenizer of two whose ids mean the same; None where an id, or a text, means something else.

    A base and an instruct model of one family may differ in their start and end tokens, in tokens that one of them
    adds after the last id of the other, and in the names of added tokens. Entries of text, and the rules that cut
    text into them, must agree.

    Args:
        texts: to be cut alike, beside `PROBES`; those that hold an added token's name are passed over.
    """
    if student is teacher:
        return SharedTokenizer(student, teacher, ())
    entries = [_entries(tokenizer) for tokenizer in (student, teacher)]
    size = min(max(entry) for entry in entries) + 1
    added = [tokenizer.added_tokens_decoder for tokenizer in (student, teacher)]
    differing = [i for i in entries[0].keys() | entries[1].keys() if entries[0].get(i) != entries[1].get(i)]
    # an id that differs must be text to neither: added, or unused
    if any(i in entry and i not in names for i in differing for entry, names in zip(entries, added, strict=True)):
        return None
    names = {token.content for side in added for token in side.values()}
    texts = [text for text in texts or [] if not any(name in text for name in names)]
    if find_difference(student.backend_tokenizer, teacher.backend_tokenizer, (*PROBES, *texts)) is not None:
        return None
    reader = student if max(entries[0]) < size else teacher
    own_start = teacher.bos_token_id
    if own_start is None or own_start >= size or own_start == start_token_id(reader):
        pair = reader, reader
    else:
        pair = reader, deepcopy(reader)
        pair[1].bos_token = teacher.bos_token
    return SharedTokenizer(*pair, tuple(_describe(student, teacher, pair, differing, size)))


def _entries(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """Return how each id is spelled."""
    return {i: piece for piece, i in tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True).items()}


def _describe(
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    pair: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast],
    differing: list[int],
    size: int,
) -> list[str]:
    """Say what differs and what was done."""
    notes = []
    for side, tokenizer in (("student", student), ("teacher", teacher)):
        extra = [token.content for i, token in sorted(tokenizer.added_tokens_decoder.items()) if i >= size]
        if extra:
            shown = ", ".join(repr(name) for name in extra[:3]) + ", ..." * (len(extra) > 3)
            notes.append(f"the {side} adds {len(extra)} tokens ({shown}), which are left out")
    renamed = sum(i < size for i in differing)
    if renamed:
        notes.append(f"{renamed} added tokens have another name, or are missing, on one side")
    for what, ask, used in (
        ("start", start_token_id, [start_token_id(each) for each in pair]),
        ("end", end_token_id, [end_token_id(each) for each in pair]),
    ):
        own = [ask(student), ask(teacher)]
        if own[0] != own[1]:
            names = student.convert_ids_to_tokens(own[0]), teacher.convert_ids_to_tokens(own[1])
            read = " and ".join(repr(pair[0].convert_ids_to_tokens(i)) for i in dict.fromkeys(used))
            notes.append(f"the {what} is {names[0]!r} for the student and {names[1]!r} for the teacher; used: {read}")
    return notes
