"""The text of a run that an exported model is judged on, and recovered on."""

from dataclasses import dataclass

import numpy as np
import torch

from kdkit.config.language import Config
from kdkit.data.batches import Side
from kdkit.data.prepare import open_data
from kdkit.data.windows import PAD, Windows
from kdkit.runs.folder import Run
from kdkit.runs.trained_run import TRAINED, open_trained_run
from kdkit.workflow.writers import run_folder

MADE_UP = 7919
"""A prime by which ids are stepped through, where there is no text."""


@dataclass(frozen=True)
class RunText:
    """Windows of a run as one of its models reads them."""

    run: Run
    config: Config
    side: Side
    train: Windows
    held_out: Windows
    """Those that the run's evaluation reads."""

    def rows(self, count: int, length: int) -> torch.Tensor:
        """Return ids of held-out windows, int64, `[count, length]` at most, none of them padded."""
        stored = self.held_out.student_ids if self.side == "student" else self.held_out.teacher_ids
        ids = torch.tensor(np.asarray(stored[:count]), dtype=torch.int64)
        return ids[:, : min(length, int((ids != PAD).sum(dim=1).min()))]


def find_text(source: str, which: str, runs_dir: str) -> RunText | None:
    """Open the text of the run that a command names; None where it names no run, or one that has not trained.

    Args:
        which: model of the run: `teacher` reads as the teacher does, all others as the student.
    """
    folder = run_folder(source, runs_dir)
    if folder is None or not (folder / TRAINED).is_file() or not (folder / "data" / "manifest.json").is_file():
        return None
    config, run = open_trained_run(folder.name, runs_dir=folder.resolve().parent)
    data = open_data(folder / "data")
    side: Side = "teacher" if which.split("/")[0] == "teacher" else "student"
    return RunText(run, config, side, data.train, data.evaluation.first(config.evaluate.max_sequences))


def made_up_rows(vocab_size: int, count: int, length: int) -> torch.Tensor:
    """Return ids that stand for a text where there is none, int64, `[count, length]`."""
    return (torch.arange(count * length) * MADE_UP % vocab_size).reshape(count, length)
