"""Divergences on the student's head, kdkit's and the peers', on one problem; prints one line of JSON.

    python -m benchmarks.peers.divergences LIBRARY LOSS [--distillkit FOLDER]

2,048 tokens, vocabulary 32,768, student width 576, teacher width 1,024, fp32, forward and backward, from hidden states
and heads to the gradients of both of the student's. `products` is the floor: the four matrix products alone (logits of
student and teacher, gradients of hidden states and head), in kdkit's chunks. The losses: `kl` is KL(teacher ||
student), `jsd` the Jensen-Shannon divergence, `top64` KL where 64 tokens of the teacher are known and the rest is one
event, `top64_renormalised` where they are all there is. Peers that take logits are given logits.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.divergence_memory import dense_loss, sparse_loss, top_k
from benchmarks.measure import Problem, measure_divergence, print_row, problem
from benchmarks.peers.dense import dense_forward_kl, dense_jsd
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.losses.chunked.signals import SparseSignals

TOKENS, VOCABULARY = 2048, 32_768
LIBRARIES = ("products", "torch", "kdkit", "TRL", "Liger", "Liger, compiled", "DistillKit")
KEPT = {"top64": "ghost", "top64_renormalised": "renormalise"}
Divergence = Callable[[Problem], torch.Tensor]


class Products(torch.autograd.Function):
    """The matrix products that every one of these losses needs, and nothing else: loss 0, wrong gradients."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, given: Problem) -> torch.Tensor:
        """Multiply chunk by chunk, in the same memory."""
        rows = rows_per_chunk(len(head), hidden.device)
        logits, gradient, total = torch.empty(2, rows, len(head)), torch.empty_like(hidden), torch.zeros_like(head)
        for part in even_chunks(len(hidden), rows):
            count = len(hidden[part])
            torch.mm(hidden[part], head.T, out=logits[0, :count])
            if given.teacher_hidden is not None:
                torch.mm(given.teacher_hidden[part], given.teacher_head.T, out=logits[1, :count])
            torch.mm(logits[0, :count], head, out=gradient[part])
            total.addmm_(logits[0, :count].T, hidden[part])
        ctx.save_for_backward(gradient, total)
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Hand over what was made."""
        return *ctx.saved_tensors, None


def products(given: Problem) -> torch.Tensor:
    """Run the floor."""
    return Products.apply(given.student_hidden, given.student_head, given)


def trl(loss: str) -> Divergence:
    """Return TRL's chunked divergence."""
    from benchmarks.peers.trl_divergence import trl_divergence

    return lambda given: trl_divergence(given, {"kl": 0.0, "jsd": 0.5}[loss])


def liger(loss: str, compiled: bool) -> Divergence:
    """Return Liger's fused linear JSD; its `beta` of 0 is forward KL."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    weights = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0}
    run = LigerFusedLinearJSDLoss(beta={"kl": 0.0, "jsd": 0.5}[loss], compiled=compiled, **weights)

    def divergence(given: Problem) -> torch.Tensor:
        targets = torch.zeros(len(given.student_hidden), dtype=torch.int64)
        return run(given.student_hidden, given.student_head, given.teacher_hidden, given.teacher_head, targets)

    return divergence


def distillkit(loss: str, kept: SparseSignals | None = None) -> Divergence:
    """Return a loss of DistillKit, from logits; from the teacher's most likely tokens if they are given."""
    from distillkit.lossfuncs import MissingProbabilityHandling, sparse_kl_div
    from distillkit.lossfuncs.jsd import dense_js_div
    from distillkit.lossfuncs.kl import dense_kl_div

    def dense(given: Problem) -> torch.Tensor:
        logits = (given.student_hidden @ given.student_head.T)[None]
        with torch.no_grad():
            targets = (given.teacher_hidden @ given.teacher_head.T)[None]
        return {"kl": dense_kl_div, "jsd": dense_js_div}[loss](logits, targets) / len(given.student_hidden)

    def sparse(given: Problem) -> torch.Tensor:
        count, handling = len(given.student_hidden), MissingProbabilityHandling
        missing = handling.SYMMETRIC_UNIFORM if loss == "top64" else handling.ZERO
        logits = (given.student_hidden @ given.student_head.T)[None]
        ids, values = kept.ids[None, :count].long(), kept.logprobs[None, :count]
        # as its README's example: 1,024 tokens at a time
        return sparse_kl_div(logits, ids, values, missing=missing, chunk_length=1024) / count

    return dense if kept is None else sparse


def choose(library: str, loss: str, kept: SparseSignals | None) -> Divergence:
    """Return a library's loss."""
    if library == "products":
        return products
    if library == "kdkit":
        if kept is None:
            return dense_loss({"kl": "forward_kl", "jsd": "jsd"}[loss])
        return lambda given: sparse_loss(KEPT[loss])(given, kept.at(torch.arange(len(given.student_hidden))))
    if library == "torch":
        return {"kl": dense_forward_kl, "jsd": dense_jsd}[loss]
    if library in ("Liger", "Liger, compiled"):
        return liger(loss, compiled=library != "Liger")
    return trl(loss) if library == "TRL" else distillkit(loss, kept)


def main() -> None:
    """Measure one loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("loss", choices=("kl", "jsd", *KEPT))
    parser.add_argument("--distillkit", type=Path)
    arguments = parser.parse_args()
    if arguments.distillkit:
        sys.path.append(str(arguments.distillkit))
    whole, kept = problem(tokens=TOKENS, vocabulary=VOCABULARY), None
    if arguments.loss in KEPT:
        kept = top_k(whole)
        whole = whole._replace(teacher_hidden=None, teacher_head=None)
    print_row(measure_divergence(arguments.library, choose(arguments.library, arguments.loss, kept), whole))


if __name__ == "__main__":
    main()
