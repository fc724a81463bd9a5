#!/usr/bin/env bash
# Liger: a teacher with a padded vocabulary makes the student's loss depend on where its logits lie, which softmax ignores.
#
# Versions: liger-kernel 0.8.5, torch 2.13.0 (seen in November 2026); on a CPU, uncompiled; no kernel is involved.
# Behaviour: where the teacher's head has more rows (Qwen2.5: 151,936 and 152,064 for one tokenizer), its fused linear
#   distillation losses append zeros to the student's LOGITS, not to its probabilities. A zero is as likely as any token
#   whose logit is 0: nothing where the real ones lie at +10, most of the mass where they lie at -10.
#   So two students with one and the same distribution, which is the teacher's own, have losses of 0 and of 1.1 nats.
# Expected: padding that no text has costs nothing; a constant on all logits changes no loss of distributions.
# Seen: all logits moved by +10: 0.000, by 0: 0.000, by -10: 1.148 nats, and its gradient asks to move them up
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet liger-kernel==0.8.5 torch==2.13.0 triton
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

VOCABULARY, PADDING, WIDTH, TOKENS = 1000, 128, 16, 8
FORWARD_KL = LigerFusedLinearJSDLoss(beta=0.0, weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=False)
torch.manual_seed(0)
hidden = torch.cat([torch.randn(TOKENS, WIDTH), torch.ones(TOKENS, 1)], dim=1)  # the last column carries a constant
words = torch.randn(VOCABULARY, WIDTH)


def distil(shift: float) -> tuple[float, float]:
    """Loss of a student that is the teacher on all real tokens, and its derivative by the constant."""
    student = torch.cat([words, torch.full((VOCABULARY, 1), shift)], dim=1).requires_grad_()
    unused = torch.zeros(PADDING, WIDTH + 1)
    unused[:, -1] = shift - 40  # the teacher never says them
    teacher = torch.cat([student.detach(), unused])
    loss = FORWARD_KL(hidden, student, hidden, teacher, torch.zeros(TOKENS, dtype=torch.int64))
    loss.backward()
    return loss.item(), student.grad[:, -1].sum().item()


seen = {shift: distil(shift) for shift in (10.0, 0.0, -10.0)}
for shift, (loss, slope) in seen.items():
    print(f"moved by {shift:+.0f}: loss {loss:.3f}, derivative by the constant {slope:.3f}")
assert abs(seen[10.0][0]) < 1e-3 and seen[-10.0][0] > 1 and seen[-10.0][1] < -0.1, "the behaviour has changed"
PYTHON
