"""Choose the loss of a run, and check that tokenizers, temperature and cache can serve it."""

import torch

from kdkit.alignment.prefixes import group_tokens
from kdkit.config.language import Config
from kdkit.config.losses import (
    ALM,
    Auto,
    Divergence,
    DivergenceSettings,
    ForwardKL,
    LossSettings,
    OverlapKL,
    ProjectedKL,
    XTokenPKL,
)
from kdkit.config.teacher import CacheConfig
from kdkit.data.comparable import check_readable, describe_changed
from kdkit.data.prepare import PreparedData
from kdkit.errors import UserError
from kdkit.losses.chunked.events import CommonTokenEvents, EventPair, PrefixEvents, TokenEvents
from kdkit.losses.chunked.overlap import OverlapMeter
from kdkit.losses.measures import check_sparse

FEW_SHARED_PREFIXES = 0.3
"""Share of the student's tokens below which `auto` compares whole spans instead."""


def choose_loss(config: Config, data: PreparedData) -> tuple[LossSettings, str]:
    """Return the loss and the reason for it; `auto` decides by the tokenizers and what they share.

    Raises:
        UserError: a loss that compares ids, and two tokenizers; see also `check_readable`.
    """
    settings = config.distill.loss
    if not isinstance(settings, Auto):
        check_tokenizers(settings, data)
        changed = describe_changed(data.manifest["train"]) if compares_events(settings) else ""
        return settings, "asked for by distill.loss" + (changed and f", though {changed}; alm does not mind")
    if config.cache.enabled and config.cache.mode == "true_token":
        return ALM(), "the cache holds the log-probabilities of the text's own tokens only"
    facts = data.manifest["train"]
    check_readable(facts)
    if data.same_tokenizer:
        notes = "".join(f"; {note}" for note in data.manifest.get("tokenizer_notes", []))
        return ForwardKL(), f"teacher and student share a tokenizer{notes}"
    if changed := describe_changed(facts):
        return (
            ALM(),
            f"{changed}, so tokens do not stand for the text, and only likelihoods of whole spans are compared",
        )
    share = f"{facts['same_prefix_share']:.0%} of the student's tokens start where a teacher token starts"
    if facts["same_prefix_share"] < FEW_SHARED_PREFIXES:
        return XTokenPKL(), f"the tokenizers differ, and only {share}, so whole spans are compared"
    finer = "student" if student_is_finer(data) else "teacher"
    return ProjectedKL(), f"the tokenizers differ, {share}, and the {finer}'s is the finer one, which gives the events"


def check_tokenizers(settings: LossSettings, data: PreparedData) -> None:
    """Refuse a loss that compares ids of different tokenizers.

    Raises:
        UserError: it does.
    """
    if isinstance(settings, Divergence) and not data.same_tokenizer:
        sizes = data.overlap.student_size, data.overlap.teacher_size
        raise UserError(
            f"distill.loss: expected one tokenizer for {settings.name!r}, got a student with {sizes[0]} entries and a "
            f"teacher with {sizes[1]}, whose ids mean different tokens; set distill.loss=projected_kl (it takes a "
            f"divergence: {{name: projected_kl, divergence: {settings.name}}}), overlap_kl, alm, ..."
        )


def divergence_of(settings: LossSettings) -> DivergenceSettings:
    """Return the divergence that a loss over events uses."""
    return settings.divergence if isinstance(settings, OverlapKL | ProjectedKL) else settings


def student_is_finer(data: PreparedData) -> bool:
    """Return whether the student cuts the training text into at least as many tokens as the teacher."""
    return data.manifest["train"]["student_tokens"] >= data.manifest["train"]["teacher_tokens"]


def name_events(settings: LossSettings, data: PreparedData) -> str:
    """Name the outcomes that a loss compares, as a cache's header does; empty for a loss over spans."""
    if not compares_events(settings):
        return ""
    if isinstance(settings, OverlapKL):
        return "common tokens"
    if isinstance(settings, ProjectedKL) and not data.same_tokenizer:
        return "student tokens" if student_is_finer(data) else "teacher tokens"
    return "tokens"


def make_events(settings: LossSettings, data: PreparedData, device: torch.device) -> EventPair:
    """Prepare the outcomes that a divergence compares, with their tables on the student's device."""
    student_size, teacher_size = data.overlap.student_size, data.overlap.teacher_size
    name = name_events(settings, data)
    if isinstance(settings, OverlapKL):
        student_ids, teacher_ids = (
            torch.from_numpy(ids).to(device) for ids in (data.overlap.student_ids, data.overlap.teacher_ids)
        )
        return EventPair(CommonTokenEvents(student_ids), CommonTokenEvents(teacher_ids), len(student_ids), name)
    if isinstance(settings, ProjectedKL) and not data.same_tokenizer:
        pair = data.student_tokenizer, data.teacher_tokenizer
        if student_is_finer(data):
            groups = torch.from_numpy(group_tokens(*pair)).to(device)
            return EventPair(TokenEvents(), PrefixEvents(groups, student_size), student_size, name)
        groups = torch.from_numpy(group_tokens(*pair[::-1])).to(device)
        return EventPair(PrefixEvents(groups, teacher_size), TokenEvents(), teacher_size, name)
    return EventPair(TokenEvents(), TokenEvents(), student_size, name)


def make_overlap(
    settings: LossSettings, data: PreparedData, device: torch.device, top_k: int, cache: CacheConfig | None
) -> OverlapMeter | None:
    """Prepare the diagnostics beside a loss, over its own events, or over those of `projected_kl` where it has none.

    Args:
        top_k: `distill.overlap_top_k`.
        cache: how the signals were kept; None for an online teacher.

    Returns:
        None where that is 0, or where a cache does not hold the teacher's most likely tokens.
    """
    if not top_k or (cache is not None and cache.mode != "top_k"):
        return None
    return OverlapMeter(make_events(settings if compares_events(settings) else ProjectedKL(), data, device), top_k)


def compares_events(settings: LossSettings) -> bool:
    """Return whether a loss is a divergence over events, which a cache of events can serve."""
    return isinstance(settings, Divergence | OverlapKL | ProjectedKL)


def check_temperature_is_taken(settings: LossSettings, temperature: float) -> None:
    """Refuse a softmax temperature for a loss that has no softmax.

    Raises:
        UserError: naming the temperature that the loss does take.
    """
    if isinstance(settings, ALM) and temperature != 1.0:
        raise UserError(
            f"distill.temperature: expected 1 for 'alm', which compares likelihoods of text, got {temperature}; "
            "set distill.loss={name: alm, likelihood_temperature: ...}"
        )


def check_cached_loss(settings: LossSettings, cache: CacheConfig) -> None:
    """Refuse a loss that needs more than a cache of this mode holds.

    Raises:
        UserError: naming what would work.
    """
    if isinstance(settings, ALM):
        if cache.mode != "true_token":
            raise UserError(f"cache.mode: expected true_token for 'alm', got {cache.mode!r}; set cache.mode=true_token")
        return
    if cache.mode == "true_token" or not compares_events(settings):
        needs = "distributions, not true tokens" if compares_events(settings) else "the teacher's whole row"
        raise UserError(
            f"distill.loss: expected a loss that a cache of mode {cache.mode!r} can serve, got {settings.name!r}, "
            f"which needs {needs}; set cache.enabled=false, or distill.loss=auto"
        )
    check_sparse(divergence_of(settings), cache)
