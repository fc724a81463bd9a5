"""Finished runs of a few lines that can be compared: a tests' folder `runs` is filled with them."""

import shutil
from pathlib import Path

import numpy as np
import yaml

from kdkit.config.language import Config, dump_config
from kdkit.evaluate.text_scores import write_scores
from kdkit.runs.folder import Run, write_text
from kdkit.training.score import Score
from tests.report.test_page import make_evaluation

DOCUMENTS = 12
BYTES = np.full(DOCUMENTS, 100)
BITS = np.linspace(1.2, 1.8, DOCUMENTS)
"""Of the first run's student, per byte of each document."""


def add_run(folder: Path, finished: Path, name: str, bits: np.ndarray = BITS, **settings: object) -> Run:
    """Add a run to the folder `runs` in a folder: a copy of a finished one with other settings and scores."""
    run = Run(folder / "runs" / name, folder)
    shutil.copytree(finished, run.path)
    values = yaml.safe_load(dump_config(Config()))
    for key, value in settings.items():
        *sections, last = key.split(".")
        inner = values
        for section in sections:
            inner = inner[section]
        inner[last] = value
    write_text(run.path / "config.yaml", yaml.safe_dump(values))
    nats = {"student": bits, "baseline": np.full(DOCUMENTS, 2.0)}
    scores = {
        phase: Score((v * BYTES * np.log(2)), BYTES, 9, v * BYTES * np.log(2), BYTES) for phase, v in nats.items()
    }
    write_scores(run, scores)
    run.write_json("evaluation.json", make_evaluation(student=float(np.mean(bits))))
    (run.path / "student").mkdir(exist_ok=True)
    return run
