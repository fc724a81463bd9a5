"""A run of an earlier session: found in either shape of mount, copied whole, taken from the furthest session."""

import json
import os
import shutil
from pathlib import Path

import pytest

from kdkit.errors import UserError
from kdkit.runs import carried
from kdkit.runs.carried import carry_over
from kdkit.runs.open_run import open_run
from kdkit.runs.trained_run import open_trained_run

SHAPES = ["kdkit-03", "datasets/me/kdkit-03", "datasets/me/kdkit-03/versions"]


@pytest.fixture
def kaggle(tmp_path):
    """Make a folder as /kaggle is."""
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    (tmp_path / "kaggle" / "input").mkdir()
    return tmp_path / "kaggle"


def leave(kaggle, place, name="r", sessions=0, cache_dir=".cache", text="a"):
    """Write what a session leaves: a run, a cache of a teacher and one of answers."""
    output = kaggle / "input" / place
    run = output / "runs" / name
    (run / "student").mkdir(parents=True)
    (run / "config.yaml").write_text(f"cache_dir: {cache_dir}\n")
    (run / "student" / "weights").write_text(text)
    if sessions:
        (run / "carried.json").write_text(json.dumps({"sessions": sessions}))
    (output / cache_dir / "teachers" / "key").mkdir(parents=True)
    (output / cache_dir / "teachers" / "key" / "weights").write_text("teacher")
    (output / cache_dir / "teachers" / ".key.lock").write_text("1")
    (output / cache_dir / "answers").mkdir()
    (output / cache_dir / "answers" / "key.h5").write_text("answers")
    return run


def make_read_only(folder):
    """Take away every right to write, as a read-only mount does."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("place", SHAPES)
@pytest.mark.parametrize("cache_dir", [".cache", "cache"])
def test_the_run_and_its_caches_come_and_can_be_written(kaggle, place, cache_dir):
    source = leave(kaggle, place, cache_dir=cache_dir)
    make_read_only(kaggle / "input")
    runs = kaggle / "working" / "runs"
    assert carry_over(runs, "r", kaggle) == [runs / "r"]
    for path in (runs / "r", *(runs / "r").rglob("*")):
        assert path.stat().st_mode & 0o200, path
    assert (runs / "r" / "student" / "weights").stat().st_mtime == (source / "student" / "weights").stat().st_mtime
    cache = kaggle / "working" / cache_dir
    files = [path.relative_to(cache).as_posix() for path in sorted(cache.rglob("*")) if path.is_file()]
    assert files == ["answers/key.h5", "teachers/key/weights"], "a lock of an ended session is left"
    assert json.loads((runs / "r" / "carried.json").read_text()) == {"sessions": 1, "from": str(source)}


def test_a_run_that_is_here_is_left_alone(kaggle):
    leave(kaggle, "kdkit-03")
    runs = kaggle / "working" / "runs"
    carry_over(runs, "r", kaggle)
    (runs / "r" / "student" / "weights").write_text("trained on")
    assert carry_over(runs, "r", kaggle) == []
    assert (runs / "r" / "student" / "weights").read_text() == "trained on"


def test_the_furthest_session_is_taken_whatever_the_times_of_its_files(kaggle):
    leave(kaggle, "kdkit-02", sessions=1, text="probed")
    further = leave(kaggle, "kdkit-03", sessions=2, text="trained")
    os.utime(further / "student" / "weights", (0, 0))
    runs = kaggle / "working" / "runs"
    carry_over(runs, "r", kaggle)
    assert (runs / "r" / "student" / "weights").read_text() == "trained"
    assert json.loads((runs / "r" / "carried.json").read_text())["sessions"] == 3


def test_two_that_are_equally_far_are_refused(kaggle):
    leave(kaggle, "kdkit-02"), leave(kaggle, "datasets/me/kdkit-02")
    with pytest.raises(UserError, match=r"got two after as many sessions: .*; detach one of them"):
        carry_over(kaggle / "working" / "runs", "r", kaggle)


def test_one_folder_that_is_mounted_in_both_shapes_is_one(kaggle):
    leave(kaggle, "kdkit-02")
    (kaggle / "input" / "datasets" / "me").mkdir(parents=True)
    (kaggle / "input" / "datasets" / "me" / "kdkit-02").symlink_to(kaggle / "input" / "kdkit-02")
    assert len(carry_over(kaggle / "working" / "runs", "r", kaggle)) == 1


def test_without_a_name_all_runs_come(kaggle):
    leave(kaggle, "a", "first"), leave(kaggle, "b", "second")
    runs = kaggle / "working" / "runs"
    assert carry_over(runs, "", kaggle) == [runs / "first", runs / "second"]


def test_nothing_happens_elsewhere(kaggle, tmp_path):
    leave(kaggle, "kdkit-03")
    assert carry_over(tmp_path / "runs", "r", kaggle) == []
    assert carry_over(kaggle / "working" / "runs", "other", kaggle) == []
    shutil.rmtree(kaggle / "input")
    assert carry_over(kaggle / "working" / "runs", "r", kaggle) == []


def test_a_disk_that_is_too_small_is_said_before_anything_is_copied(kaggle, monkeypatch):
    leave(kaggle, "kdkit-03")
    usage = shutil.disk_usage(kaggle)
    monkeypatch.setattr(carried.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(UserError, match=r"expected 0\.0 GB in .* got 0\.0 GB; remove files there"):
        carry_over(kaggle / "working" / "runs", "r", kaggle)
    assert list((kaggle / "working").iterdir()) == []


def test_a_copy_that_is_interrupted_leaves_nothing_that_looks_like_a_run(kaggle, monkeypatch):
    leave(kaggle, "kdkit-03")
    copytree = shutil.copytree

    def stop(source, target, *rest):
        copytree(source, target, *rest)
        if Path(target).parent.name == "runs":
            raise KeyboardInterrupt

    monkeypatch.setattr(carried.shutil, "copytree", stop)
    runs = kaggle / "working" / "runs"
    with pytest.raises(KeyboardInterrupt):
        carry_over(runs, "r", kaggle)
    assert list(runs.iterdir()) == []
    monkeypatch.undo()
    assert carry_over(runs, "r", kaggle) == [runs / "r"]


@pytest.fixture
def session(kaggle, monkeypatch):
    """Take this folder for /kaggle, and work in it."""
    monkeypatch.setattr(carried.carry_over, "__defaults__", ("", kaggle))
    monkeypatch.chdir(kaggle / "working")
    return kaggle


def open_in_an_earlier_session(kaggle, *overrides):
    """Open the smoke run, and attach what it left to the next session."""
    _, run = open_run("configs/smoke.yaml", list(overrides))
    run.write_json("training.json", {})
    (run.path / "student").mkdir()
    (run.path / "student" / "config.json").write_text("{}")
    (kaggle / "working" / "runs").rename(kaggle / "input" / "runs")
    (kaggle / "input" / "kdkit-03").mkdir()
    (kaggle / "input" / "runs").rename(kaggle / "input" / "kdkit-03" / "runs")


def test_open_run_goes_on_with_it(session):
    open_in_an_earlier_session(session)
    _, run = open_run("configs/smoke.yaml")
    assert run.path == session / "working" / "runs" / "smoke" and (run.path / "training.json").is_file()


def test_open_run_checks_it_against_the_configuration(session):
    open_in_an_earlier_session(session)
    with pytest.raises(UserError, match=r"expected the configuration it was made with, got another \(train\.max_steps"):
        open_run("configs/smoke.yaml", ["train.max_steps=13"], "smoke")


@pytest.mark.parametrize("name", ["smoke", ""])
def test_a_trained_run_is_opened_by_name_or_as_the_last(session, name):
    open_in_an_earlier_session(session)
    _, run = open_trained_run(name)
    assert run.path == session / "working" / "runs" / "smoke"
