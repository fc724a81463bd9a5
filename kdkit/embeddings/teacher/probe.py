"""The probe of an embedding teacher: its facts, and whether it is read the way it was trained (notebook 06)."""

from dataclasses import asdict
from typing import Any

import torch

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.models.doctor import examine_embeddings, examine_vectors
from kdkit.embeddings.models.embedder import EmbeddingModel, is_causal, load_embedding_model
from kdkit.embeddings.teacher.vectors import TextVectors, read_vectors
from kdkit.machine.hardware import Hardware, place_teacher
from kdkit.machine.session import Session

PROBED_SENTENCES = 256
"""Held-out sentences that the doctor reads."""


def load_teacher(
    config: EmbeddingConfig, hardware: Hardware, *, attentions: bool = False, dtype: torch.dtype | None = None
) -> EmbeddingModel:
    """Load the teacher of a configuration on its device, frozen.

    Args:
        attentions: load it so that it can return attention maps.
        dtype: of its weights; None: half where the hardware computes in half.

    Raises:
        UserError: see `load_embedding_model`.
    """
    settings = config.teacher
    device, usual = place_teacher(settings.device, hardware)
    model = load_embedding_model(
        settings.path,
        "teacher.path",
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        pooling=settings.pooling,
        normalize=settings.normalize,
        prompt=settings.prompt,
        max_length=settings.max_length or config.data.max_length,
        attentions=attentions,
        device=device,
        dtype=dtype or usual,
    )
    return model.requires_grad_(False)


def probe_embedding_teacher(session: Session[EmbeddingConfig], data: SentenceData) -> dict[str, Any]:
    """Describe the teacher, examine it with the doctor, and write `teacher/probe.json`.

    Returns:
        Its facts (`path`, `width`, `num_layers`, `causal`, `pooling`, ...) and `findings`, a list of topic, state
        and text.
    """
    config = session.config
    if config.teacher.vectors is not None:
        probe = _probe_vectors(read_vectors(config.teacher.vectors), data)
        session.run.write_json("teacher/probe.json", probe)
        return probe
    model = load_teacher(config, session.hardware)
    findings = examine_embeddings(model, data.evaluation[:PROBED_SENTENCES], config.teacher.batch_size)
    reading = model.reading
    probe = {
        "path": config.teacher.path,
        "revision": config.teacher.revision,
        "architecture": type(model.backbone).__name__,
        "pooling": reading.pooling,
        "normalize": reading.normalize,
        "prompt": reading.prompt,
        "max_length": reading.max_length,
        "width": model.width,
        "num_layers": model.num_layers,
        "causal": is_causal(model.backbone),
        "token_vectors": reading.late is not None,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "findings": [asdict(finding) for finding in findings],
    }
    session.run.write_json("teacher/probe.json", probe)
    return probe


def describe_vectors(file: TextVectors) -> dict[str, Any]:
    """Return the facts about a teacher of vectors that `describe_teacher` gives about a model."""
    return {"width": file.width, "layers": 0, "causal": False, "pooling": ""}


def _probe_vectors(file: TextVectors, data: SentenceData) -> dict[str, Any]:
    """Describe a teacher that is a file of vectors: what nobody can know of it is empty.

    Raises:
        UserError: there is no vector for some training sentences.
    """
    file.of(data.texts, "training sentences")
    known = [text for text in data.evaluation if text in file.places][:PROBED_SENTENCES]
    missing = file.missing(data.evaluation)
    findings = examine_vectors(file.of(known, "held-out sentences"), len(missing), len(data.evaluation))
    return {
        "path": str(file.path),
        "revision": None,
        "architecture": "vectors of a file",
        "pooling": "",
        "normalize": True,
        "prompt": "",
        "max_length": None,
        "width": file.width,
        "num_layers": 0,
        "causal": False,
        "parameters": None,
        "findings": [asdict(finding) for finding in findings],
    }
