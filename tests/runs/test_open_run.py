import pytest

from kdkit.config.language import load_config
from kdkit.config.reading import unread_sizes
from kdkit.errors import UserError
from kdkit.runs.disk import write_text
from kdkit.runs.open_run import open_run, plan_run


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one configuration, which is the current folder."""
    write_text(tmp_path / "notebooks" / "01_data.ipynb", "{}")
    write_text(tmp_path / "configs" / "small.yaml", "distill: {temperature: 2}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder):
    """Read name, time of change and contents of every file below a folder."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_opening_makes_the_run_folder_with_the_resolved_configuration(project):
    config, run = open_run("configs/small.yaml", ["seed=5"])
    assert run.path == project / "runs" / "small-seed=5"
    assert run.cache_path == project / ".cache"
    assert (config.seed, config.distill.temperature) == (5, 2.0)
    assert load_config(run.path / "config.yaml") == config
    assert run.read_json("env.json")["packages"]


def test_a_given_name_and_folder_are_taken(project, tmp_path):
    _, run = open_run("configs/small.yaml", run_name="mine", runs_dir=tmp_path / "elsewhere")
    assert run.path == tmp_path / "elsewhere" / "mine"
    assert run.path.is_dir()


def test_a_run_is_named_after_its_configuration(project):
    assert plan_run("configs/small.yaml")[1].name == "small"


def test_overrides_are_split_as_a_shell_would(project):
    config, run = plan_run("configs/small.yaml", "report.title='two words' data.path='my texts' seed=1")
    assert (config.report.title, config.seed) == ("two words", 1)
    assert run.name == "small-path=my_texts-seed=1", "what only judges makes no other run"


def test_an_unclosed_quote_in_the_overrides_is_the_users_mistake(project):
    with pytest.raises(UserError, match="quot"):
        plan_run("configs/small.yaml", "report.title='two words")


def test_planning_writes_nothing(project):
    before = snapshot(project)
    plan_run("configs/small.yaml", "seed=1", "planned")
    assert snapshot(project) == before
    assert not (project / "runs").exists()


def test_a_configuration_of_the_project_is_found_from_a_folder_inside_it(project, monkeypatch):
    monkeypatch.chdir(project / "notebooks")
    _, run = plan_run("configs/small.yaml")
    assert run.path == project / "runs" / "small"


def test_the_same_configuration_opens_the_run_again(project):
    first, run = open_run("configs/small.yaml", "seed=1", "mine")
    run.set_status("data", state="done")
    run.write_json("env.json", {"made": "before"})
    again, run = open_run("configs/small.yaml", "seed=1", "mine")
    assert again == first
    assert run.status() == {"data": {"state": "done"}}
    assert run.read_json("env.json") == {"made": "before"}


@pytest.mark.parametrize("start", [open_run, plan_run])
def test_another_configuration_is_refused_and_changes_nothing(project, start):
    open_run("configs/small.yaml", "seed=1", "mine")
    before = snapshot(project)
    with pytest.raises(UserError, match=r"run 'mine'.*seed: 1 -> 2, train\.max_steps: null -> 3.*delete"):
        start("configs/small.yaml", "seed=2 train.max_steps=3", "mine")
    assert snapshot(project) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("configs/large.yaml",), "undled: small"),
        (("configs/small.yaml", "sed=1"), "did you mean 'seed'"),
        (("configs/small.yaml", "", "../outside"), "--name: expected"),
    ],
)
def test_a_mistake_makes_no_run_folder(project, arguments, message):
    with pytest.raises(UserError, match=message):
        open_run(*arguments)
    assert not (project / "runs").exists()


def test_sizes_that_nobody_reads_are_said_once(project, capsys):
    overrides = ["student.path=my-model", "student.build.hidden_size=48", "student.build.num_layers=5"]
    open_run("configs/small.yaml", overrides, "mine")
    sentence = "note: student.build is not read (hidden_size, num_layers), as student.path is 'my-model', not 'build'"
    assert capsys.readouterr().out.splitlines() == [sentence]
    open_run("configs/small.yaml", overrides, "mine")
    assert capsys.readouterr().out == "", "each notebook opens the run: it is said once"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["student.build.hidden_size=48"], []),
        (["student.path=my-model"], []),
        (["teacher.path=big", "teacher.build.max_steps=5"], ["teacher.build"]),
        (["teachers.members=[{name: a, path: big, build: {max_steps: 5}}]"], ["teachers.members.a.build"]),
        (["teachers.members=[{name: a, build: {max_steps: 5}}]"], []),
    ],
)
def test_only_sizes_beside_a_path_are_unread(project, overrides, named):
    sentences = unread_sizes(load_config("configs/small.yaml", overrides))
    assert [sentence.partition(" is not read (")[0] for sentence in sentences] == named
