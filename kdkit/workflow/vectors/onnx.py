"""The verb `export --format onnx`: an embedding student for onnxruntime, checked against the one in torch."""

import time
from typing import Any

import numpy as np
import torch

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.models import main_scores
from kdkit.embeddings.evaluate.run import open_tasks
from kdkit.embeddings.models.embedder import EmbeddingModel, encode, load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.onnx import check_exportable, with_graph, write_graph
from kdkit.errors import UserError
from kdkit.machine.open_session import open_embedding_session
from kdkit.models.onnx.graph import FULL, QUANTISED, quantise_graph
from kdkit.report.terminal import to_text
from kdkit.runs.disk import whole_folder
from kdkit.runs.open_run import is_for_embeddings
from kdkit.runs.paths import resolve_input
from kdkit.workflow.deploy.export import ExportRequest, check_out
from kdkit.workflow.writers import run_folder

RECORD = "onnx.json"
"""File of the run with the measurements."""
CHECKED = 256
"""Held-out sentences whose vectors are compared and that are timed."""
ROUNDS = 3
CLOSE = 1e-4
"""Largest difference of unit vectors between onnxruntime and torch in fp32."""


def is_embedding_model(request: ExportRequest) -> bool:
    """Return whether a command names a run for embeddings, or the folder of an embedding model."""
    place = run_folder(request.source, request.runs_dir)
    if place is None:
        return (resolve_input(request.source) / "modules.json").is_file()
    return is_for_embeddings(place / "config.yaml")


def export_onnx(request: ExportRequest) -> str:
    """Write a folder for sentence-transformers with `onnx/model.onnx` and `onnx/model_qint8.onnx`, and measure both.

    Writes `onnx.json` to the run: per model `file`, `megabytes`, `scores` (per task), `sentences_per_second`,
    `largest_difference` and `mean_cosine` (to torch's unit vectors).

    Returns:
        The table of it.

    Raises:
        UserError: no run of embedding models; a folder that exists; see `check_exportable`.
        RuntimeError: the graph in fp32 gives other vectors than torch.
    """
    folder = check_out(request)
    place = run_folder(request.source, request.runs_dir)
    if place is None or not (place / request.model / "modules.json").is_file():
        raise UserError(
            f"MODEL: expected a run with an embedding model in {request.model}/, got {request.source!r}; "
            "name a run, or train one: python -m kdkit run configs/embedding_demo.yaml"
        )
    if request.format != "onnx" or request.recover or request.quantise != "none":
        raise UserError(
            f"--format: expected onnx alone for an embedding model, got {request.format} of {request.source!r}; write "
            "--format onnx, which holds INT8 too"
        )
    session = open_embedding_session(place / "config.yaml", "", place.name, place.resolve().parent)
    model = load_embedding_model(str(place / request.model), "--model", max_length=_length(session.config))
    check_exportable(model, "--format onnx")
    data = prepare_sentences(session, None)
    tasks = open_tasks(session, data)
    full, quantised = folder / FULL, folder / QUANTISED
    with whole_folder(folder) as partial:
        save_embedding_model(load_embedding_model(str(place / request.model), "--model"), partial)
        quantise_graph(write_graph(model, partial / FULL), partial / QUANTISED)
    models = {"torch": model, "onnxruntime": with_graph(model, full), "onnxruntime, INT8": with_graph(model, quantised)}
    sizes = {"torch": sum(file.stat().st_size for file in folder.glob("*.safetensors"))}
    sizes |= {"onnxruntime": full.stat().st_size, "onnxruntime, INT8": quantised.stat().st_size}
    rows = compare(models, sizes, tasks, data.evaluation[:CHECKED], session.config.evaluate.batch_size)
    session.run.write_json(RECORD, {"folder": str(folder), "models": rows})
    if (found := rows["onnxruntime"]["largest_difference"]) > CLOSE:
        raise RuntimeError(f"{full}: expected torch's vectors within {CLOSE:g}, got a difference of {found:.2g}")
    return f"{table(rows)}\n{folder}: for onnxruntime, or SentenceTransformer(FOLDER, backend='onnx') with optimum-onnx"


def compare(
    models: dict[str, EmbeddingModel],
    sizes: dict[str, int],
    tasks: list[TaskData],
    sentences: list[str],
    batch_size: int,
) -> dict[str, dict[str, Any]]:
    """Score, time and compare models with the first of them; on the CPU."""
    vectors = {name: encode(model, sentences, batch_size) for name, model in models.items()}
    fastest = dict.fromkeys(models, float("inf"))
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            encode(model, sentences, batch_size)
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    first = vectors[next(iter(models))]
    return {
        name: {
            "megabytes": sizes[name] / 1e6,
            "scores": main_scores(model, tasks, batch_size=batch_size, name=name),
            "sentences_per_second": len(sentences) / fastest[name],
            "largest_difference": float(np.abs(vectors[name] - first).max()),
            "mean_cosine": float((vectors[name] * first).sum(axis=1).mean()),
            "threads": torch.get_num_threads(),
        }
        for name, model in models.items()
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Write the measurements for a terminal."""
    first = next(iter(rows.values()))
    headings = ["", "MB", *first["scores"], "sentences per second", "times torch", "largest difference", "mean cosine"]
    lines = [
        [
            name,
            f"{row['megabytes']:.1f}",
            *(f"{score:.2f}" for score in row["scores"].values()),
            f"{row['sentences_per_second']:,.0f}",
            f"{row['sentences_per_second'] / first['sentences_per_second']:.2f}",
            f"{row['largest_difference']:.1e}",
            f"{row['mean_cosine']:.4f}",
        ]
        for name, row in rows.items()
    ]
    return to_text((headings, lines))


def _length(config: EmbeddingConfig) -> int:
    """Return the longest input of the tasks, as in the run's evaluation."""
    return config.evaluate.max_length or config.data.max_length
