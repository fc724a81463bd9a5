"""A teacher of one's own for tests: gives what a model of transformers predicts, and hides the model."""

import torch

from kdkit.models.generation import Generated, generate_ids
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import Teacher


class LogitsOnly(TextTeacher):
    """The three methods; counts the sequences that it reads."""

    def __init__(self, teacher: Teacher, tokenizer):
        self.hidden_model, self._tokenizer, self.read = teacher.model, tokenizer, 0

    @property
    def tokenizer(self):
        return self._tokenizer

    @torch.no_grad()
    def get_logits(self, input_ids):
        self.read += len(input_ids)
        return self.hidden_model(input_ids=input_ids, use_cache=False).logits

    def generate(self, prompts, sampling, stop_ids) -> list[Generated]:
        size = len(self._tokenizer)
        return [row[0] for row in generate_ids(self.hidden_model, prompts, sampling, stop_ids, vocab_size=size)]
