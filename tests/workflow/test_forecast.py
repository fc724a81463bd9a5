"""The estimate of a whole run, what a run is recognised by, and what is shown of it."""

import io

import pytest

from kdkit.config.language import dump_config, load_config
from kdkit.machine.interrupt import FIRST
from kdkit.runs.folder import Run
from kdkit.runs.messages import Step, read_step, say_time, step_line
from kdkit.workflow import forecast as module
from kdkit.workflow import pipeline
from kdkit.workflow.forecast import Forecast, plan_work, seconds_before
from kdkit.workflow.pipeline import RunRequest, run_notebooks
from kdkit.workflow.terminal import Lines, Terminal
from tests.workflow.projects import ROOT, STAGES, read_status

SMOKE = ROOT / "configs" / "smoke.yaml"


@pytest.fixture
def clock(monkeypatch):
    """Return the hand of a clock that stands still."""
    hand = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: hand[0])
    return hand


def test_a_line_of_progress_reads_back_as_it_was_written():
    line = step_line("talas, paper", 130, 1300, "loss 6.089  ce 6.069", 56.4)
    assert read_step(line) == Step("talas, paper", 130, 1300, 56)
    assert read_step("student 3/9") is None and read_step("two tokenizers - both splits have text: True") is None


def test_without_an_earlier_run_the_steps_to_come_are_counted_at_the_present_pace(clock):
    work = {"teacher": 100.0, "student": 50.0, "baseline": 25.0}
    forecast = Forecast(STAGES[1:4], work, _started=80.0, _stage_started=90.0)
    # 75 s for the rest of 100 units: one a second; 75 units more, and 10 s for each of two notebooks
    assert forecast.in_all(Step("teacher", 25, 100, 75)) == 20 + 75 + 75 + 2 * 10
    assert forecast.at_start() is None and forecast.in_all(Step("cache", 1, 2, 5)) is None


def test_an_earlier_run_tells_what_its_notebooks_took(clock):
    forecast = Forecast(STAGES[2:4], {}, {"03_distill": 60.0, "04_evaluate": 20.0}, _started=95.0, _stage_started=95.0)
    assert forecast.at_start() == 80
    assert forecast.in_all(Step("student", 1, 2, 10)) == 5 + 55 + 20
    assert forecast.in_all(Step("student", 1, 2, 90)) == 5 + 90 + 20, "slower than then"


def test_the_trainings_of_a_run_are_weighed_by_tokens_and_teachers():
    config = load_config(SMOKE)  # 8 sequences a step for the teacher, 4 x 2 for the student
    work = plan_work(config, 12, builds_teacher=True)
    assert (work["teacher"], work["student"], work["baseline"]) == (20, 12, 6)
    assert "teacher" not in plan_work(config, 12, builds_teacher=False)
    assert "baseline_equal_time" not in plan_work(load_config(SMOKE, ["distill.equal_time_baseline=false"]), 12, False)


def test_the_earlier_run_must_have_the_same_data_models_and_training(tmp_path):
    run = Run(tmp_path / "runs" / "before", tmp_path)
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text(dump_config(load_config(SMOKE)))
    run.write_json("status.json", {name: {"state": "done", "seconds": 30.0} for name in STAGES})
    run.append_metrics({"phase": "teacher", "step": 20, "seconds": 12.0})
    mine = Run(tmp_path / "runs" / "mine", tmp_path)
    found = seconds_before(load_config(SMOKE, ["distill.temperature=2"]), mine, STAGES)
    assert found == dict.fromkeys(STAGES, 30.0) | {"02_teacher_probe": 18.0}, "its teacher is in the cache now"
    assert seconds_before(load_config(SMOKE, ["train.max_steps=99"]), mine, STAGES) == {}


def test_a_run_that_is_done_is_recognised_without_reading_its_inputs(project, monkeypatch):
    monkeypatch.setattr(pipeline, "run_notebook", lambda *arguments: None)
    run = run_notebooks(RunRequest("configs/tiny.yaml", name="r"))
    before = read_status(run.path)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "check_inputs", lambda *arguments: pytest.fail("all was read again"))
        run_notebooks(RunRequest("tiny", name="r"))
    assert read_status(run.path) == before
    (project / "corpus.txt").touch()
    checked = []
    check = pipeline.check_inputs
    monkeypatch.setattr(pipeline, "check_inputs", lambda *arguments: checked.append(1) or check(*arguments))
    run_notebooks(RunRequest("tiny", name="r"))
    assert checked and read_status(run.path) == before, "touched, read, and found the same"


@pytest.mark.parametrize(
    ("setting", "stages"),
    [("evaluate.top_k=9", STAGES[3:]), ("report.title=Mine", STAGES[4:]), ("evaluate.curve_sequences=9", STAGES)],
)
def test_what_is_measured_and_written_decides_no_training(setting, stages):
    before, after = load_config(SMOKE), load_config(SMOKE, [setting])
    changed = [name for name in STAGES if pipeline._settings_of(before, name) != pipeline._settings_of(after, name)]
    assert changed == stages


def test_in_a_log_a_phase_has_a_first_and_a_last_line_and_notes_and_warnings_stay(capsys):
    terminal = Terminal(stream=io.StringIO(), place="[3/5]")
    printed = Lines(terminal.printed)
    for step in range(1, 101):
        printed.write(step_line("student", step, 100, "loss 1.0", 100 - step) + "\n")
    printed.write("a sample\nnote: student: goes on\ncosine: warning: collapsing\n" + "word " * 40 + "\n")
    assert terminal.stream.getvalue().splitlines() == [
        "[3/5] student 1/100 · 2 min left",
        "[3/5] student 100/100 · 0 s left",
        "[3/5] student: goes on",
        "cosine: warning: collapsing",
    ]
    for line in (FIRST, "Writing model shards: 100%|####| 1/1", "UserWarning: look"):
        terminal.complained(line)
    assert capsys.readouterr().err == "UserWarning: look\n"


def test_long_lines_are_broken_between_words_and_times_are_rough():
    terminal = Terminal(stream=io.StringIO())
    terminal.say("word " * 40)
    assert max(map(len, terminal.stream.getvalue().splitlines())) <= 100
    assert [say_time(seconds) for seconds in (56, 170, 9000)] == ["56 s", "3 min", "2.5 h"]
