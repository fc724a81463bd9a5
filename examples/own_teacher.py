"""A teacher of one's own in three methods: a table of bigrams, counted from text, teaches a small Llama."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdkit import distill_models
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.models.generation import Generated
from kdkit.teachers.interface import TextTeacher

texts = [f"{name} sees the {thing} and the {thing} sees {name}." for name in "ABCDEFGH" for thing in ("cat", "dog")]


class Bigrams(TextTeacher):
    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        counts = torch.full((len(tokenizer), len(tokenizer)), 0.01)
        for ids in tokenizer(texts).input_ids:
            counts[ids[:-1], ids[1:]] += 1.0
        self.table = (counts / counts.sum(dim=1, keepdim=True)).log()

    @property
    def tokenizer(self):
        return self._tokenizer

    def get_logits(self, input_ids):
        return self.table[input_ids]

    def generate(self, prompts, sampling, stop_ids):
        return [Generated([int(self.table[prompt[-1]].argmax())], None) for prompt in prompts]


tokenizer = train_tokenizer(texts, 280)
sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64}
student = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
student = distill_models(Bigrams(tokenizer), student, tokenizer, tokenizer, texts, max_steps=60, learning_rate=1e-2)
ids = tokenizer("A sees the", return_tensors="pt").input_ids
print("the student goes on with", repr(tokenizer.decode(student(ids).logits[0, -1].argmax())))
