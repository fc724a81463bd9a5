"""Losses on your own tensors: the student comes first, values are per row, gradients come by autograd."""

import torch

from kdkit.losses import cosine_distance, forward_kl, jsd

torch.manual_seed(0)
student_logits = torch.randn(2, 5, 100, requires_grad=True)  # [B, S, V]
teacher_logits = torch.randn(2, 5, 100)
mask = torch.ones(2, 5, dtype=torch.bool)
mask[:, -1] = False  # the last position predicts nothing

loss = forward_kl(student_logits, teacher_logits, temperature=2.0)[mask].mean()
loss.backward()
print(f"forward KL {loss.item():.3f} nats, gradient norm {student_logits.grad.norm():.4f}")
print(f"JSD        {jsd(student_logits, teacher_logits, teacher_weight=0.1)[mask].mean().item():.3f} nats")

sentences = torch.randn(4, 16)
print(
    f"cosine     {cosine_distance(sentences, sentences + 0.5 * torch.randn(4, 16)).item():.3f} between sentence vectors"
)
