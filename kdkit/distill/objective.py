"""Which divergence a pair of models is trained on, and why; ready to be called at the aligned positions."""

from collections.abc import Callable
from functools import partial

import torch

from kdkit.config import Config
from kdkit.data.grouping import group_tokens
from kdkit.data.prepare import PreparedData
from kdkit.distill.divergences import forward_kl, overlap_kl, projected_kl

Divergence = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From student and teacher logits at the same a positions (a v each) to values per position, a."""


def choose_loss(config: Config, data: PreparedData) -> tuple[str, str]:
    """Return the name of the loss and the reason for it.

    `auto` means forward KL for one tokenizer and projected KL for two.
    """
    if config.distill.loss != "auto":
        return config.distill.loss, "asked for by distill.loss"
    if data.same_tokenizer:
        return "forward_kl", "teacher and student share a tokenizer"
    finer = "student" if student_is_finer(data) else "teacher"
    return "projected_kl", f"the tokenizers differ; the {finer}'s is the finer one and gives the events compared"


def student_is_finer(data: PreparedData) -> bool:
    """Say whether the student cuts the training text into at least as many tokens as the teacher."""
    return data.manifest["train"]["student_tokens"] >= data.manifest["train"]["teacher_tokens"]


def make_divergence(config: Config, data: PreparedData, device: torch.device) -> Divergence:
    """Prepare the chosen divergence, with its tables on the student's device."""
    loss, _ = choose_loss(config, data)
    temperature = config.distill.temperature
    if loss == "forward_kl":
        return partial(forward_kl, temperature=temperature)
    if loss == "overlap_kl":
        return partial(
            overlap_kl,
            student_ids=torch.from_numpy(data.overlap.student_ids).to(device),
            teacher_ids=torch.from_numpy(data.overlap.teacher_ids).to(device),
            temperature=temperature,
        )
    finer = student_is_finer(data)
    pair = data.student_tokenizer, data.teacher_tokenizer
    groups = torch.from_numpy(group_tokens(*(pair if finer else pair[::-1]))).to(device)
    return partial(
        projected_kl,
        student_groups=None if finer else groups,
        teacher_groups=groups if finer else None,
        temperature=temperature,
    )
