"""The files that decide a sweep's figures are found by their imports."""

import ast
import shutil
from pathlib import Path

import pytest

from kdkit.runs.disk import write_text
from kdkit.workflow.code import code_files, fingerprint_code
from kdkit.workflow.several import trial
from kdkit.workflow.several.trial import TRAINING

PACKAGE = Path(trial.__file__).parents[2]
DECIDING = [
    "alignment/tokenizers.py",
    "config/language.py",
    "data/windows.py",
    "distill/train.py",
    "losses/divergences.py",
    "models/loading.py",
    "runs/folder.py",
    "runs/store.py",
    "teachers/cache.py",
    "training/trainer.py",
]


def names(files, package=PACKAGE):
    return [file.relative_to(package).as_posix() for file in files]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package whose files may be changed, if they are put back."""
    folder = tmp_path_factory.mktemp("code") / "kdkit"
    return Path(shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def unchanged(package):
    """Its fingerprint."""
    found = fingerprint_code(TRAINING, package)
    assert found == fingerprint_code(TRAINING, PACKAGE)
    return found


@pytest.fixture
def changed(package):
    """Return a call that changes a file of the copy and gives its fingerprint; the file is put back."""
    before = {}

    def change(name):
        before[package / name] = (package / name).read_bytes()
        with (package / name).open("a") as stream:
            stream.write("# changed\n")
        return fingerprint_code(TRAINING, package)

    yield change
    for file, content in before.items():
        file.write_bytes(content)


def small(folder, files):
    """Write a package of small modules."""
    for name, text in files.items():
        write_text(folder / "kdkit" / name, text)
    return folder / "kdkit"


def test_the_code_that_trains_is_found():
    assert set(DECIDING) <= set(names(code_files(TRAINING, PACKAGE)))


def test_pages_pictures_and_embeddings_do_not_decide():
    rooms = {name.partition("/")[0] for name in names(code_files(TRAINING, PACKAGE))}
    assert rooms.isdisjoint({"embeddings", "report", "evaluate", "workflow", "cli"})


def test_all_that_a_training_calls_is_an_entry_point():
    tree = ast.parse(Path(trial.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("kdkit.")
        for alias in node.names
    }
    training = ("_train_language", "_share_baseline", "_share_teacher_level", "_score_student")
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in training]
    assert len(functions) == len(training)
    calls = [node.func for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)]
    called = {imported[func.id] for func in calls if isinstance(func, ast.Name) and func.id in imported}
    # these open, write down, wait and compare; they make no figure
    beside = {"kdkit.machine.open_session", "kdkit.runs.folder", "kdkit.runs.disk", "kdkit.evaluate.sweeps.comparison"}
    assert called - beside == set(TRAINING)


@pytest.mark.parametrize("file", DECIDING)
def test_a_change_of_deciding_code_changes_the_fingerprint(changed, unchanged, file):
    assert changed(file) != unchanged


@pytest.mark.parametrize(
    "file", ["report/page.py", "embeddings/training/train.py", "workflow/several/sweep.py", "cli/app.py"]
)
def test_a_change_of_other_code_keeps_the_fingerprint(changed, unchanged, file):
    assert changed(file) == unchanged


def test_imports_inside_functions_and_of_whole_modules_are_followed(tmp_path):
    files = {
        "a.py": "import json\nimport kdkit.b\n",
        "b.py": "def f():\n    from kdkit.room import c\n",
        "room/__init__.py": "from kdkit.room.d import X\n",
        "room/c.py": "",
        "room/d.py": "X = 1\n",
        "other.py": "",
    }
    package = small(tmp_path, files)
    assert names(code_files(("kdkit.a",), package), package) == ["a.py", "b.py", "room/c.py"]


def test_a_name_of_a_room_leads_through_its_door(tmp_path):
    door = {"room/__init__.py": "from kdkit.room.d import X\n", "room/d.py": "X = 1\n"}
    package = small(tmp_path, {"a.py": "from kdkit.room import X\n"} | door)
    assert names(code_files(("kdkit.a",), package), package) == ["a.py", "room/__init__.py", "room/d.py"]


def test_modules_that_import_each_other_are_read_once(tmp_path):
    package = small(tmp_path, {"a.py": "import kdkit.b\n", "b.py": "import kdkit.a\n"})
    assert names(code_files(("kdkit.b",), package), package) == ["a.py", "b.py"]


def test_an_entry_point_that_is_gone_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"kdkit\.gone"):
        code_files(("kdkit.gone",), small(tmp_path, {"a.py": ""}))
