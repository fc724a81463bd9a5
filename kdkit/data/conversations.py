"""Conversations out of the rows of a data set, whatever its columns are called."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kdkit.alignment.templates import Message
from kdkit.errors import UserError

__all__ = ["BadRowError", "Conversation", "Layout", "Message", "find_layout", "read_conversation"]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
"""Names of roles in data sets, ShareGPT's among them, and what the chat templates call them."""

QUESTIONS = ("instruction", "prompt", "question", "problem")
ANSWERS = ("output", "response", "completion", "answer", "solution")
INPUTS = ("input", "context")
LISTS = ("messages", "conversations", "conversation")

Problem = Literal["empty answer", "no answer", "roles out of order", "unknown role", "no text", "wrong columns"]


class BadRowError(UserError):
    """A row that is no conversation to learn from."""

    def __init__(self, problem: Problem, message: str):
        super().__init__(message)
        self.problem = problem


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an answer: perhaps `system`, then `user` and `assistant` in turn."""

    messages: tuple[Message, ...]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """Content of the last message, which is the assistant's."""
        return self.messages[-1].content

    @property
    def text(self) -> str:
        """The contents alone, a blank line between them."""
        return "\n\n".join(message.content for message in self.messages)

    def to_json(self) -> str:
        """Write the messages as JSON: how a conversation is kept as a document."""
        return json.dumps([[message.role, message.content] for message in self.messages], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Conversation":
        """Read what `to_json` wrote."""
        return cls(tuple(Message(role, content) for role, content in json.loads(text)))


def texts_of(documents: Iterable[str], is_chat: bool) -> Iterator[str]:
    """Yield documents as plain texts; of conversations the contents alone."""
    return (Conversation.from_json(document).text if is_chat else document for document in documents)


@dataclass(frozen=True)
class Layout:
    """Which columns of a data set hold what."""

    messages: str | None = None
    """Column with a list of messages; None: the ones below."""
    question: str | None = None
    input: str | None = None
    """Column with what the question is about, put after it."""
    answer: str | None = None
    system: str | None = None
    template: str | None = None
    """Text of the user's message with `{column}` in the places of columns; in place of `question` and `input`."""


def find_layout(columns: Iterable[str], template: str | None = None, answer_column: str | None = None) -> Layout | None:
    """Recognise a data set of conversations by its columns; None for another one.

    Args:
        template: `data.prompt_template`: how the user's message is made of columns.
        answer_column: `data.answer_column`: where the answer stands.
    """
    names = set(columns)

    def first(known: tuple[str, ...]) -> str | None:
        return next((name for name in known if name in names), None)

    if template is None and answer_column is None and (found := first(LISTS)):
        return Layout(messages=found)
    question = first(QUESTIONS)
    answer = answer_column or first(tuple(name for name in ANSWERS if name != question))
    if answer is None or answer not in names or (question is None and template is None):
        return None
    asked = None if template is not None else question
    return Layout(
        question=asked,
        input=first(INPUTS) if asked == "instruction" else None,
        answer=answer,
        system="system" if "system" in names else None,
        template=template,
    )


def read_conversation(row: Mapping[str, Any], layout: Layout, where: str) -> Conversation:
    """Make a conversation of a row; what stands after the last answer is left out.

    Args:
        where: names the row in messages.

    Raises:
        BadRowError: no answer, an empty one, roles that do not take turns, no text where some is expected.
    """
    if layout.messages is not None:
        messages = _read_list(_value(row, layout.messages, where), where)
    else:
        messages = _read_columns(row, layout, where)
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=-1)
    if last < 0:
        raise BadRowError("no answer", f"{where}: expected a message of the assistant, got none; {_REMEDY}")
    messages = messages[: last + 1]
    _check_order(messages, where)
    return Conversation(tuple(messages))


_REMEDY = "correct the row, or leave such rows out with data.bad_rows=skip"


def _check_order(messages: list[Message], where: str) -> None:
    """Refuse roles that do not take turns, and empty answers."""
    is_system = messages[0].role == "system"
    for place, message in enumerate(messages[is_system:]):
        wanted = "assistant" if place % 2 else "user"
        if message.role != wanted:
            order = ", ".join(each.role for each in messages[:6]) + ", ..." * (len(messages) > 6)
            raise BadRowError(
                "roles out of order",
                f"{where}: expected perhaps a system message, then user and assistant in turn, got {order}; {_REMEDY}",
            )
        if place % 2 and not message.content.strip():
            number = is_system + place + 1
            raise BadRowError("empty answer", f"{where}: expected an answer, got an empty message {number}; {_REMEDY}")


def _read_list(value: Any, where: str) -> list[Message]:
    """Read a list of messages: `role` and `content`, or ShareGPT's `from` and `value`."""
    if isinstance(value, str):  # a column of a .csv file
        try:
            value = json.loads(value)
        except ValueError:
            value = [value]
    messages = []
    for number, each in enumerate(value if isinstance(value, list | tuple) else [value], start=1):
        if not isinstance(each, Mapping):
            raise BadRowError(
                "wrong columns", f"{where}: expected messages with role and content, got {each!r}; {_REMEDY}"
            )
        role, content = (each.get(a, each.get(b)) for a, b in (("role", "from"), ("content", "value")))
        known = ROLES.get(role) if isinstance(role, str) else None
        if known is None:
            names = ", ".join(ROLES)
            raise BadRowError("unknown role", f"{where}: expected a role of {names}, got {role!r}; {_REMEDY}")
        messages.append(Message(known, _text(content, f"message {number} of {where}")))
    return messages


def _read_columns(row: Mapping[str, Any], layout: Layout, where: str) -> list[Message]:
    """Read the columns of a question and its answer; either may be a list of messages."""
    messages = []
    if layout.system is not None and (system := _text(row[layout.system] or "", where)).strip():
        messages.append(Message("system", system))
    if layout.template is not None:
        messages.append(Message("user", fill_template(layout.template, row, where)))
    else:
        asked = _value(row, layout.question, where)
        if isinstance(asked, list | tuple):
            messages += _read_list(asked, where)
        else:
            parts = [_text(asked, where), _text(row.get(layout.input) or "", where) if layout.input else ""]
            messages.append(Message("user", "\n\n".join(part for part in parts if part)))
    answer = _value(row, layout.answer, where)
    if isinstance(answer, list | tuple):
        return messages + _read_list(answer, where)
    return [*messages, Message("assistant", _text("" if answer is None else answer, where))]


def fill_template(template: str, row: Mapping[str, Any], where: str) -> str:
    """Put the columns of a row in their places in a prompt template.

    Raises:
        UserError: it names a column that is not there.
    """
    try:
        return template.format_map({name: "" if value is None else value for name, value in row.items()})
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"data.prompt_template: expected names of columns in braces, got {template!r} for the columns "
            f"{', '.join(map(str, row))} ({type(error).__name__}: {error}); correct it, and write {{{{ for a brace"
        ) from None


def _value(row: Mapping[str, Any], column: str | None, where: str) -> Any:
    """Return a column of a row."""
    if column not in row:
        raise BadRowError(
            "wrong columns", f"{where}: expected a column {column!r}, got {', '.join(map(str, row))}; {_REMEDY}"
        )
    return row[column]


def _text(value: Any, where: str) -> str:
    """Accept text, and a list of parts that are text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        return "".join(str(part.get("text", "")) for part in value)
    raise BadRowError("no text", f"{where}: expected text, got {str(value)[:60]!r}; {_REMEDY}")
