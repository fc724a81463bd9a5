"""Text that comes with Python itself: its documentation and its code."""

import ast
import sysconfig
from collections import deque
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "pydoc_data"}
"""Folders of the standard library without text worth learning."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
"""What can have a docstring."""
BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
"""Where statements hold statements."""


def python_docs() -> Iterator[str]:
    """Yield Python's reference topics and, a document per module, the standard library's docstrings."""
    from pydoc_data import topics

    yield from (text for _, text in sorted(topics.topics.items()))
    for path in library_files():
        yield "\n\n".join(_docstrings(path.read_bytes()))


def python_code() -> Iterator[str]:
    """Yield the code of the standard library, a document per module, without docstrings and comments."""
    for path in library_files():
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        yield ast.unparse(tree)


def library_files() -> Iterator[Path]:
    """Yield the modules of the standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(library).parts):
            yield path


def _docstrings(source: bytes) -> Iterator[str]:
    """Yield the docstrings of a module's source, without running it."""
    for node in walk_statements(ast.parse(source)):
        if isinstance(node, DOCUMENTED):
            yield from filter(None, [ast.get_docstring(node)])


def walk_statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield a module and its statements in the order of `ast.walk`, without expressions: most nodes are such."""
    nodes: deque[ast.AST] = deque([tree])
    while nodes:
        yield (node := nodes.popleft())
        for block in BLOCKS:
            nodes.extend(getattr(node, block, ()))
