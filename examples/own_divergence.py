"""A divergence of your own: values, and their derivative by the student's log-probabilities."""

import torch

from kdkit.losses import chunked_distillation_loss
from kdkit.losses.divergences import divergence


def squared_hellinger(student_logprobs, teacher_logprobs):
    """1 - sum sqrt(p q); its derivative by log q is -sqrt(p q) / 2."""
    affinity = (0.5 * (student_logprobs + teacher_logprobs)).exp()
    return 1.0 - affinity.sum(dim=-1), -0.5 * affinity


torch.manual_seed(0)
student_logits, teacher_logits = torch.randn(8, 50, requires_grad=True), torch.randn(8, 50)
values = divergence(student_logits, teacher_logits, squared_hellinger)
print(f"on logits:        {values.mean().item():.4f}")

student_head, teacher_head = torch.nn.Linear(16, 50, bias=False), torch.nn.Linear(32, 50, bias=False)
student_hidden, teacher_hidden = torch.randn(2, 9, 16, requires_grad=True), torch.randn(2, 9, 32)
labels = torch.randint(50, (2, 9))
loss = chunked_distillation_loss(
    student_hidden, student_head, teacher_hidden, teacher_head, labels, kd_ratio=1.0, divergence=squared_hellinger
)
loss.backward()
print(f"on hidden states: {loss.item():.4f}, gradient norm {student_hidden.grad.norm():.4f}")
