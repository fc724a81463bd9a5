"""Scores of a run's models by window and by document, kept so that another run can be compared in pairs later."""

from collections.abc import Mapping

import numpy as np

from kdkit.runs.folder import Run
from kdkit.training.score import Score

FILE = "scores.json"
"""Of a run of language models: the sizes of what was read, and every model's nats on it."""
DIGITS = 6
"""Of nats in the file."""


def write_scores(run: Run, scores: Mapping[str, Score]) -> None:
    """Write the scores of models that read the same windows."""
    first = next(iter(scores.values()))
    models = {
        name: {
            "num_tokens": score.num_tokens,
            "window_nats": score.window_nats.round(DIGITS).tolist(),
            "document_nats": None if score.document_nats is None else score.document_nats.round(DIGITS).tolist(),
        }
        for name, score in scores.items()
    }
    document_bytes = None if first.document_bytes is None else first.document_bytes.tolist()
    sizes = {"window_bytes": first.window_bytes.tolist(), "document_bytes": document_bytes}
    run.write_json(FILE, sizes | {"models": models})


def read_scores(run: Run) -> dict[str, Score] | None:
    """Return the scores by model; None where the run was evaluated by a build that kept none."""
    if not (run.path / FILE).is_file():
        return None
    values = run.read_json(FILE)
    window_bytes, document_bytes = (_array(values[f"{unit}_bytes"]) for unit in ("window", "document"))
    return {
        name: Score(
            _array(entry["window_nats"]),
            window_bytes,
            entry["num_tokens"],
            _array(entry["document_nats"]),
            document_bytes,
        )
        for name, entry in values["models"].items()
    }


def _array(values: list[float] | None) -> np.ndarray | None:
    return None if values is None else np.array(values)
