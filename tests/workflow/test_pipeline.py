"""The rules by which stages run, are skipped and fail."""

import shutil
from pathlib import Path

import pytest

from kdkit import cli
from kdkit.config.language import Config
from kdkit.errors import UserError
from kdkit.workflow import pipeline
from kdkit.workflow.inputs import stamp_inputs
from kdkit.workflow.notebook import run_notebook
from kdkit.workflow.pipeline import RunRequest, run_notebooks
from kdkit.workflow.terminal import Terminal
from tests.workflow.projects import PARAMETERS, STAGES, read_status, run_here, write_notebook


@pytest.fixture
def run_stages(project, monkeypatch):
    """Return a call that asks for a run and returns the stages that would be executed, with their parameters."""

    def run(**request):
        ran = {}
        monkeypatch.setattr(
            pipeline, "run_notebook", lambda path, _, parameters, *rest: ran.update({path.stem: parameters})
        )
        run_notebooks(RunRequest("configs/tiny.yaml", name="r", **request))
        return ran

    return run


def test_stages_run_in_order_and_then_not_again(run_stages):
    assert list(run_stages()) == STAGES
    assert list(run_stages()) == []


@pytest.mark.parametrize(
    ("option", "value", "stages"),
    [
        ("only", "05", ["05_report"]),
        ("only", "04,data", ["01_data", "04_evaluate"]),
        ("first", "04", ["04_evaluate", "05_report"]),
        ("first", "distill", ["03_distill", "04_evaluate", "05_report"]),
    ],
)
def test_only_and_from_choose_stages_even_if_they_are_done(run_stages, option, value, stages):
    run_stages()
    assert list(run_stages(**{option: value})) == stages


def test_a_changed_notebook_makes_it_and_the_later_ones_run_again(run_stages, project):
    run_stages()
    write_notebook(project, "03_distill", "2")
    assert list(run_stages()) == STAGES[2:]


def test_a_changed_corpus_makes_everything_run_again(run_stages, project):
    run_stages()
    with (project / "corpus.txt").open("a") as file:
        file.write("\n\nOne paragraph more.")
    assert list(run_stages()) == STAGES


def test_changed_teacher_weights_make_everything_run_again(run_stages, project, test_data):
    shutil.copytree(test_data / "models" / "stories260K", project / "big", copy_function=shutil.copyfile)
    assert list(run_stages(overrides=["teacher.path=./big"])) == STAGES
    assert list(run_stages(overrides=["teacher.path=./big"])) == []
    with (project / "big" / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert list(run_stages(overrides=["teacher.path=./big"])) == STAGES


def test_changed_minimal_pairs_are_judged_again_and_nothing_is_trained_again(run_stages, project):
    row = '{"sentence_good": "This is %s.", "sentence_bad": "This are %s."}'
    settings = {"overrides": ["evaluate.minimal_pairs=pairs.jsonl"]}
    with pytest.raises(UserError, match=r"evaluate\.minimal_pairs: expected kdkit-grammar"):
        run_stages(**settings)
    (project / "pairs.jsonl").write_text(row % ("one", "one"))
    assert list(run_stages(**settings)) == STAGES
    assert list(run_stages(**settings)) == []
    (project / "pairs.jsonl").write_text(row % ("it", "it"))
    assert list(run_stages(**settings)) == STAGES[3:]


def test_changed_problems_are_judged_again_and_nothing_is_trained_again(run_stages, project):
    settings = {"overrides": ["maths.judging.path=mine.jsonl"]}
    with pytest.raises(UserError, match=r"maths\.judging\.path: expected a \.json or \.jsonl file"):
        run_stages(**settings)
    (project / "mine.jsonl").write_text('{"problem": "Solve x = 1.", "answer": "1"}\n')
    assert list(run_stages(**settings)) == STAGES
    assert list(run_stages(**settings)) == []
    (project / "mine.jsonl").write_text('{"problem": "Solve x = 2.", "answer": "2"}\n')
    assert list(run_stages(**settings)) == STAGES[3:]
    assert list(run_stages(overrides=[*settings["overrides"], "maths.judging.num_samples=1"])) == STAGES[3:]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distill.layer_map={9: 0}"], r"expected a teacher layer out of 0, 1, .*got 9"),
        (["distill.layer_map={0: 9}"], r"expected a student layer out of 0, .*got 9"),
        (["distill.layer_map={5: 0}", "teacher.path={folder}"], r"teacher layer out of 0, 1, 2, 3, 4, got 5"),
        (["distill.layer_map={0: 2}", "teacher.path={folder}", "student.path={folder}", "student.layers=2"], "got 2"),
        (["distill.layer_map={0: 5}", "teacher.path={folder}", "student.path={folder}"], r"of 0, 1, 2, 3, 4, got 5"),
    ],
)
def test_a_layer_that_there_is_not_is_refused_before_the_first_notebook(run_stages, test_data, overrides, message):
    folder = test_data / "models" / "stories260K"
    with pytest.raises(UserError, match=message):
        run_stages(overrides=[override.replace("{folder}", str(folder)) for override in overrides])


@pytest.mark.parametrize(
    ("name", "stages"), [("distill/train.py", STAGES), ("report/page.html.j2", STAGES), ("__pycache__/cli.pyc", [])]
)
def test_a_changed_package_makes_everything_run_again_but_compiled_files_do_not(
    run_stages, tmp_path, monkeypatch, name, stages
):
    changed = tmp_path / "kdkit" / name
    changed.parent.mkdir(parents=True)
    monkeypatch.setattr(pipeline, "__file__", str(tmp_path / "kdkit" / "workflow" / "pipeline.py"))
    run_stages()
    changed.write_text("new")
    assert list(run_stages()) == stages


def test_a_stage_that_ran_again_makes_the_later_ones_run_again(run_stages):
    run_stages()
    run_stages(only="03")
    assert list(run_stages()) == ["04_evaluate", "05_report"]


def interrupt_distillation(monkeypatch):
    """Ask for a run that is stopped with Ctrl-C in notebook 03."""

    def interrupt(notebook, *_):
        if notebook.stem == "03_distill":
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_notebook", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_notebooks(RunRequest("configs/tiny.yaml", name="r"))


def test_a_run_goes_on_at_the_stage_that_was_interrupted(run_stages, project, monkeypatch):
    interrupt_distillation(monkeypatch)
    assert read_status(project / "runs" / "r")["03_distill"]["state"] == "interrupted"
    ran = run_stages(resume=True)
    assert list(ran) == STAGES[2:]
    assert ran["03_distill"]["RESUME"] is True and "RESUME" not in ran["04_evaluate"]


def test_what_an_interrupted_training_left_is_not_resumed_once_its_inputs_changed(run_stages, project, monkeypatch):
    interrupt_distillation(monkeypatch)
    (project / "corpus.txt").write_text((project / "corpus.txt").read_text() + "\n\nOne paragraph more.")
    assert run_stages(resume=True)["03_distill"]["RESUME"] is False


def test_a_setting_that_was_changed_in_a_notebook_is_left_out_of_a_commands_run(project, monkeypatch, capsys):
    monkeypatch.setattr(
        "tests.workflow.projects.PARAMETERS", PARAMETERS + "TEMPERATURE: float = 2.0\nSEED: int = None\n"
    )
    write_notebook(project, "03_distill", "print('temperature', TEMPERATURE)\nassert TEMPERATURE is None")
    monkeypatch.setattr(pipeline, "run_notebook", run_here)
    run_notebooks(RunRequest("configs/tiny.yaml", name="r", only="03"))
    assert "note: 03_distill.ipynb sets TEMPERATURE: not used here" in capsys.readouterr().out


def test_from_a_folder_below_the_project_the_notebooks_find_configuration_and_run(run_stages, project, monkeypatch):
    monkeypatch.chdir(project / "notebooks")
    parameters = run_stages(overrides=["report.title=Two words"])["01_data"]
    assert Path(parameters["CONFIG"]) == project / "configs" / "tiny.yaml"
    assert (parameters["RUNS_DIR"], parameters["RUN"]) == (str(project / "runs"), "r")
    assert parameters["OVERRIDES"] == "'report.title=Two words'"


def test_a_relative_path_means_the_same_in_the_command_and_in_its_notebooks(project, monkeypatch):
    (project / "below").mkdir()
    (project / "corpus.txt").rename(project / "below" / "corpus.txt")
    code = (
        "from kdkit.machine.open_session import open_session\n"
        "open(open_session(CONFIG, OVERRIDES, RUN, RUNS_DIR).config.data.path)"
    )
    write_notebook(project, "01_data", code)
    monkeypatch.chdir(project / "below")
    run = run_notebooks(RunRequest(str(project / "configs" / "tiny.yaml"), name="r", only="01"))
    assert run.status()["01_data"]["state"] == "done"


def test_an_unknown_parameter_is_refused_with_a_suggestion(project):
    notebook = project / "notebooks" / "03_distill.ipynb"
    with pytest.raises(UserError, match=r"03_distill\.ipynb: expected a parameter .*RESUME, got 'RESUM'; .* 'RESUME'"):
        run_notebook(notebook, project / "out.ipynb", {"RESUM": True}, Terminal())
    assert not (project / "out.ipynb").exists()


def test_a_mistake_found_inside_a_notebook_is_one_line_and_exit_code_2(project, capsys):
    code = "from kdkit.errors import UserError\nraise UserError('data.path: expected text,\\n got none; give some')"
    write_notebook(project, "01_data", code)
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "configs/tiny.yaml", "--name", "r"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "kdkit: data.path: expected text, got none; give some\n"
    status = read_status(project / "runs" / "r")
    assert list(status) == ["01_data"] and status["01_data"]["state"] == "failed"
    assert status["01_data"]["message"] == "data.path: expected text, got none; give some"


@pytest.mark.parametrize(
    ("code", "reason"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("import os; os._exit(1)", "most often for lack of memory")],
)
def test_a_notebook_that_fails_is_named_with_the_file_to_look_at(project, code, reason):
    write_notebook(project, "01_data", code)
    with pytest.raises(RuntimeError) as error:
        run_notebooks(RunRequest("configs/tiny.yaml", name="r"))
    executed = project / "runs" / "r" / "notebooks" / "01_data.ipynb"
    assert all(words in str(error.value) for words in ("01_data.ipynb", reason, str(executed)))
    assert executed.is_file()
    entry = read_status(project / "runs" / "r")["01_data"]
    assert entry["state"] == "failed" and reason in entry["message"] and entry["seconds"] > 0


def test_a_look_inside_is_a_stage_more_and_makes_no_training_run_again(run_stages, project):
    write_notebook(project, "08_look", "1")
    run_stages()
    looking = run_stages(overrides=["report.look_inside=true"])
    assert "08_look" in looking and not {"01_data", "03_distill"} & set(looking)
    assert list(run_stages(overrides=["report.look_inside=true"])) == []


def test_a_setting_that_is_too_long_for_the_name_of_a_file_names_none():
    data = Config().data.model_copy(update={"text_column": "a" * 300})
    assert stamp_inputs(Config().model_copy(update={"data": data})) != stamp_inputs(Config())


def test_a_folder_named_build_is_not_what_a_built_model_is_made_of(tmp_path, monkeypatch):
    """`pip wheel` leaves one."""
    monkeypatch.chdir(tmp_path)
    before = stamp_inputs(Config())
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "left.txt").write_text("over", encoding="utf-8")
    assert stamp_inputs(Config()) == before
