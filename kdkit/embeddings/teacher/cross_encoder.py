"""A cross-encoder as the teacher of scores: it reads a query and a document together and returns one number."""

from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.methods import ListMethodSettings
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.errors import UserError
from kdkit.machine.hardware import Hardware, place_teacher
from kdkit.machine.hub import explain_load_error, hub_is_reachable, is_local_path
from kdkit.models.loading import bar_of, check_model_folder

KEY = "teacher.cross_encoder"


def check_cross_encoder(config: EmbeddingConfig) -> None:
    """Refuse a cross-encoder that nothing asks, or that is none, before anything is trained.

    Raises:
        UserError: no method on lists; no such model; several labels.
    """
    methods = (config.method, *config.compare)
    if not any(isinstance(method, ListMethodSettings) for method in methods):
        got = ", ".join(method.name for method in methods)
        raise UserError(
            f"{KEY}: expected a method that learns its scores, got {got}; set method=margin_mse, or leave it out"
        )
    name, shared = _find(config)
    try:
        labels = AutoConfig.from_pretrained(name, **shared).num_labels
    except (OSError, ValueError) as error:
        raise explain_load_error(error, name, KEY, "cross-encoder") from None
    _check_labels(labels, [], str(config.teacher.cross_encoder))


def _find(config: EmbeddingConfig) -> tuple[str, dict[str, Any]]:
    """Return the model's folder or hub name, and how it is loaded."""
    settings = config.teacher
    name = check_model_folder(resolve_embedding_path(str(settings.cross_encoder), KEY), KEY)
    is_offline = is_local_path(name) or not hub_is_reachable()
    return name, {"revision": settings.cross_encoder_revision, "local_files_only": is_offline}


def _check_labels(labels: int, missing: list[str], path: str) -> None:
    if labels != 1 or missing:
        got = f"no weights for {missing[0]}" if missing else f"{labels} labels"
        raise UserError(f"{KEY}: expected a cross-encoder with one label, got {got} in {path!r}; name another model")


@torch.no_grad()
def score_pairs(config: EmbeddingConfig, hardware: Hardware, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Return the score of each query and document: the model's logit, before any sigmoid.

    Returns:
        fp32, `[pairs]`.

    Raises:
        UserError: a model that is no cross-encoder with one label; scores that are not finite.
    """
    settings = config.teacher
    path = str(settings.cross_encoder)
    name, shared = _find(config)
    device, dtype = place_teacher(settings.device, hardware)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **shared)
        with bar_of(name):
            model, report = AutoModelForSequenceClassification.from_pretrained(
                name, dtype=dtype, use_safetensors=True, output_loading_info=True, **shared
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise explain_load_error(error, name, KEY, "cross-encoder") from None
    _check_labels(model.config.num_labels, sorted(report["missing_keys"]), path)
    model = model.to(device).eval()
    limit = min(settings.max_length or 512, getattr(model.config, "max_position_embeddings", 512))
    print(f"teacher: scores of {len(pairs):,} pairs by {path}", flush=True)
    scores = np.zeros(len(pairs), np.float32)
    order = sorted(range(len(pairs)), key=lambda pair: -sum(map(len, pairs[pair])))
    for start in range(0, len(order), settings.batch_size):
        numbers = order[start : start + settings.batch_size]
        queries, documents = zip(*(pairs[number] for number in numbers), strict=True)
        batch = tokenizer(
            list(queries), list(documents), truncation=True, max_length=limit, padding=True, return_tensors="pt"
        )
        scores[numbers] = model(**batch.to(device)).logits[:, 0].float().cpu().numpy()
    if not np.isfinite(scores).all():
        raise UserError(
            f"{KEY}: expected finite scores, got NaN or inf; set train.precision=fp32, or name another model"
        )
    return scores
