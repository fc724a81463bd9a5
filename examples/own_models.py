"""Two models that are already in memory: one call. Swap in `from_pretrained` for the two lines that make them."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdkit import distill_models
from kdkit.alignment.tokenizers import train_tokenizer

texts = [f"The {name} carries letter {number} under the old bridge." for number, name in enumerate(["river"] * 64)]
student_tokenizer, teacher_tokenizer = train_tokenizer(texts, 280), train_tokenizer(texts * 2, 320)

torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
teacher = LlamaForCausalLM(LlamaConfig(vocab_size=len(teacher_tokenizer), **shape))
student = LlamaForCausalLM(LlamaConfig(vocab_size=len(student_tokenizer), **shape))

student = distill_models(
    teacher, student, teacher_tokenizer, student_tokenizer, texts, loss="auto", max_steps=10, learning_rate=1e-2
)
prompt = student_tokenizer("The river", return_tensors="pt").input_ids.to(student.device)
print(student_tokenizer.decode(student.generate(prompt, max_new_tokens=12, do_sample=False)[0]))
