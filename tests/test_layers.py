"""The house keeps its order: imports point down, files stay short, nothing happens at import. Only `ast` looks."""

import ast
from collections.abc import Callable, Iterable, Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LAYERS = [
    {"errors"},
    {"config"},
    {"runs"},
    {"machine"},
    {"alignment"},
    {"losses"},
    {"maths"},
    {"data"},
    {"models"},
    {"training"},
    {"teachers"},
    {"distill"},
    {"evaluate"},
    {"embeddings"},
    {"report"},
    {"planning"},
    {"workflow"},
    {"cli"},
    {"__main__"},
]
"""Rooms and modules of the package, bottom to top; those in one set are siblings. A docstring and a
version are all that `kdkit/__init__.py` holds, so everything may import it."""

WING = ["models", "data", "teacher", "methods", "training", "evaluate"]
"""Rooms of `kdkit.embeddings`, bottom to top: the wing repeats the plan of the house."""

LIBRARY = ("alignment", "losses")
"""Rooms that know nothing of runs and stages."""
PATHS_OF_MODELS = tuple(f"kdkit.machine.{name}" for name in ("hub", "gguf_files", "gguf_tokenizer", "user_code"))
BELOW_LIBRARY = ("kdkit.errors", "kdkit.config", *PATHS_OF_MODELS, "kdkit.alignment", "kdkit.losses")

MAX_FILES_IN_ROOM = 15
MAX_FILE_LINES = 350
MAX_TEST_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_SILENT_LINES = 15
"""Of a function inside another one: a longer one says what it does."""

DECLARATIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
DECLARED = {"Typer", "Option", "Argument", "Field", "BeforeValidator", "AfterValidator", "TypeVar"}
CONSTANT_MAKERS = DECLARED | {
    "compile",
    "Path",
    "array",
    "join",
    "range",
    "fromkeys",
    "zeros",
    "Streams",
    "PackagedModel",
    "CudaFacts",
    "Speed",
    "Name",
    "Fraction",
    "Told",
    "Matching",
}
DECLARING_CALLS = ("app.add_typer",)
"""Calls that make a constant and touch nothing outside: re.compile, pathlib, typer and pydantic declarations."""

MODEL_ROOMS = ("losses", "data", "models", "training", "teachers", "distill", "evaluate", "embeddings")
FORBIDDEN_IN_REPORT = ("torch", "transformers", *(f"kdkit.{name}" for name in MODEL_ROOMS))


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "kdkit").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def ask_of(modules: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Ask one thing of many modules in one test, which names all that fail: a test for each would be thousands."""

    def decorate(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            wrong = {}
            for module in modules:
                try:
                    check(module)
                except AssertionError as error:
                    wrong[module] = str(error)
            assert modules
            assert wrong == {}

        test.__name__ = check.__name__
        return test

    return decorate


each_module = ask_of(MODULES)


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield what a file imports, wherever in it: for `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the module's full name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """Return the modules of this package that a module imports, the bare package aside."""
    return {name for name in imported_names(TREES[module]) if name in MODULES and name != "kdkit"}


def room(module: str) -> str:
    """Return the first part of a name below the package: kdkit.data.windows -> data."""
    return module.split(".")[1]


def level(module: str) -> int:
    """Return the layer that a module lies in, 0 at the bottom."""
    return next(i for i, layer in enumerate(LAYERS) if room(module) in layer)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield every function and method of a file."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_module_has_a_place_in_the_layers():
    known = set().union(*LAYERS)
    assert {room(module) for module in MODULES if module != "kdkit"} <= known


def test_no_name_stands_in_two_layers():
    names = [name for layer in LAYERS for name in layer]
    assert len(names) == len(set(names))


@ask_of([name for name in MODULES if name != "kdkit"])
def test_imports_point_strictly_down(module):
    outside = {name for name in imported_modules(module) if room(name) != room(module)}
    too_high = {name for name in outside if level(name) >= level(module)}
    assert not too_high, f"{module} (layer {level(module)}) imports {too_high}, which is not below it"


def test_imports_have_no_cycle():
    graph = {module: imported_modules(module) - {module} for module in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(MODULES)


@ask_of([name for name in MODULES if name.count(".") > 2 and room(name) == "embeddings"])
def test_imports_within_the_embedding_wing_point_down(module):
    floor = WING.index(module.split(".")[2])
    inside = {name for name in imported_modules(module) if name.startswith("kdkit.embeddings.")}
    assert {name for name in inside if WING.index(name.split(".")[2]) > floor} == set()


@ask_of([name for name in MODULES if name != "kdkit" and room(name) in LIBRARY])
def test_the_library_knows_nothing_of_runs(module):
    assert {name for name in imported_modules(module) if not name.startswith(BELOW_LIBRARY)} == set()


def test_no_room_is_crowded():
    folders = {path.parent for path in MODULES.values()}
    sizes = {folder.name: len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > MAX_FILES_IN_ROOM} == {}


def test_no_name_repeats_its_room():
    parts = [module.split(".") for module in MODULES]
    assert [part for part in parts if any(b.startswith(a + "_") for a, b in pairwise(part))] == []


def test_the_root_holds_no_loose_module():
    assert {path.name for path in (ROOT / "kdkit").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "errors.py",
    }


def test_the_tests_mirror_the_rooms():
    rooms = {path.parent.relative_to(ROOT / "kdkit") for path in MODULES.values()}
    tested = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert tested - rooms == set()


@ask_of([name for name in MODULES if name.startswith("kdkit.report")])
def test_report_imports_no_model_code(module):
    names = set(imported_names(TREES[module]))
    wrong = {name for name in names for bad in FORBIDDEN_IN_REPORT if name == bad or name.startswith(f"{bad}.")}
    assert not wrong


@ask_of([name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_init_files_export_names_of_their_own_room_only(module):
    """A room's face: what it re-exports stands in `__all__`. The package itself imports nothing when it is imported."""
    tree = TREES[module]
    exported = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(node.module.startswith(f"{module}.") for node in imported)
    names = sorted(alias.name for node in imported for alias in node.names)
    if module == "kdkit":
        assert names == []  # what it offers is imported when it is asked for
        return
    assert names == sorted(name for value in exported for name in ast.literal_eval(value))


@each_module
def test_files_stay_short(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


def test_test_files_stay_short():
    files = {path.relative_to(ROOT / "tests").as_posix(): path for path in (ROOT / "tests").rglob("*.py")}
    long = {name for name, path in files.items() if len(path.read_text(encoding="utf-8").splitlines()) > MAX_TEST_LINES}
    assert long == set()


@each_module
def test_functions_stay_short(module):
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions(TREES[module])}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@each_module
def test_public_names_have_docstrings(module):
    nodes = [TREES[module]]
    for owner in [TREES[module], *(node for node in TREES[module].body if isinstance(node, ast.ClassDef))]:
        nodes += [node for node in owner.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    public = [node for node in nodes if not getattr(node, "name", "").startswith("_")]
    assert [getattr(node, "name", module) for node in public if not ast.get_docstring(node)] == []


@each_module
def test_long_functions_inside_functions_have_docstrings(module):
    inner = {node for owner in functions(TREES[module]) for node in functions(owner) if node is not owner}
    long = [node for node in inner if node.end_lineno - node.lineno >= MAX_SILENT_LINES]
    assert [node.name for node in long if not ast.get_docstring(node)] == []


# kdkit itself sets the levels of loggers that speak while transformers is imported
@ask_of([name for name in MODULES if name not in ("kdkit", "kdkit.__main__")])
def test_importing_a_module_does_no_work(module):
    for node in TREES[module].body:
        if isinstance(node, ast.Expr):
            is_declaration = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in DECLARING_CALLS
            assert isinstance(node.value, ast.Constant) or is_declaration, f"line {node.lineno} does something"
            continue
        assert isinstance(node, DECLARATIONS), f"line {node.lineno} is neither import, constant nor definition"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            calls = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
            made_by = {func.attr if isinstance(func, ast.Attribute) else ast.unparse(func) for func in calls}
            assert made_by <= CONSTANT_MAKERS, f"line {node.lineno} calls {made_by - CONSTANT_MAKERS}"
