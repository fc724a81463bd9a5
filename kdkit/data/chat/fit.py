"""Conversations that are longer than a row: cut from the front, so that the answer stays.

Whole turns go first, the oldest first; then the front of what remains of the prompt. An answer is cut at its end only
where it does not fit alone; the prompt then keeps up to a quarter of the row.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain

from kdkit.alignment.templates import Message
from kdkit.data.chat.sides import Fitted, SharedCuts, Side

ROUNDS = 6
"""A text that was cut may be read as more tokens than it had in the whole: tried again so often, with less."""
PROMPT_SHARE = 4
"""The prompt keeps one part in so many of a row that its answer overfills."""
WORD_BYTES = 40
"""A cut moves at most so far, to stand between two words."""


def fit(fitted: Fitted, sides: Sequence[Side], over: list[int], counts: Counter[str]) -> Fitted | None:
    """Cut a conversation until both models have room for it.

    Args:
        over: by how many tokens each side is too long.
        counts: gets `conversations_cut`, `turns_left_out`, `prompt_bytes_cut` and `answers_cut` added.

    Returns:
        The shorter conversation; None where even the templates leave no room for an answer.
    """
    messages = list(fitted.messages)
    first = int(messages[0].role == "system")
    turns = 0
    while max(over) > 0 and len(messages) > first + 2:
        del messages[first : first + 2]
        over, turns = _over(messages, sides), turns + 1
    before = _num_bytes(messages[:-1])
    prompt = [sum(_count(message.content, side) for message in messages[:-1]) for side in sides]
    answer_is_cut = any(each > size for each, size in zip(over, prompt, strict=True))
    if answer_is_cut:
        rooms = [side.max_length // PROMPT_SHARE for side in sides]
        over = _cut_prompt(messages, sides, over, [size - room for size, room in zip(prompt, rooms, strict=True)])
        if not _cut_answer(messages, sides, over):
            return None
    else:
        _cut_prompt(messages, sides, over, over)
    cut_bytes = before - _num_bytes(messages[:-1])
    counts.update(conversations_cut=1, turns_left_out=turns, prompt_bytes_cut=cut_bytes, answers_cut=int(answer_is_cut))
    return Fitted(tuple(messages), is_cut=True, answer_is_cut=answer_is_cut, document=fitted.document)


def _over(messages: list[Message], sides: Sequence[Side], answer_is_cut: bool = False) -> list[int]:
    """Return by how many tokens each side is too long; below 0 there is room."""
    laid = [side.lay([Fitted(tuple(messages), answer_is_cut=answer_is_cut)]) for side in sides]
    cuts = SharedCuts(chain.from_iterable(each.texts for each in laid))
    return [side.count(each, cuts) - side.max_length for side, each in zip(sides, laid, strict=True)]


def _cut_prompt(messages: list[Message], sides: Sequence[Side], over: list[int], wanted: list[int]) -> list[int]:
    """Cut tokens off the fronts of the messages before the answer, in place.

    Args:
        over: by how many tokens each side is too long.
        wanted: how many of them are to go.

    Returns:
        What is left of `over`.
    """
    goal = [now - count for now, count in zip(over, wanted, strict=True)]
    for number in range(len(messages) - 1):
        for _ in range(ROUNDS):
            text, more = messages[number].content, [now - end for now, end in zip(over, goal, strict=True)]
            if max(more) <= 0 or not text:
                break
            messages[number] = replace(messages[number], content=_without_front(text, sides, more))
            over = _over(messages, sides)
    if messages[0].role == "system" and not messages[0].content:
        del messages[0]
        over = _over(messages, sides)
    return over


def _cut_answer(messages: list[Message], sides: Sequence[Side], over: list[int]) -> bool:
    """Cut the end of the answer, in place; return whether something is left that fits."""
    for _ in range(ROUNDS):
        if max(over) <= 0:
            return True
        text = _without_back(messages[-1].content, sides, over)
        if not text.strip():
            return False
        messages[-1] = replace(messages[-1], content=text)
        over = _over(messages, sides, answer_is_cut=True)
    return max(over) <= 0


def _without_front(text: str, sides: Sequence[Side], over: list[int]) -> str:
    """Leave out at least so many tokens of each side at the front of a text, and the rest of a word."""
    place = 0
    for side, count in zip(sides, over, strict=True):
        ends = _ends(text, side)
        if count > 0:
            place = max(place, ends[min(count, len(ends)) - 1] if len(ends) else 0)
    rest = text.encode()[place:].decode("utf-8", "ignore")
    space = rest.find(" ", 0, WORD_BYTES)
    return rest[space + 1 :] if space >= 0 else rest


def _without_back(text: str, sides: Sequence[Side], over: list[int]) -> str:
    """Leave out at least so many tokens of each side at the end of a text, and the rest of a word."""
    place = len(text.encode())
    for side, count in zip(sides, over, strict=True):
        ends = _ends(text, side)
        if count > 0:
            place = min(place, ends[-count - 1] if len(ends) > count else 0)
    rest = text.encode()[:place].decode("utf-8", "ignore")
    space = rest.rfind(" ", max(0, len(rest) - WORD_BYTES))
    return rest[:space] if space > 0 else rest


@lru_cache(maxsize=16)
def _ends(text: str, side: Side) -> list[int]:
    """Return the byte at which each token of a text ends."""
    return side.encoder.encode([text])[1].cumsum().tolist() if text else []


def _count(text: str, side: Side) -> int:
    return len(_ends(text, side))


def _num_bytes(messages: Sequence[Message]) -> int:
    return sum(len(message.content.encode()) for message in messages)
