"""Conversations for tests: two small tokenizers with templates of their own, and windows of conversations."""

from functools import cache

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.templates import CHATML, CHATML_TOKENS, ChatTemplate, Message
from kdkit.alignment.tokenizers import set_turn_end, train_tokenizer
from kdkit.data.chat.packer import ChatPacker, LossOn
from kdkit.data.chat.sides import Fitted, Side
from kdkit.data.conversations import Conversation
from kdkit.data.pair import pair_vocabularies
from kdkit.data.windows import Windows

WORDS = "river mountain na\u00efve caf\u00e9 \u4e2d\u6587 \U0001f600 window letter garden the a answer question 42 user"
INST = (
    "{{ '<s>' }}{% if messages[0]['role'] == 'system' %}{{ '[SYS]' + messages[0]['content'] | trim + '[/SYS]\\n' }}"
    "{% endif %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + ' </s>' }}{% endif %}{% endfor %}"
)
"""In Mistral's manner: plain text around the contents, spaces stripped, a space before the end of a turn."""


@cache
def chat_tokenizers() -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Train a student's tokenizer with ChatML and a teacher's with `INST`."""
    texts = [f"{WORDS} {number} assistant" for number in range(40)]
    student, teacher = train_tokenizer(texts, 300, CHATML_TOKENS), train_tokenizer(texts[::-1], 340, ("<s>", "</s>"))
    student.chat_template, teacher.chat_template = CHATML, INST
    for tokenizer in (student, teacher):
        set_turn_end(tokenizer, ChatTemplate(tokenizer).end_id)
    return student, teacher


def make_packer(
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    loss_on: LossOn = "answers",
    max_length: int = 512,
    teacher_max_length: int = 1024,
    skips: bool = False,
) -> ChatPacker:
    """Make a packer of two tokenizers that have templates."""
    sides = [
        Side(tokenizer, ChatTemplate(tokenizer, f"{name}.chat_template"), length)
        for name, tokenizer, length in (("student", student, max_length), ("teacher", teacher, teacher_max_length))
    ]
    return ChatPacker(sides[0], sides[1:], [pair_vocabularies(student, teacher)], loss_on, skips)


def talk(*contents: str, system: str | None = None) -> Conversation:
    """Make a conversation of a user and an assistant in turn."""
    roles = ["user", "assistant"] * len(contents)
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    return Conversation(tuple([Message("system", system)] * (system is not None) + messages))


def pack(packer: ChatPacker, *conversations: Conversation) -> tuple[Windows, list[Fitted]]:
    """Pack a few conversations, which are one batch."""
    parts = [(windows[0], kept) for windows, kept in packer.pack([each.to_json() for each in conversations])]
    return parts[-1] if len(parts) == 1 else (parts[0] if not parts[1][1] else parts[1])
