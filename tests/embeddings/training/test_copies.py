"""Trainings of embedding models in W&B: real runs there, offline, that agree with metrics.jsonl after a stop too."""

import pytest
import wandb

from kdkit.config.embeddings import embedding_config_from_values
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.embeddings.training.trainer import EmbeddingTrainer
from kdkit.runs.folder import Run
from tests.embedders import make_session, save_teacher, write_sentences
from tests.wandb_files import read_rows

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_method_is_a_run_whose_rows_are_its_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    save_teacher(tmp_path / "teacher")
    config = embedding_config_from_values(
        {
            "method": "cosine",
            "compare": ["rkd"],
            "data": {
                "path": str(write_sentences(tmp_path / "plain.csv")),
                "max_length": 16,
                "evaluation_fraction": 0.2,
            },
            "teacher": {"path": str(tmp_path / "teacher")},
            "student": {"layers": [0, 3]},
            "cache_dir": str(tmp_path / "cache"),
            "train": {
                "per_device_train_batch_size": 8,
                "max_steps": 6,
                "warmup_steps": 0,
                "log_every": 1,
                "save_every": 2,
            },
            "evaluate": {"tasks": []},
        }
    )
    run = Run(tmp_path / "runs" / "vectors", tmp_path / "cache")
    run.path.mkdir(parents=True)
    session = make_session(config, run)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    train_step, scores = EmbeddingTrainer.train_step, lambda student: {"a task": 60.0}

    def break_at_four(self):
        if self.step == 3:
            raise OSError("killed")
        train_step(self)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(EmbeddingTrainer, "train_step", break_at_four)
        distill_all(session, data, scores)
    distill_all(session, data, scores, resume=True)
    wandb.teardown()
    copies = run.read_json("wandb.json")["copies"]
    assert list(copies) == ["cosine", "rkd"] and len(list((run.path / "wandb").glob("offline-run-*"))) == 2
    for phase, entry in copies.items():
        rows = [
            {k: v for k, v in row.items() if k != "steps_per_second"} for row in read_rows(run.path / entry["folder"])
        ]
        lines = [line for line in run.read_metrics() if line["phase"] == phase]
        expected = [{k: v for k, v in line.items() if k not in ("phase", "tasks")} for line in lines]
        for line, row in zip(lines, expected, strict=True):
            row |= {f"tasks/{name}": score for name, score in line.get("tasks", {}).items()}
        assert rows == expected and [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
        assert any(row.get("tasks/a task") == 60.0 for row in rows)
