"""Losses on tensors: divergences, cross-tokenizer, hidden-state, sentence and token losses, in nats.

The public names below stay as they are: the student comes first, values are per row, gradients come by autograd.
"""

from kdkit.losses.chunked.distillation import chunked_distillation_loss
from kdkit.losses.cross_tokenizer import alm, gold, uld, xtoken_h_kl, xtoken_p_kl
from kdkit.losses.divergences import (
    adaptive_kl,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    total_variation,
)
from kdkit.losses.sentences import cosine_distance, info_nce, rkd_angle, rkd_distance, similarity_kl

__all__ = [
    "adaptive_kl",
    "alm",
    "chunked_distillation_loss",
    "cosine_distance",
    "forward_kl",
    "gold",
    "info_nce",
    "jsd",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "similarity_kl",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "total_variation",
    "uld",
    "xtoken_h_kl",
    "xtoken_p_kl",
]
