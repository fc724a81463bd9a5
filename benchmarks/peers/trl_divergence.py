"""TRL's chunked forward KL, forward and backward, on the divergence problem; prints one line of JSON.

    python -m benchmarks.peers.trl_divergence      (needs trl==1.16.0)

It is the loss of TRL's `DistillationTrainer`: tiles of 4,096 tokens x 32,768 vocabulary entries, projected again in
the backward pass. On a GPU it folds the tiles with Triton kernels; on a CPU, as here, with whole-tile torch operations.
"""

import torch
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from benchmarks.measure import Problem, measure_divergence, print_row


def trl_divergence(problem: Problem, beta: float = 0.0) -> torch.Tensor:
    """Compute TRL's mean KL(teacher || student) at temperature 1; with a beta of 0.5 its Jensen-Shannon divergence."""
    loss, _, _ = _chunked_divergence_loss(
        problem.student_hidden.unsqueeze(0),
        problem.teacher_hidden.unsqueeze(0),
        problem.student_head,
        problem.teacher_head,
        torch.ones(1, len(problem.student_hidden), dtype=torch.int64),
        beta=beta,
        temperature=1.0,
    )
    return loss


if __name__ == "__main__":
    print_row(measure_divergence("trl_chunked", trl_divergence))
