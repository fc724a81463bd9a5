"""Every bad input of the table is exit code 2 and its line before a notebook, and makes no run; the page shows it."""

import io
import shlex

import pytest

from docs.make_bad_input import PAGE, make_page
from kdkit import cli
from kdkit.cli.app import app
from kdkit.machine.hardware import CudaFacts
from kdkit.workflow import pipeline
from tests.bad_inputs import fits, read_table, write_files

TABLE = read_table()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make the folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("bad").resolve()
    write_files(folder)
    return folder


def files_in(place):
    """Return the files that are there, prepared text apart."""
    return {file for file in place.rglob("*") if file.is_file() and ".cache" not in file.parts}


@pytest.mark.parametrize(("command", "answer"), TABLE, ids=[command for command, _ in TABLE])
def test_a_bad_input_is_answered_in_the_line_of_the_table(place, monkeypatch, capsys, command, answer):
    def refuse(*arguments):
        raise AssertionError("a notebook was started")

    before = files_in(place)
    monkeypatch.chdir(place)
    monkeypatch.setattr(pipeline, "run_notebook", refuse)
    monkeypatch.setattr("kdkit.machine.hardware.read_cuda", CudaFacts)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(command))
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1 and said.endswith("\n")
    said = said.removesuffix("\n").removeprefix("kdkit: ").replace(str(place), "FOLDER")
    assert fits(answer, said), said
    if not command.startswith("sample "):  # it must read the text, which is prepared in its run
        assert files_in(place) == before


def test_the_table_has_every_command_and_no_input_twice():
    commands = [command for command, _ in TABLE]
    assert len(set(commands)) == len(commands) >= 60
    apps = [app, *(group.typer_instance for group in app.registered_groups)]
    verbs = {verb.name or verb.callback.__name__ for each in apps for verb in each.registered_commands}
    assert (
        len(verbs) > 15 and {verb for verb in verbs if not any(verb in line.split()[:2] for line in commands)} == set()
    )


def test_the_page_is_what_the_table_says():
    assert PAGE.read_text(encoding="utf-8") == make_page()
