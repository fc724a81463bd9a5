"""Fingerprint of the code that some entry points run: the package's files, found by following imports with `ast` alone.

What an `__init__.py` re-exports is followed only where a name is imported from it: importing a module does no work in
this package, so a re-export that is not imported decides nothing.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from kdkit.data.text.library import walk_statements
from kdkit.runs.folder import fingerprint, fingerprint_files


def code_files(entry_points: tuple[str, ...], package: Path) -> list[Path]:
    """Return the files that these modules consist of, imports inside functions included, in the order of their paths.

    Args:
        entry_points: dotted names, such as `kdkit.distill.train`.
        package: folder of the package that the names begin with; what lies outside is not followed.

    Raises:
        ValueError: an entry point is no module of the package.
    """
    waiting = []
    for name in entry_points:
        if (file := _file_of(name, package)) is None:
            raise ValueError(f"code_files: expected modules of {package.name}, got {name!r}; correct the entry point")
        waiting.append(file)
    found = set(waiting)
    while waiting:
        new = set(_imports_of(waiting.pop(), package)) - found
        found |= new
        waiting += new
    return sorted(found)


def fingerprint_code(entry_points: tuple[str, ...], package: Path) -> str:
    """Fingerprint names and contents of the files of `code_files`."""
    files = code_files(entry_points, package)
    return fingerprint([(file.relative_to(package).as_posix(), fingerprint_files(file)) for file in files])


def _imports_of(file: Path, package: Path) -> Iterator[Path]:
    """Yield the package's files that a file imports, wherever in it."""
    for node in walk_statements(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from a import b`: the module a.b where there is one, else something that a defines or re-exports
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if _file_of(name, package) else node.module for name in inner]
        yield from (found for name in names if (found := _file_of(name, package)) is not None)


def _file_of(name: str, package: Path) -> Path | None:
    """Return the file of a module or of a package inside the package; None for anything else."""
    root, *parts = name.split(".")
    if root != package.name:
        return None
    path = package.joinpath(*parts)
    candidates = path / "__init__.py", path.with_name(f"{path.name}.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)
