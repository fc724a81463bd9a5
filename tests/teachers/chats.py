"""Conversations for tests: prepared data with a chat template, and a teacher that writes what it is told to."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kdkit.alignment.templates import Message
from kdkit.alignment.tokenizers import end_token_id
from kdkit.data.conversations import Conversation
from kdkit.data.prepare import PreparedData
from kdkit.data.text.documents import Documents, write_documents
from kdkit.models.generation import Generated, Sampling
from kdkit.teachers.interface import TextTeacher

PLAIN = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""A template without special tokens."""


def converse(pairs: Sequence[tuple[str, str]]) -> list[Conversation]:
    """Make conversations of a question and an answer each."""
    return [Conversation((Message("user", question), Message("assistant", answer))) for question, answer in pairs]


def as_chat(data: PreparedData, conversations: list[Conversation], folder: Path) -> PreparedData:
    """Return data whose training split are conversations; the held-out one is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    write_documents(folder, [each.to_json() for each in conversations])
    documents = Documents(folder)
    data.teacher_tokenizer.chat_template = PLAIN
    return replace(data, conversations={"train": documents, "evaluation": documents.select([])})


class ScriptedTeacher(TextTeacher):
    """Writes what a function says, by the text of the prompt and how often it was asked there."""

    def __init__(self, data: PreparedData, script: Callable[[str, int], str | None]):
        """Keep the script; a text that ends in `...` runs out of room."""
        self._tokenizer, self.script, self.path = data.teacher_tokenizer, script, "scripted"
        self.calls: list[int] = []

    @property
    def tokenizer(self):
        return self._tokenizer

    def get_logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Find the next token the likelier the smaller its id."""
        row = -0.01 * torch.arange(len(self.tokenizer), dtype=torch.float32)
        return row.expand(*input_ids.shape, -1)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop_ids: Sequence[int]
    ) -> list[Generated]:
        self.calls.append(len(prompts))
        asked: dict[str, int] = {}
        written = []
        for ids in prompts:
            text = self.tokenizer.decode(ids)
            answer = self.script(text, asked.get(text, 0))
            asked[text] = asked.get(text, 0) + 1
            new = self.tokenizer(answer.removesuffix("..."), add_special_tokens=False).input_ids if answer else []
            written.append(Generated(new, None if answer.endswith("...") else end_token_id(self.tokenizer)))
        return written
