"""Rendered folders: parameters, the package that travels, and what is refused before it is pushed."""

import json
import subprocess
import sys

import nbformat
import papermill
import pytest

from kdkit import cli
from kdkit.errors import UserError
from kdkit.workflow.kaggle.needs import install_missing
from kdkit.workflow.kaggle.render import MAX_BYTES, prepare_notebook, render
from kdkit.workflow.kaggle.source import Kernel, Source
from tests.workflow.kaggle.sessions import ROOT

SMOKE = "configs/smoke.yaml"


def render_one(folder, name="03_distill", embed=False, **entry):
    """Render one entry; return its notebook."""
    source = Source(owner="me", notebooks={name: Kernel(**{"config": SMOKE} | entry)})
    render(source, folder, embed=embed)
    return nbformat.read(folder / name / f"{name}.ipynb", as_version=4)


def parameters_of(notebook):
    """Return the values of the cell that sets them."""
    (cell,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    values = {}
    exec(cell.source, values)
    return {name: value for name, value in values.items() if name.isupper()}


def test_parameters_are_set_as_papermill_sets_them(tmp_path):
    overrides = ["cache_dir=cache", "report.title=Two words"]
    notebook = render_one(tmp_path, overrides=overrides, parameters={"MAX_STEPS": 7, "LEARNING_RATE": 1e-3})
    ours = parameters_of(notebook)
    assert ours == {
        "CONFIG": SMOKE,
        "OVERRIDES": "cache_dir=cache 'report.title=Two words'",
        "RUN": "smoke",
        "RESUME": True,
        "MAX_STEPS": 7,
        "LEARNING_RATE": 1e-3,
    }
    path = str(ROOT / "notebooks" / "03_distill.ipynb")
    theirs = papermill.execute_notebook(path, str(tmp_path / "theirs.ipynb"), ours, prepare_only=True)
    assert parameters_of(theirs) == ours
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    place = next(number for number, found in enumerate(tags) if "parameters" in found)
    assert "injected-parameters" in tags[place + 1]


def test_a_setting_that_was_changed_in_a_notebook_does_not_travel(tmp_path, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    text = (ROOT / "notebooks" / "03_distill.ipynb").read_text()
    changed = text.replace("TEMPERATURE: float = None", "TEMPERATURE: float = 2.0").replace(
        "SEED: int = None", "SEED: int = 3"
    )
    (tmp_path / "notebooks" / "03_distill.ipynb").write_text(changed)
    kernel = Kernel(config=SMOKE, parameters={"SEED": 5})
    parameters = parameters_of(prepare_notebook(kernel, "03_distill", tmp_path))
    assert parameters["TEMPERATURE"] is None and parameters["SEED"] == 5
    assert "03_distill.ipynb sets TEMPERATURE: not used here" in capsys.readouterr().out


def test_a_stage_that_judges_gets_the_name_of_the_run_alone(tmp_path):
    notebook = render_one(tmp_path, "04_evaluate", overrides=["cache_dir=cache"])
    assert parameters_of(notebook) == {"RUN": "smoke"}


def test_an_entry_can_be_another_session_of_a_notebook(tmp_path):
    notebook = render_one(tmp_path, "03_again", notebook="03_distill", run="mine")
    assert parameters_of(notebook)["RUN"] == "mine"


def test_no_output_and_nothing_of_this_machine_is_rendered(tmp_path):
    notebook = render_one(tmp_path, "00_quickstart")
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    text = (tmp_path / "00_quickstart" / "00_quickstart.ipynb").read_text()
    assert str(tmp_path) not in text and str(ROOT) not in text
    assert notebook.metadata.kernelspec.name == "python3"


def test_rendering_twice_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b", "a"):
        render_one(tmp_path / folder)
    files = [
        {path.relative_to(tmp_path / folder): path.read_bytes() for path in (tmp_path / folder).rglob("*.ipynb")}
        for folder in "ab"
    ]
    assert files[0] == files[1] and len(files[0]) > 10


def test_the_package_that_travels_is_all_that_the_notebooks_need(tmp_path):
    render_one(tmp_path)
    assert not list((tmp_path / "package").rglob("__pycache__"))
    code = "from kdkit.runs.paths import find_root; from kdkit.cli import main; print(find_root())"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "package", env={"PATH": ""}, capture_output=True, text=True
    )
    assert process.stdout.strip() == str((tmp_path / "package").resolve()), process.stderr
    values = json.loads((tmp_path / "package" / "dataset-metadata.json").read_text())
    assert values == {"id": "me/kdkit-package", "title": "kdkit package", "licenses": [{"name": "other"}]}


def test_an_embedded_package_is_unpacked_by_the_notebook(tmp_path, monkeypatch):
    notebook = render_one(tmp_path, embed=True)
    assert not (tmp_path / "package").exists()
    metadata = json.loads((tmp_path / "03_distill" / "kernel-metadata.json").read_text())
    assert metadata["dataset_sources"] == []
    assert (tmp_path / "03_distill" / "03_distill.ipynb").stat().st_size < MAX_BYTES
    first, found = [cell.source for cell in notebook.cells if cell.cell_type == "code"][:2]
    code = f"{first}\n{found}\nfrom kdkit.runs.paths import find_config\nprint(find_config('smoke'))"
    (tmp_path / "scratch").mkdir()
    environment = {"PATH": "", "TMPDIR": str(tmp_path / "scratch")}
    process = subprocess.run(
        [sys.executable, "-"], input=code, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    (place,) = (tmp_path / "scratch").glob("kdkit-*")
    assert process.stdout.strip() == str(place / "configs" / "smoke.yaml"), process.stderr


def test_with_internet_what_the_image_lacks_is_installed_first(tmp_path):
    sources = [
        [cell.source for cell in render_one(tmp_path / str(has), enable_internet=has).cells if cell.cell_type == "code"]
        for has in (True, False)
    ]
    assert "install_missing()" in sources[0][1] and "install_missing()" not in "".join(sources[1])


def test_only_what_is_not_there_is_installed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    file = tmp_path / "requirements.txt"
    file.write_text("# a comment\ntorch>=99\nnbval>=99\nno-such-package[extra]>=1,<2\n\n")
    assert install_missing(file) == ["no-such-package[extra]>=1,<2"]
    assert [command[-1] for command in asked] == ["no-such-package[extra]>=1,<2"], "torch stays as it is, however old"
    assert install_missing(tmp_path / "none.txt") == []


BAD = {
    "a notebook that is none": ({"name": "03_distil"}, "got '03_distil'; did you mean '03_distill'?"),
    "a parameter that is none": ({"parameters": {"MAX_STEP": 1}}, "got 'MAX_STEP'; did you mean 'MAX_STEPS'?"),
    "a configuration that is none": ({"config": "configs/smok.yaml"}, "did you mean 'configs/smoke.yaml'?"),
    "a configuration that does not travel": ({"config": "/etc/hostname"}, "expected a file of"),
    "a setting that is none": ({"overrides": ["train.max_step=1"]}, "train.max_step"),
    "two processes for a language model": ({"num_processes": 2}, "num_processes: expected 1 but for notebook 06"),
    "a run that is a path": ({"run": "../r"}, "got '../r'"),
}


@pytest.mark.parametrize("what", BAD)
def test_it_refuses(what, tmp_path):
    changes, words = BAD[what]
    with pytest.raises(UserError) as refusal:
        render_one(tmp_path, **changes)
    assert words in str(refusal.value) and not list(tmp_path.rglob("*.ipynb"))


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "thesis.tex").touch()
    with pytest.raises(UserError, match="expected an empty folder or an earlier package"):
        render_one(tmp_path)
    assert (tmp_path / "package" / "thesis.tex").exists()


def test_the_command_prints_the_folders_in_the_order_of_pushing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["kaggle", "render", "02", "01", "--owner", "me", "--to", str(tmp_path)])
    assert stop.value.code == 0
    names = [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]
    assert names == ["package", "01_data", "02_teacher_probe"]
