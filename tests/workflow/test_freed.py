"""Bytes that models hold between the stages of a run: none of a teacher, or of a student that is trained."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdkit.config.language import dump_config
from kdkit.distill import train
from kdkit.workflow.terminal import Terminal
from tests.memory import held_bytes
from tests.tiny import make_config, make_data, save_teacher
from tests.workflow.projects import ROOT, run_here

SMALL = 4096
"""Bytes of tables that libraries keep."""


@pytest.fixture
def held(monkeypatch):
    """Bytes when each training begins, above those before, by its phase."""
    found, begin = {}, train._begin

    def watch(plan, teacher, phase):
        found[phase] = held_bytes()
        return begin(plan, teacher, phase)

    monkeypatch.setattr(train, "_begin", watch)
    return found


@pytest.mark.parametrize("cached", [False, True], ids=["teacher in memory", "answers kept"])
def test_no_baseline_of_notebook_03_shares_the_memory_with_the_teacher_or_the_student(held, tmp_path, cached):
    sizes = {"hidden_size": 64, "num_layers": 2, "intermediate_size": 128, "vocab_size": 290}
    config = make_config(tmp_path, student={"build": sizes}, cache={"enabled": cached}, cache_dir=str(tmp_path / "c"))
    data = make_data(config, tmp_path)
    path = save_teacher(data, tmp_path / "teacher")
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"path": str(path)})})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    parameters = {"CONFIG": str(tmp_path / "config.yaml"), "RUNS_DIR": str(tmp_path / "runs"), "RUN": "r"}
    before = held_bytes()
    run_here(ROOT / "notebooks" / "03_distill.ipynb", tmp_path / "03.ipynb", parameters, Terminal(False))
    above = {phase: size - before for phase, size in held.items()}
    of_teacher = above.pop("student")
    assert of_teacher < SMALL if cached else of_teacher > 30_000
    assert len(above) >= 2 and max(above.values()) < SMALL, above
    assert Path(tmp_path / "runs" / "r" / "baseline").is_dir()


def test_the_command_that_waits_for_kernels_holds_no_torch():
    code = "import sys, kdkit.workflow.pipeline; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
