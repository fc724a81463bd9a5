"""Chat templates: a conversation as a tokenizer's own template writes it, and where the contents lie in that.

A template is a program that a model brings along. What it writes around the contents depends on the roles, so it is
asked once for every order of roles, with contents that nobody writes; what it then makes of a real conversation must be
the same text with the real contents in their places. Special tokens count as such in what the template writes only: a
content that names one is text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from kdkit.alignment.jinja.copying import copies_plain, is_plain
from kdkit.alignment.tokenizers import after_special, encode_with_ends, end_token_id, start_token_id, token_bytes
from kdkit.config.values import expand_home
from kdkit.errors import UserError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of tokenizers that are trained here, in OpenAI's form, which Qwen and SmolLM use."""
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
SHORT = "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}{% endfor %}"
"""One token a turn, for models that are trained here: who speaks follows from the order."""

_MARK = "\ue000{}\ue001"
"""Content that nobody writes: a number between two characters of a private-use area."""

_MARKER = re.compile(r"<\|[^|<>\s]+\|>|</?(?:start|end)_of_turn>")
"""Markers of widespread templates. `[INST]` is none: Llama 2 reads it as text."""

Piece = int | str
"""A special token, or text."""


@dataclass(frozen=True)
class Message:
    """A message of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Stretch:
    """What a template writes between two contents, cut where the turn before it has ended."""

    end: tuple[Piece, ...]
    """What ends the turn: the end-of-turn token and perhaps spaces before it; empty where there is none."""
    rest: tuple[Piece, ...]
    """What follows, up to the next content."""
    widths: tuple[int, int]
    """UTF-8 bytes of both; a special token counts as 1."""


class ChatTemplate:
    """The template of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, key: str = "chat_template"):
        """Ask a template what it writes around an answer.

        Args:
            key: the setting that gives a template, for messages.

        Raises:
            UserError: there is none; it is no Jinja; it drops, repeats or changes contents.
        """
        if not tokenizer.chat_template:
            raise UserError(
                f"{key}: expected a chat template for conversations, got a tokenizer without one; give the model's: "
                f"{key}=FILE.jinja (or the template itself), or name an instruct model"
            )
        self.tokenizer, self.key = tokenizer, key
        self._stretches: dict[tuple[tuple[str, ...], bool], tuple[str, ...]] = {}
        self._split: dict[tuple[str, bool], Stretch] = {}
        self._cut: dict[str, tuple[Piece, ...]] = {}
        last = self.pieces(self.around(("user", "assistant"))[-1])
        ends = [piece for piece in last if isinstance(piece, int)]
        end_id = ends[0] if ends else end_token_id(tokenizer)
        assert end_id is not None, "load_tokenizer has seen to it"
        self.end_id: int = end_id
        """Token that ends an answer; the end of a text where the template writes none."""

    def render(self, conversations: Sequence[Sequence[Message]], for_answer: bool = False) -> list[str]:
        """Return conversations as the template writes them.

        Args:
            for_answer: also write what opens the assistant's next message.
        """
        if not conversations:  # which transformers refuses
            return []
        plain = [[{"role": m.role, "content": m.content} for m in messages] for messages in conversations]
        try:
            # what apply_chat_template does with messages that are known to be such
            return render_jinja_template(
                plain,
                chat_template=self.tokenizer.get_chat_template(),
                add_generation_prompt=for_answer,
                **self.tokenizer.special_tokens_map,
            )[0]
        except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.key}: expected a chat template that writes conversations of system, user and assistant, got "
                f"{type(error).__name__}: {reason}; correct it or give another one: {self.key}=FILE.jinja"
            ) from None

    def around(self, roles: tuple[str, ...], for_answer: bool = False) -> tuple[str, ...]:
        """Return the text before, between and behind the contents of messages with such roles, `len(roles) + 1` parts.

        Raises:
            UserError: a content does not appear exactly once and in its place.
        """
        if (roles, for_answer) not in self._stretches:
            marks = [_MARK.format(number) for number in range(len(roles))]
            text = self.render([[Message(role, mark) for role, mark in zip(roles, marks, strict=True)]], for_answer)[0]
            parts, place = [], 0
            for mark, role in zip(marks, roles, strict=True):
                found = text.find(mark, place)
                if found < 0 or text.count(mark) != 1:
                    what = "drops" if mark not in text else "moves or repeats"
                    raise UserError(
                        f"{self.key}: expected a chat template that writes every content once, got one that {what} the "
                        f"{role} message of a conversation of {', '.join(roles)}; leave such messages out of the data, "
                        f"or give another template: {self.key}=FILE.jinja"
                    )
                parts.append(text[place:found])
                place = found + len(mark)
            self._stretches[roles, for_answer] = (*parts, text[place:])
        return self._stretches[roles, for_answer]

    def check(self, conversations: Sequence[Sequence[Message]]) -> list[tuple[bool, ...] | None]:
        """Compare what the template writes with its contents in their places.

        Where the template is known to copy contents (see `copies_plain`), what it writes for their order of roles says
        so for all that are plain; every other conversation is rendered.

        Returns:
            Per conversation None where all contents appear as they are, else for each whether it was stripped of the
            spaces around it.

        Raises:
            ContentChangedError: a content appears neither way.
        """
        found: list[tuple[bool, ...] | None] = [None] * len(conversations)
        arounds = [self.around(tuple(message.role for message in messages)) for messages in conversations]
        copies = copies_plain(str(self.tokenizer.get_chat_template()))
        numbers = [
            number
            for number, messages in enumerate(conversations)
            if not (copies and all(is_plain(message.content) for message in messages))
        ]
        texts = self.render([conversations[number] for number in numbers])
        for number, text in zip(numbers, texts, strict=True):
            messages, around = conversations[number], arounds[number]
            contents = [message.content for message in messages]
            joined = around[0] + "".join(a + b for a, b in zip(contents, around[1:], strict=True))
            if text != joined:
                found[number] = self._find_stripped(messages, around, text, number)
        return found

    def _find_stripped(
        self, messages: Sequence[Message], around: tuple[str, ...], text: str, number: int
    ) -> tuple[bool, ...]:
        """Find out which contents a template stripped."""
        place, stripped = len(around[0]), []
        for message, after in zip(messages, around[1:], strict=True):
            forms = (message.content, message.content.strip())
            fits = [text.startswith(form + after, place) for form in forms]
            if not text.startswith(around[0]) or not any(fits):
                raise ContentChangedError(
                    number,
                    f"expected a chat template ({self.key}) that writes every content as it is, got one that changes "
                    f"the {message.role} message {message.content[:60]!r}",
                )
            stripped.append(not fits[0])
            place += len(forms[stripped[-1]]) + len(after)
        return tuple(stripped)

    def split(self, stretch: str, is_last: bool = False) -> Stretch:
        """Cut what stands behind a content where the turn has ended.

        Args:
            is_last: nothing follows, so there is no rest; and where the template writes no end, there is one.
        """
        if (stretch, is_last) not in self._split:
            pieces = self.pieces(stretch)
            first = next((i for i, piece in enumerate(pieces) if isinstance(piece, int)), None)
            if first is not None and pieces[first] == self.end_id:
                end, rest = pieces[: first + 1], pieces[first + 1 :]
            else:
                end, rest = (self.end_id,) if is_last else (), pieces
            rest = () if is_last else rest
            self._split[stretch, is_last] = Stretch(end, rest, (width(end), width(rest)))
        return self._split[stretch, is_last]

    def begin(self, stretch: str) -> tuple[Piece, ...]:
        """Cut what stands before the first content; a start token where there is nothing."""
        return self.pieces(stretch) or (start_token_id(self.tokenizer),)  # type: ignore[return-value]

    def unknown_markers(self) -> list[str]:
        """Return what looks like a special token in the template's text and is none of this tokenizer."""
        texts = [*self.around(("user", "assistant", "user", "assistant")), self.around(("user",), True)[-1]]
        pieces = [piece for text in texts for piece in self.pieces(text) if isinstance(piece, str)]
        return list(dict.fromkeys(found for piece in pieces for found in _MARKER.findall(piece)))

    def pieces(self, text: str) -> tuple[Piece, ...]:
        """Cut text of the template at its special tokens."""
        if text not in self._cut:
            backend = self.tokenizer.backend_tokenizer
            backend.encode_special_tokens = False
            encoding = backend.encode(text, add_special_tokens=False)
            added, found, place = self.tokenizer.added_tokens_decoder, [], 0
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
                if token_id in added:
                    found += [text[place:start]] * (start > place)
                    found.append(token_id)
                    place = stop
            self._cut[text] = (*found, *[text[place:]] * (place < len(text)))
        return self._cut[text]


def check_markers(template: ChatTemplate, is_given: bool) -> None:
    """Look for markers that the tokenizer does not know: it would read them as pieces of text.

    A model that brings such a template was trained with these pieces, so that is only said.

    Args:
        is_given: the template was given by hand.

    Raises:
        UserError: there are such in a template that was given.
    """
    if not (unknown := template.unknown_markers()):
        return
    names, key = ", ".join(map(repr, unknown[:4])), template.key
    if is_given:
        raise UserError(
            f"{key}: expected a template whose markers are tokens of this tokenizer, got {names}, which it would read "
            "as pieces of text; write other markers ('### User:'), or name a model that has them"
        )
    print(f"{key}: the tokenizer has no tokens {names} that its own template names; they are read as pieces of text")


def width(pieces: Sequence[Piece]) -> int:
    """Count the UTF-8 bytes of pieces; a special token counts as 1."""
    return sum(len(piece.encode()) if isinstance(piece, str) else 1 for piece in pieces)


class ContentChangedError(Exception):
    """A template writes another content than a message has."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number
        """Of the conversation."""


def read_template(given: str, key: str) -> str:
    """Return a chat template that was given as text, as the name of a file, or as `short`, see `SHORT`.

    Args:
        key: the setting, for messages.

    Raises:
        UserError: neither.
    """
    if "{{" in given or "{%" in given:
        return given
    if given == "short":
        return SHORT
    file = expand_home(given)
    if not file.is_file():
        raise UserError(
            f"{key}: expected a chat template (Jinja) or a file with one, got {given!r}, which does not exist (in "
            f"{Path.cwd()}); correct the path"
        )
    return file.read_text(encoding="utf-8")


@lru_cache(maxsize=4)
def template_of(tokenizer: PreTrainedTokenizerFast) -> ChatTemplate:
    """Return the template of a tokenizer; the same object for the same tokenizer."""
    return ChatTemplate(tokenizer)


@lru_cache(maxsize=4)
def _reader(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return after_special(tokenizer)


@lru_cache(maxsize=4)
def _table(tokenizer: PreTrainedTokenizerFast) -> list[bytes | None]:
    return token_bytes(tokenizer)


def render_prompt(messages: Sequence[Message], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids that a model reads before it answers: the messages, and what opens the answer.

    Special tokens of the template are such; what a content names is text (or as `data.special_tokens` says).

    Raises:
        UserError: no template, or one that changes or drops a content.
    """
    template = template_of(tokenizer)
    try:
        (stripped,) = template.check([messages])
    except ContentChangedError as error:
        raise UserError(str(error)) from None
    around = template.around(tuple(message.role for message in messages), for_answer=True)
    pieces: list[Piece] = list(template.begin(around[0]))
    for place, (message, after) in enumerate(zip(messages, around[1:], strict=True)):
        pieces.append(message.content.strip() if stripped and stripped[place] else message.content)
        pieces += template.pieces(after)
    return encode_pieces(pieces, tokenizer)


def encode_pieces(pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokenize text between special tokens; neighbouring texts are one."""
    ids: list[int] = []
    text = ""
    for piece in (*pieces, None):
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            # what the first text of all follows is no special token
            reader = _reader(tokenizer) if ids else tokenizer
            ids += encode_with_ends(reader, _table(tokenizer), text)[0]
            text = ""
        if piece is not None:
            ids.append(piece)
    return ids


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the tokens that end an answer: the template's end of turn, and the end of a text."""
    ends = [end_token_id(tokenizer), tokenizer.eos_token_id]
    if tokenizer.chat_template:
        ends.insert(0, template_of(tokenizer).end_id)
    return list(dict.fromkeys(token_id for token_id in ends if token_id is not None))
