import json
import os
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from kdkit.errors import UserError
from kdkit.runs.folder import (
    Run,
    cached_folder,
    check_run_name,
    default_run_name,
    describe_environment,
    fingerprint,
    fingerprint_files,
    is_watched,
    link_folder,
    write_text,
)
from kdkit.runs.paths import find_config, find_root, resolve_input, resolve_output


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "runs" / "first"
    path.mkdir(parents=True)
    return Run(path, tmp_path / "cache")


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a", "smoke-lr=0.1_b.2", "9" * 100])
def test_a_plain_run_name_is_taken(name):
    assert check_run_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/a", "a\\b", "two words", "-p", "a\n", "9" * 101])
def test_a_run_name_that_no_folder_can_have_is_refused(name):
    with pytest.raises(UserError, match="--name: expected letters"):
        check_run_name(name)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "smoke"),
        (["distill.temperature=2", "seed=1"], "smoke-temperature=2-seed=1"),
        (["teacher.path=/models/big/gpt2"], "smoke-gpt2"),
        (["report.title=two words"], "smoke-title=two_words"),
    ],
)
def test_a_run_is_named_after_its_file_and_overrides(overrides, name):
    assert default_run_name("configs/smoke.yaml", overrides) == name
    assert check_run_name(name) == name


def test_a_default_run_name_is_never_too_long():
    assert check_run_name(default_run_name("smoke.yaml", [f"report.title={'x' * 300}"]))


def test_written_text_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "note.txt"
    write_text(path, "old")
    assert write_text(path, "caf\u00e9") == path
    assert contents(tmp_path) == {"deep/note.txt": "caf\u00e9".encode()}


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "note.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "note.txt", "\ud800")
    assert contents(tmp_path) == {"note.txt": b"old"}


def test_metrics_are_read_in_the_order_in_which_they_were_appended(run):
    assert run.read_metrics() == []
    lines = [{"phase": "student", "step": 1, "loss": 2.5}, {"phase": "teacher", "step": 1, "note": "caf\u00e9"}]
    for line in lines:
        run.append_metrics(line)
    assert run.read_metrics() == lines


def test_dropping_metrics_removes_one_phase_past_a_step(run):
    for phase, step in [("student", 1), ("student", 2), ("baseline", 2), ("student", 3)]:
        run.append_metrics({"phase": phase, "step": step})
    run.drop_metrics("student", after_step=1)
    assert [(m["phase"], m["step"]) for m in run.read_metrics()] == [("student", 1), ("baseline", 2)]
    run.drop_metrics("student")
    assert [m["phase"] for m in run.read_metrics()] == ["baseline"]


def test_a_status_replaces_only_its_own_stage(run):
    assert run.status() == {}
    run.set_status("data", state="running", message="reading")
    run.set_status("teacher", state="done", seconds=2.0)
    run.set_status("data", state="done")
    assert run.status() == {"data": {"state": "done"}, "teacher": {"state": "done", "seconds": 2.0}}


def test_json_written_to_a_run_is_read_back(run):
    values = {"perplexity": 3.5, "text": "\u4e2d\U0001f600"}
    assert json.loads(run.write_json("evaluation.json", values).read_text(encoding="utf-8")) == values
    assert run.read_json("evaluation.json") == values


def test_a_missing_file_of_a_run_names_the_command_that_makes_it(run):
    with pytest.raises(UserError, match=r"run 'first': expected evaluation\.json.*--name first"):
        run.read_json("evaluation.json")


@pytest.mark.parametrize("content", [b"", b'{"state": "runn', b"\0" * 40, b"[]"])
def test_a_damaged_file_of_a_run_is_named_and_a_damaged_status_begins_anew(run, capsys, content):
    """A machine that was lost can leave files empty, or full of zeros, that were written whole."""
    (run.path / "evaluation.json").write_bytes(content)
    with pytest.raises(UserError, match=r"evaluation\.json: expected a JSON object.*remove it, then .*--resume"):
        run.read_json("evaluation.json")
    (run.path / "status.json").write_bytes(content)
    assert (run.status(), run.progress()) == ({}, {})
    run.set_progress("running")
    assert "status.json: damaged" in capsys.readouterr().out and run.progress()["state"] == "running"


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})


@pytest.mark.parametrize("other", [("a", 2), (1, "a"), ("a", 1, None), ("a1",), (["a", 1],), ("a", "1")])
def test_a_fingerprint_depends_on_every_part(other):
    assert fingerprint("a", 1) != fingerprint(*other)


def test_a_folders_fingerprint_depends_on_contents_and_names(tmp_path):
    prints = []
    for name, files in enumerate([{"a": "x"}, {"a": "y"}, {"b": "x"}, {"a": "x", "b": ""}, {"sub/a": "x"}]):
        for file, text in files.items():
            write_text(tmp_path / str(name) / file, text)
        prints.append(fingerprint_files(tmp_path / str(name)))
    assert len(set(prints)) == len(prints)


def test_equal_folders_have_equal_fingerprints(tmp_path):
    for name, order in (("first", "ab"), ("second", "ba")):
        for file in order:
            write_text(tmp_path / name / file, file)
    assert fingerprint_files(tmp_path / "first") == fingerprint_files(tmp_path / "second")


def test_a_cached_folder_is_built_once(tmp_path):
    folder = cached_folder(tmp_path, "key", lambda path: (path / "a").touch())
    assert folder == tmp_path / "key"
    assert cached_folder(tmp_path, "key", lambda path: pytest.fail("built again")) == folder
    assert contents(tmp_path) == {"key/a": b"", "key/key": b""}


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing(tmp_path, error):
    def build(path):
        (path / "half").touch()
        raise error

    with pytest.raises(error):
        cached_folder(tmp_path / "cache", "key", build)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_build_that_another_process_finished_first_is_dropped(tmp_path):
    def build(path):
        (path / "mine").touch()
        write_text(tmp_path / "key" / "theirs", "")

    folder = cached_folder(tmp_path, "key", build)
    assert contents(tmp_path) == {"key/theirs": b""}
    assert folder == tmp_path / "key"


def test_a_linked_folder_holds_the_same_files_and_no_older_ones(tmp_path):
    write_text(tmp_path / "source" / "deep" / "a.txt", "new")
    write_text(tmp_path / "target" / "old.txt", "old")
    link_folder(tmp_path / "source", tmp_path / "target")
    assert contents(tmp_path / "target") == contents(tmp_path / "source") == {"deep/a.txt": b"new"}


def test_a_folder_is_copied_where_links_are_not_possible(tmp_path, monkeypatch):
    def refuse(src, dst):
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    write_text(tmp_path / "source" / "a.txt", "new")
    link_folder(tmp_path / "source", tmp_path / "target")
    assert contents(tmp_path / "target") == {"a.txt": b"new"}


def test_linking_that_is_interrupted_leaves_no_target(tmp_path, monkeypatch):
    calls = []

    def link_once(src, dst):
        calls.append(src)
        if len(calls) == 2:
            raise KeyboardInterrupt
        Path(dst).write_bytes(Path(src).read_bytes())

    monkeypatch.setattr(os, "link", link_once)
    for name in "abc":
        write_text(tmp_path / "source" / name, name)
    with pytest.raises(KeyboardInterrupt):
        link_folder(tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_the_project_is_found_from_a_folder_inside_it(tmp_path):
    write_text(tmp_path / "notebooks" / "01_data.ipynb", "{}")
    (tmp_path / "configs").mkdir()
    assert find_root(tmp_path / "notebooks") == tmp_path


def test_a_project_that_is_nowhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("kdkit.runs.paths.__file__", str(tmp_path / "kdkit" / "runs" / "paths.py"))
    monkeypatch.setattr("sysconfig.get_path", lambda *scheme: str(tmp_path))
    with pytest.raises(UserError, match="project: expected a folder with notebooks/ and configs/"):
        find_root(tmp_path)


def test_output_lies_in_the_project_around_the_current_folder_else_here_unless_it_is_absolute(tmp_path, monkeypatch):
    inside, outside = tmp_path / "project" / "notebooks", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert resolve_output("runs", inside.parent) == inside.parent / "runs"
    assert resolve_output(tmp_path / "elsewhere", inside.parent) == tmp_path / "elsewhere"
    monkeypatch.chdir(outside)
    assert resolve_output("runs", inside.parent) == outside / "runs"


def test_a_configuration_is_found_by_path_or_by_the_name_of_a_bundled_one(tmp_path, monkeypatch):
    for name in ("notebooks/01_data.ipynb", "configs/small.yaml", "mine.yaml"):
        write_text(tmp_path / name, "{}")
    monkeypatch.chdir(tmp_path)
    bundled = tmp_path / "configs" / "small.yaml"
    assert find_config("mine.yaml") == Path("mine.yaml")
    assert {find_config(name).resolve() for name in ("small", "small.yaml", "configs/small.yaml")} == {bundled}
    for name in ("smal", "elsewhere/small.yaml", ""):
        with pytest.raises(UserError, match=r"config: expected a YAML file, got .*[bB]undled: small"):
            find_config(name)


def test_output_of_a_read_only_project_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert resolve_output("runs", Path("project")) == tmp_path / "runs"


def test_a_relative_input_lies_here_or_else_in_the_project(tmp_path, monkeypatch):
    for name in ("notebooks/01_data.ipynb", "configs/a.yaml", "notebooks/here.txt", "both.txt", "notebooks/both.txt"):
        write_text(tmp_path / name, "{}")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert resolve_input("here.txt") == Path("here.txt")
    assert resolve_input("both.txt") == Path("both.txt")
    assert resolve_input("configs/a.yaml") == tmp_path / "configs" / "a.yaml"
    assert resolve_input("nowhere.txt") == Path("nowhere.txt")


def test_the_environment_names_the_versions_that_matter():
    versions = describe_environment()["packages"]
    assert {"torch", "transformers", "tokenizers", "datasets"} <= versions.keys()


def test_nobody_watches_a_test():
    assert is_watched() is False


def test_voila_shows_its_widgets_to_a_person_though_it_asks_nobody():
    manager, client = start_new_kernel(kernel_name="python3", env=os.environ | {"VOILA_BASE_URL": "/"})
    try:
        code = "from kdkit.runs.folder import is_watched; assert is_watched()"
        answer = client.execute_interactive(code, allow_stdin=False, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert answer["content"]["status"] == "ok"
