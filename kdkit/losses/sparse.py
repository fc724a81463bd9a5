"""Sparse divergences, from the K tokens (or events) per row that a cache has kept: values and gradients by the logits.

In formulas S is the kept set and M its probability for the teacher. Only the student's normaliser needs the whole
row; the gradient is written into the student's own row.
"""

import math

import torch

from kdkit.losses.closed_forms import LOWEST, Measure


def renormalise(logprobs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Renormalise kept log-probabilities, `[rows, K]`, to sum 1; the rest, `[rows, 1]`, gets probability 0."""
    return logprobs - logprobs.logsumexp(dim=-1, keepdim=True), logprobs.new_full((len(logprobs), 1), LOWEST)


def at_temperature(
    logprobs: torch.Tensor, rest: torch.Tensor, ratio: float, num_events: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change the temperature of kept log-probabilities and of the rest.

    p_v ** ratio / Z. The kept ones keep their exact proportions; the rest is taken to be spread evenly over
    the events that are not kept, which is what makes Z, and the rest's share, approximate.

    Args:
        logprobs: fp32, `[rows, K]`, at the cache's temperature.
        rest: fp32, `[rows, 1]`: log of the probability of the others.
        ratio: the cache's temperature / the wanted one; 1 changes nothing.
        num_events: kept and not kept.
    """
    if ratio == 1.0:
        return logprobs, rest
    others = max(num_events - logprobs.shape[-1], 1)
    scaled, spread = logprobs * ratio, ratio * rest + (1.0 - ratio) * math.log(others)
    total = torch.logaddexp(scaled.logsumexp(dim=-1, keepdim=True), spread)
    return scaled - total, spread - total


def sparse_forward_kl_(logits: torch.Tensor, ids: torch.Tensor, teacher_logprobs: torch.Tensor) -> torch.Tensor:
    """Compute sum_S p (log p - log q), and its gradient M q - p in place of the logits.

    With M < 1 this is forward KL less its unknown terms (`keep_mass`); with p divided by M it is that of
    the renormalised teacher; with sampled ids and their shares its gradient is unbiased.

    Args:
        logits: fp32, `[rows, V]`, at the temperature wanted; overwritten by the gradient.
        ids: int64, `[rows, K]`.
        teacher_logprobs: fp32, `[rows, K]`; -inf for places that are not used.

    Returns:
        Values, `[rows]`.

    Source: Anshumann et al. 2025 (RS-KD), arXiv:2503.16870; gradient as in arXiv:2608.03796.
    """
    p = teacher_logprobs.exp()
    mass = p.sum(dim=-1, keepdim=True)
    kept = logits.gather(-1, ids)
    largest = logits.amax(dim=-1, keepdim=True)
    sums = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True)
    normaliser = sums.log() + largest
    values = (p * (teacher_logprobs.clamp(min=LOWEST) - kept + normaliser)).sum(dim=-1)
    logits.mul_(mass / sums).scatter_add_(-1, ids, -p)
    return values


def sparse_with_rest_(
    logits: torch.Tensor, ids: torch.Tensor, teacher_logprobs: torch.Tensor, rest: torch.Tensor, measure: Measure
) -> torch.Tensor:
    """Compute any divergence over the kept events and one for all others, and its gradient, in place.

    Args:
        logits: fp32, `[rows, V]`, at the temperature wanted; overwritten by the gradient.
        ids: int64, `[rows, K]`, distinct in a row.
        teacher_logprobs: fp32, `[rows, K]`.
        rest: fp32, `[rows, 1]`: log of the teacher's probability of all other events.
        measure: see `kdkit.losses.closed_forms`.

    Returns:
        Values, `[rows]`.
    """
    tiny = torch.finfo(logits.dtype).tiny
    kept = logits.gather(-1, ids)
    largest = logits.amax(dim=-1, keepdim=True)
    # the rest is summed, not taken from 1: in fp32 the difference of nearly equal numbers is noise
    others = logits.sub_(largest).exp_().scatter_(-1, ids, 0.0).sum(dim=-1, keepdim=True)
    normaliser = torch.logaddexp((kept - largest).logsumexp(dim=-1, keepdim=True), others.clamp(min=tiny).log())
    kept = kept.sub_(largest).sub_(normaliser)
    student = torch.cat([kept, others.clamp(min=tiny).log() - normaliser], dim=-1)
    values, derivative = measure(student, torch.cat([teacher_logprobs, rest], dim=-1))
    total = derivative.sum(dim=-1, keepdim=True)
    share = derivative[..., -1:] / others.clamp(min=tiny) - total / normaliser.exp()
    logits.mul_(share).scatter_(-1, ids, derivative[..., :-1] - kept.exp() * total)
    return values
