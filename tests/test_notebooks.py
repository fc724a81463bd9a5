"""The notebooks keep their grammar, and run by themselves from a plain clone."""

import ast
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import papermill
import pytest

from docs.make_quickstart import inputs_fingerprint
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config, load_config
from kdkit.config.values import flatten
from tests.tiny import write_corpus

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
STORY = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report"]
KEPT = "keep_output"
COMPARED = "nbval-check-output"
QUICKSTART = "00_quickstart"
EMBEDDINGS = "06_embedding_distillation"
SEVERAL = "07_many_teachers"
MINI = "08_tokenizer_and_minillm"
MATHS = "09_maths"
JUDGING = ("04_evaluate", "05_report")
TYPES = ("str", "bool", "int", "float")
PLACES = ["OVERRIDES", "RUN", "RUNS_DIR"]
TURNED = ["LEARNING_RATE", "MAX_STEPS", "SEED"]
PARAMETERS = {
    "01_data": ["CONFIG", "DATA", *PLACES],
    "02_teacher_probe": ["CONFIG", "DATA", "TEACHER", *PLACES],
    "03_distill": [
        *("CONFIG", "DATA", "TEACHER", "STUDENT", "LOSS", "TEMPERATURE", "KD_RATIO"),
        *(*TURNED, *PLACES, "RESUME"),
    ],
    "04_evaluate": ["RUN", "OVERRIDES", "RUNS_DIR"],
    "05_report": ["RUN", "COMPARE", "OVERRIDES", "RUNS_DIR"],
    QUICKSTART: ["CONFIG", "TEMPERATURE", "RUNS_DIR"],
    EMBEDDINGS: ["CONFIG", "DATA", "TEACHER", "METHOD", *TURNED, *PLACES, "RESUME"],
    SEVERAL: ["CONFIG", "COMBINE", "MAX_STEPS", "SEED", *PLACES, "RESUME"],
    MINI: ["CONFIG", "TEXT", "TEXTS", "TOKENIZERS", "MAX_STEPS", "SEED", *PLACES, "RESUME"],
    MATHS: ["CONFIG", "PROBLEM", "SAMPLES", "MAX_STEPS", "SEED", *PLACES, "RESUME"],
}
"""Names of every notebook's parameters, in order."""

PAGES = {
    "01_data": "tokenizers",
    "02_teacher_probe": "router",
    "03_distill": "losses",
    "04_evaluate": "results",
    "05_report": "notebooks",
    EMBEDDINGS: "embeddings",
    SEVERAL: "many_teachers",
    MINI: "tokenizers",
    MATHS: "maths",
    QUICKSTART: "quickstart",
}
"""The page of docs/ that each notebook belongs to."""

MAX_CODE_CELLS = 15
MAX_CODE_LINES = 120
MAX_CELL_LINES = 20
BLOCKS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.AsyncFor, ast.While, ast.Lambda)

every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def read(name):
    """Return a notebook."""
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def code_cells(name):
    """Return the code cells of a notebook."""
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def is_read(node):
    """Return whether a name is used here, not set."""
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def tags(cell):
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def parameters_cell(name):
    """Return the source of the cell that papermill fills in."""
    return next(cell.source for cell in code_cells(name) if "parameters" in tags(cell))


def test_the_story_is_complete():
    assert set(STORY) <= set(NOTEBOOKS)


@every_notebook
def test_it_is_a_valid_python3_notebook(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_the_first_cell_says_what_it_takes_writes_and_how_long(name):
    first = read(name).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {name[:2]} ")
    for word in ("**Takes** ", "**Writes** ", "**Time** "):
        assert word in first.source


@every_notebook
def test_the_first_cell_links_to_its_page_and_names_one_thing_to_change(name):
    first = read(name).cells[0].source
    assert f"](../docs/{PAGES[name]}.md)" in first
    (changed,) = re.findall(r"\*\*Change one thing\*\*: set `([A-Z_]+) = ", first)
    assert changed in PARAMETERS[name]


@every_notebook
def test_every_section_has_a_heading_and_asks_one_question(name):
    cells = read(name).cells
    for place, cell in enumerate(cells[1:], start=1):
        if cell.cell_type == "code":
            continue
        if cell.source.startswith("## "):
            heading, question, *_ = [line for line in cell.source.splitlines() if line]
            assert "?" not in heading and question.endswith("?"), cell.source
        elif not cell.source.startswith("Next: "):
            assert cell.source.startswith("**What to see**: "), cell.source
            assert cells[place - 1].cell_type == "code"


@every_notebook
def test_every_display_says_what_to_see(name):
    own = "show_(picture|experts|next_tokens|playground|runs|tokens|surprise)"
    display = re.compile(rf"^({own}|HTML|Markdown)\(", re.MULTILINE)
    for cell, following in pairwise(read(name).cells):
        if cell.cell_type == "code" and display.search(cell.source):
            assert following.source.startswith("**What to see**: "), cell.source


@every_notebook
def test_formulas_survive_markdown(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            formulas = re.findall(r"\$\$(.+?)\$\$", cell.source, re.DOTALL)
            rest = re.sub(r"\$\$(.+?)\$\$", "", cell.source, flags=re.DOTALL)
            formulas += re.findall(r"\$(.+?)\$", rest)
            assert rest.count("$") % 2 == 0 and "$$" not in rest, cell.source
            for formula in formulas:
                assert formula.count("{") == formula.count("}"), formula
                assert formula.count(r"\left") == formula.count(r"\right"), formula
                assert not re.search(r"\\[^a-zA-Z]|[<>]", formula), formula  # Markdown would take it for its own


@every_notebook
def test_links_lead_to_files(name):
    for cell in read(name).cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert target.startswith("http") or (ROOT / "notebooks" / target).is_file(), target


@every_notebook
def test_exactly_one_cell_is_tagged_parameters(name):
    assert sum("parameters" in tags(cell) for cell in code_cells(name)) == 1


@every_notebook
def test_parameters_are_annotated_literals(name):
    for node in ast.parse(parameters_cell(name)).body:
        assert isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant), ast.unparse(node)
        # None: as in the configuration
        assert node.value.value is None or type(node.value.value).__name__ == ast.unparse(node.annotation)


@every_notebook
def test_papermill_sees_every_parameter_with_type_and_help(name):
    seen = papermill.inspect_notebook(str(NOTEBOOKS[name]))
    assert list(seen) == [node.target.id for node in ast.parse(parameters_cell(name)).body]
    assert all(entry["inferred_type_name"] in TYPES and entry["help"] for entry in seen.values())


@every_notebook
def test_a_parameter_is_the_same_line_wherever_it_stands(name):
    lines, story = parameters_cell(name).splitlines(), parameters_cell("03_distill").splitlines()
    names = [line.partition(":")[0] for line in lines]
    assert names == PARAMETERS[name]
    if name in STORY and name not in JUDGING:
        assert [line for line in lines if line not in story] == []


@every_notebook
def test_every_parameter_is_used(name):
    used = {node.id for cell in code_cells(name) for node in ast.walk(ast.parse(cell.source)) if is_read(node)}
    assert set(PARAMETERS[name]) <= used


@pytest.mark.parametrize("name", ["01_data", "02_teacher_probe", "03_distill", EMBEDDINGS, SEVERAL, MINI, MATHS])
def test_parameters_lead_to_settings_that_exist(name):
    settings = {}
    for cell in code_cells(name):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                settings |= {value.id: key.value for key, value in pairs if isinstance(value, ast.Name)}
    known = {**flatten(Config().model_dump()), **flatten(EmbeddingConfig().model_dump())}
    of_the_notebook = {"CONFIG", "OVERRIDES", "RUN", "RUNS_DIR", "RESUME", "TEXT", "TEXTS", "TOKENIZERS", "PROBLEM"}
    assert set(settings) == set(PARAMETERS[name]) - of_the_notebook
    assert [key for key in settings.values() if key not in known and key not in ("distill.loss", "method")] == []


@pytest.mark.parametrize("name", ["01_data", "02_teacher_probe", "03_distill"])
def test_the_default_configuration_is_the_quick_demo(name):
    default = papermill.inspect_notebook(str(NOTEBOOKS[name]))["CONFIG"]["default"]
    assert default == '"configs/quick.yaml"'
    load_config(ROOT / ast.literal_eval(default))


@every_notebook
def test_the_last_cell_that_runs_shows_a_result(name):
    last = code_cells(name)[-1].source
    assert re.search(r"^show_(table|picture|report|comparison|playground)\(", last, re.MULTILINE)


@every_notebook
def test_the_bootstrap_cell_is_the_same_in_all(name):
    assert code_cells(name)[0].source == code_cells("01_data")[0].source


def test_the_bootstrap_cell_is_short():
    source = code_cells("01_data")[0].source
    assert len(ast.parse(source).body) <= 5
    assert [line for line in source.splitlines() if "#" in line] == [source.splitlines()[0]]


@every_notebook
def test_it_is_short(name):
    lines = [len(cell.source.splitlines()) for cell in code_cells(name)]
    assert len(lines) <= MAX_CODE_CELLS
    assert sum(lines) <= MAX_CODE_LINES
    assert max(lines) <= MAX_CELL_LINES


@every_notebook
def test_no_cell_defines_or_loops(name):
    for cell in code_cells(name):
        assert [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, BLOCKS)] == []


def test_the_quickstart_keeps_the_outputs_of_its_own_cells_and_configuration():
    notebook = read(QUICKSTART)
    made_from = notebook.metadata.get("made_from")
    assert made_from == inputs_fingerprint(notebook), "its cells or configs/quick.yaml have changed: make quickstart"
    shown = [output for cell in code_cells(QUICKSTART) for output in cell.outputs]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds and not [output for output in shown if output.output_type == "error"]
    assert NOTEBOOKS[QUICKSTART].stat().st_size < 600_000


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != QUICKSTART])
def test_only_kept_cells_have_outputs(name):
    for cell in code_cells(name):
        if KEPT in tags(cell):
            assert cell.outputs and cell.execution_count is not None, cell.source
        else:
            assert not cell.outputs and cell.execution_count is None, cell.source


@every_notebook
def test_nbval_compares_a_kept_output(name):
    compared = [cell for cell in code_cells(name) if COMPARED in tags(cell)]
    assert compared and all(KEPT in tags(cell) for cell in compared)


@pytest.fixture
def bootstrap(monkeypatch):
    """Run the bootstrap cell with a made-up Kaggle input folder; return what it put on the path."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(here, kaggle_input):
        source = code_cells("01_data")[0].source
        assert '"/kaggle/input"' in source
        monkeypatch.chdir(here)
        before = list(sys.path)
        exec(source.replace('"/kaggle/input"', repr(str(kaggle_input))), {})
        assert sys.path[len(sys.path) - len(before) :] == before
        return sys.path[: len(sys.path) - len(before)]

    return run


@pytest.mark.parametrize("folder", ["", "notebooks", "kdkit/data"])
def test_the_bootstrap_finds_the_clone_around_it(bootstrap, tmp_path, folder):
    assert bootstrap(ROOT / folder, tmp_path) == [str(ROOT)]


@pytest.mark.parametrize("folder", ["kdkit-repo", "user/kdkit-repo/versions/1"])
def test_the_bootstrap_finds_a_kaggle_input(bootstrap, tmp_path, folder):
    attached = tmp_path / "input" / folder
    (attached / "kdkit").mkdir(parents=True)
    (attached / "kdkit" / "__init__.py").touch()
    (tmp_path / "working").mkdir()
    assert bootstrap(tmp_path / "working", tmp_path / "input") == [str(attached)]


def test_the_bootstrap_leaves_an_installed_package_alone(bootstrap, tmp_path):
    assert bootstrap(tmp_path, tmp_path / "input") == []


def copy_small(folder):
    """Copy what notebooks need, with the smallest configurations in place of their own, and little text in those."""
    for name in ("kdkit", "notebooks", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    texts = write_corpus(folder / "docs.txt", 400), folder / "code.txt"
    documents = texts[0].read_text(encoding="utf-8").split("<|endoftext|>")
    texts[1].write_text("<|endoftext|>".join(document[::-1] for document in documents), encoding="utf-8")
    changes = [
        # nbval can set no parameter
        *((f"notebooks/{name}.ipynb", "configs/quick.yaml", "configs/smoke.yaml") for name in (QUICKSTART, *STORY[:3])),
        (f"notebooks/{SEVERAL}.ipynb", "configs/many_teachers.yaml", "configs/many_smoke.yaml"),
        (f"notebooks/{MINI}.ipynb", "configs/minillm_quick.yaml", "configs/smoke.yaml"),
        (f"notebooks/{MATHS}.ipynb", "configs/maths_demo.yaml", "configs/maths_smoke.yaml"),
        ("configs/smoke.yaml", "data: {", f"data: {{path: {texts[0]}, "),
        (
            "configs/many_smoke.yaml",
            "docs: python-docs, code: python-code}, subset_size: 60",
            "docs: {}, code: {}}}, subset_size: 400".format(*texts),
        ),
        (
            "configs/embedding_smoke.yaml",
            "subset_size: 160, max_evaluation: 120",
            "subset_size: 100, max_evaluation: 40",
        ),
    ]
    for name, large, small in changes:
        content = (folder / name).read_text(encoding="utf-8")
        assert large in content
        (folder / name).write_text(content.replace(large, small), encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "reported"),
    [
        ([name for name in NOTEBOOKS if name not in STORY], "embedding_smoke"),
        (STORY, "smoke"),
    ],
    ids=["others", "story"],
)
def test_they_run_under_nbval_from_a_plain_copy(tmp_path, names, reported):
    copy_small(tmp_path)
    # without PYTHONPATH the kernels find the package only through the bootstrap cell
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
        + [f"notebooks/{name}.ipynb" for name in names],
        cwd=tmp_path,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert int(passed[1]) == sum(len(code_cells(name)) for name in names)
    assert (tmp_path / "runs" / reported / "report.html").is_file()
