"""Two models with different tokenizers: align what they read, compare them span by span."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdkit.alignment import align_texts
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.losses import uld

texts = ["The river carries the letter under the old bridge.", "A quiet window remembers the yellow garden."]
student_tokenizer, teacher_tokenizer = train_tokenizer(texts, 280), train_tokenizer(texts * 2, 320)

torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
student = LlamaForCausalLM(LlamaConfig(vocab_size=len(student_tokenizer), **shape))
teacher = LlamaForCausalLM(LlamaConfig(vocab_size=len(teacher_tokenizer), **shape))

batch = align_texts(texts, student_tokenizer, teacher_tokenizer)
spans = batch.spans
print(
    f"{len(spans.student_rows)} student tokens, {len(spans.teacher_rows)} teacher tokens, {len(spans.same_token)} spans"
)

student_logits = student(batch.student_input_ids).logits.flatten(0, 1)[spans.student_rows]
with torch.no_grad():
    teacher_logits = teacher(batch.teacher_input_ids).logits.flatten(0, 1)[spans.teacher_rows]
loss = uld(student_logits, teacher_logits, spans.span_of_student_rows(), spans.span_of_teacher_rows()).mean()
loss.backward()
print(f"ULD {loss.item():.3f} per span")
