"""All measures of a run's models that are made of their predictions, token by token, and of what they write."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from kdkit.config.language import Config
from kdkit.config.tasks import EvaluateConfig
from kdkit.data.batches import Side
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.evaluate.language import Resampled, Units
from kdkit.evaluate.measures.calibration import measure_calibration
from kdkit.evaluate.measures.context import measure_contexts
from kdkit.evaluate.measures.diversity import measure_diversity, training_text
from kdkit.evaluate.measures.places import (
    bin_document_position,
    bin_frequency,
    bin_window_position,
    compare_places,
    measure_spans,
)
from kdkit.evaluate.measures.tokens import Predictions, find_units, sum_by_unit
from kdkit.evaluate.retention import NAMES, Positions
from kdkit.models.reading import Reader

PEOPLE = "people"
"""Among writers: the held-out text itself, or the reference answers."""


def measure_run(
    config: Config,
    data: PreparedData,
    models: Mapping[str, tuple[PreTrainedModel | Reader, Side]],
    windows: Windows,
    predictions: Mapping[str, Predictions],
    positions: Positions,
    units: Units,
    autocast_dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Measure what predictions say beside their bits per byte.

    Returns:
        `calibration`: see `measure_calibration`, by model; `places`: see `compare_places`, by `frequency`,
        `window_position` and `document_position`; `contexts`: see `measure_contexts`, None of conversations, whose
        windows are whole documents, and where it is not asked for.
    """
    settings, sides = config.evaluate, {name: side for name, (_, side) in models.items()}
    unit = {side: find_units(windows, side, units) for side in set(sides.values())}
    calibration = {
        name: measure_calibration(predictions[name], unit[side], units, settings.calibration_bins)
        for name, side in sides.items()
    }
    spans = measure_spans({name: each.nats for name, each in predictions.items()}, sides, data, windows)
    bins = {
        "frequency": bin_frequency(windows, data.train, settings.frequency_bins),
        "window_position": bin_window_position(windows),
    }
    knows_documents = windows.pieces.shape[1] > 0
    if knows_documents and not data.is_chat:
        bins["document_position"] = bin_document_position(windows)
    places = {
        kind: compare_places(each, spans, positions, unit["student"], units, rarest=kind == "frequency")
        for kind, each in bins.items()
    }
    contexts, few = None, windows.first(settings.sliding_sequences)
    if len(few) and knows_documents and not data.is_chat:
        contexts = measure_contexts(
            models,
            {name: each.nats[: len(few)] for name, each in predictions.items()},
            few,
            {"teacher": data.teacher_tokenizer, "student": data.student_tokenizer},
            stride=settings.stride,
            batch_size=settings.batch_size,
            seed=config.seed,
            autocast_dtype=autocast_dtype,
        )
    return {"calibration": calibration, "places": places, "contexts": contexts}


def measure_levels(
    predictions: Mapping[str, Predictions],
    windows: Windows,
    models: Mapping[str, tuple[PreTrainedModel | Reader, Side]],
    resampled: Resampled,
    units: Units,
) -> dict[str, dict[str, Any]]:
    """Return the intervals of every model's bits per byte and of its perplexity."""
    found = {}
    for name, (_, side) in models.items():
        is_target = predictions[name].is_target
        nats = predictions[name].nats[is_target]
        unit = find_units(windows, side, units)[is_target]
        low, high = units.interval_of_ratio(*sum_by_unit(np.stack([nats, np.ones_like(nats)]), unit, units.count))
        found[name] = {
            "bits_per_byte_interval_95": resampled.interval(resampled.levels[name]),
            "perplexity_interval_95": (math.exp(low), math.exp(high)),
        }
    return found


def retention_intervals(positions: Positions, windows: Windows, units: Units) -> dict[str, dict[str, Any]]:
    """Return the intervals of what `sum_up` returns, by student."""
    unit = find_units(windows, "student", units).reshape(-1)[positions.place]
    if not len(unit):
        return {name: {f"{key}_interval_95": None for key in NAMES} for name in positions.values}
    found = {}
    for name, values in positions.values.items():
        *sums, counts = sum_by_unit(np.vstack([values, np.ones(len(unit))]), unit, units.count)
        edges = [units.interval_of_ratio(each, counts) for each in sums]
        found[name] = {f"{key}_interval_95": edge for key, edge in zip(NAMES, edges, strict=True)}
    return found


def compare_writing(data: PreparedData, written: dict[str, Any], settings: EvaluateConfig) -> dict[str, Any]:
    """Measure how varied the models write, from their answers or continuations; see `measure_diversity`.

    Args:
        written: `answers`, or `continuations`.
    """
    if "answers" in written:
        rows = written["answers"]["answers"]
        texts = {PEOPLE if name == "reference" else name: [row[name] for row in rows] for name in rows[0]}
    else:
        rows = written["continuations"][: settings.diversity_prompts]
        texts = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"} if rows else {}
        if texts:
            texts = {PEOPLE: [_rest(row["prompt"], data.manifest["openings"]) for row in rows]} | texts
    return measure_diversity(texts, training_text(data)) if texts else {}


def _rest(prompt: str, openings: list[str]) -> str:
    """Return what people wrote after a prompt, as far as the run has kept it."""
    return next((text[len(prompt) :] for text in openings if text.startswith(prompt)), "")
