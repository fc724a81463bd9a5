"""The divergence that a configuration names, and whether a cache can serve it.

Apart from `closed_forms`, so that the losses alone need no pydantic.
"""

from functools import partial

from kdkit.config.losses import DivergenceSettings, divergences_with_tail
from kdkit.config.teacher import CacheConfig
from kdkit.errors import UserError
from kdkit.losses.closed_forms import MEASURES, Measure


def make_measure(settings: DivergenceSettings) -> Measure:
    """Return the divergence that the settings name, with its options."""
    options = settings.model_dump(exclude={"name"})
    measure = MEASURES[settings.name]
    return partial(measure, **options) if options else measure


def check_sparse(settings: DivergenceSettings, cache: CacheConfig) -> None:
    """Refuse a divergence that needs the teacher's whole row.

    Raises:
        UserError: the kept tokens do not determine it.
    """
    if cache.mode == "sampled" and settings.name != "forward_kl":
        raise UserError(
            f"distill.loss: expected forward_kl for sampled answers, got {settings.name!r}, which needs the teacher's "
            "whole row; set distill.loss=forward_kl or cache.mode=top_k"
        )
    if cache.mode == "top_k" and cache.tail not in settings.tails:
        raise UserError(
            f"distill.loss: expected one of {', '.join(divergences_with_tail(cache.tail))} for "
            f"cache.tail={cache.tail}, got {settings.name!r}, which needs the teacher's whole row; set cache.tail=ghost"
        )
