"""Your own training loop, and a loss for which the logits of the batch never exist all at once."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdkit.losses import chunked_distillation_loss

torch.manual_seed(0)
shared = {"vocab_size": 500, "num_attention_heads": 4, "num_hidden_layers": 2}
teacher = LlamaForCausalLM(LlamaConfig(hidden_size=64, intermediate_size=128, initializer_range=0.3, **shared)).eval()
student = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, **shared))
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
input_ids = torch.randint(500, (4, 32))

for step in range(20):
    with torch.no_grad():
        taught = teacher.model(input_ids).last_hidden_state
    learned = student.model(input_ids).last_hidden_state
    loss = chunked_distillation_loss(
        learned, student.lm_head, taught, teacher.lm_head, labels=input_ids, kd_ratio=0.9, temperature=2.0
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 5 == 0 or step == 19:
        print(f"step {step:2}  loss {loss.item():.3f}")
