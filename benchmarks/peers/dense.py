"""Forward KL over full logits with torch and autograd, on the divergence problem; prints one line of JSON.

    python -m benchmarks.peers.dense

No peer's code, but what every loss written on logits costs.
"""

import math

import torch
from torch.nn.functional import kl_div

from benchmarks.measure import Problem, measure_divergence, print_row


def dense_forward_kl(problem: Problem) -> torch.Tensor:
    """Compute the mean KL(teacher || student) at temperature 1 with both models' logits in memory."""
    student_logprobs = (problem.student_hidden @ problem.student_head.T).log_softmax(-1)
    with torch.no_grad():
        teacher_logprobs = (problem.teacher_hidden @ problem.teacher_head.T).log_softmax(-1)
    return kl_div(student_logprobs, teacher_logprobs, reduction="batchmean", log_target=True)


def dense_jsd(problem: Problem) -> torch.Tensor:
    """Compute the mean Jensen-Shannon divergence at temperature 1, likewise."""
    student_logprobs = (problem.student_hidden @ problem.student_head.T).log_softmax(-1)
    with torch.no_grad():
        teacher_logprobs = (problem.teacher_hidden @ problem.teacher_head.T).log_softmax(-1)
    middle = torch.logaddexp(student_logprobs, teacher_logprobs) - math.log(2)
    both = student_logprobs, teacher_logprobs
    return sum(kl_div(middle, side, reduction="batchmean", log_target=True) for side in both) / 2


if __name__ == "__main__":
    print_row(measure_divergence("dense", dense_forward_kl))
