"""Following a training: lines when nobody watches, widgets when somebody does."""

import importlib
import time
from types import SimpleNamespace

import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel
from traitlets.config import Config

from kdkit.runs.folder import is_watched
from kdkit.training.progress import Curve, Progress
from tests.tiny import make_run


def test_a_plain_python_process_is_not_watched():
    assert not is_watched()


def test_ipython_in_a_terminal_is_not_watched():
    importlib.import_module("ipykernel")  # as what runs the notebooks does
    InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        assert not is_watched()
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.parametrize("someone_can_answer", [True, False])
def test_a_kernel_is_watched_if_its_frontend_can_be_asked_for_input(someone_can_answer):
    """Jupyter and Kaggle's editor allow input, papermill and nbval do not."""
    manager, client = start_new_kernel(kernel_name="python3")
    printed = []

    def collect(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    try:
        code = "from kdkit.runs.folder import is_watched; print(is_watched())"
        client.execute_interactive(code, allow_stdin=someone_can_answer, output_hook=collect, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(printed).strip() == str(someone_can_answer)


@pytest.fixture
def progress(tmp_path):
    """The progress of a phase that has taken 10 of 100 steps."""
    progress = Progress(make_run(tmp_path), "student", Curve(None, "student", 1, every=50))
    state = SimpleNamespace(global_step=10, max_steps=100, is_world_process_zero=True, stateful_callbacks={})
    return progress, state


def test_a_line_is_printed_and_recorded_when_nobody_watches(progress, capsys):
    progress, state = progress
    progress.on_log(None, state, None, {"loss": 2.5, "ce_loss": 3.0, "kd_loss": 2.0, "learning_rate": 1e-3, "epoch": 1})
    line = capsys.readouterr().out
    assert "student" in line and "10/100" in line and "loss 2.500  ce 3.000  kd 2.000" in line and "s left" in line
    recorded = progress.run.read_metrics()
    assert len(recorded) == 1 and recorded[0].items() >= {"phase": "student", "step": 10, "loss": 2.5}.items()


def test_a_later_stage_counts_on_from_the_steps_of_the_earlier_ones(progress, capsys):
    progress, state = progress
    progress.first_step, progress.total_steps = 40, 140
    progress.on_log(None, state, None, {"loss": 2.5})
    assert " 50/140 " in capsys.readouterr().out
    assert progress.run.read_metrics()[0]["step"] == 50


def test_a_later_stage_keeps_the_metrics_of_the_earlier_ones(progress):
    progress, state = progress
    for step in (30, 40, 45):
        progress.run.append_metrics({"phase": "student", "step": step, "seconds": float(step), "loss": 1.0})
    progress.first_step, state.global_step = 40, 0
    progress.on_train_begin(None, state, None, model=None)
    assert [line["step"] for line in progress.run.read_metrics()] == [30, 40]
    assert progress.seconds == 40.0


def test_a_checkpoint_keeps_the_time_of_steps_that_no_line_holds_yet(progress):
    progress, state = progress
    progress.run.append_metrics({"phase": "student", "step": 8, "seconds": 8.0, "loss": 1.0})
    progress.seconds, progress._started = 10.0, time.monotonic()
    state.stateful_callbacks["Progress"] = progress.state()
    progress.on_train_begin(None, state, None, model=None)
    assert 10.0 <= progress.seconds < 10.5


def test_the_time_that_a_copy_takes_is_no_part_of_the_training_s(progress):
    progress, state = progress
    slept = []
    progress.copy = SimpleNamespace(update=lambda: slept.append(time.sleep(1.0)))
    progress._started = time.monotonic()
    for _ in range(2):
        progress.on_log(None, state, None, {"loss": 2.5})
    assert len(slept) == 2 and progress.seconds < 0.9
