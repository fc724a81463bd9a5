"""The parameters of a notebook: what papermill may set, and what a person meant who set something else.

Also whether the notebook's kernel has what kdkit needs: this is the first module that every notebook imports, so only
Python's own library is imported before the kernel is checked.
"""

import ast
import importlib.util
import json
import sys
from collections.abc import Sequence

from kdkit.errors import UserError

NEEDED = ("torch", "transformers", "datasets", "pydantic", "yaml", "h5py", "jinja2", "matplotlib")
"""Modules that a Python with kdkit's requirements has, and another environment's kernel most often has not all of."""
INJECTED = "# Parameters"
"""First line of the cell that papermill puts behind the cell of parameters."""


def check_parameters(cells: Sequence[str]) -> None:
    """Stop in a kernel without kdkit's packages, or at a parameter that the notebook does not have or has otherwise.

    papermill itself warns and goes on, so that a misspelt setting would show after the training.

    Args:
        cells: what has been run so far, IPython's `In`.

    Raises:
        UserError: see `check_kernel`; an unknown name, or a value of another type than the parameter's.
    """
    check_kernel()
    cells = [cell.strip() for cell in cells]
    injected = next((place for place in reversed(range(1, len(cells))) if cells[place].startswith(INJECTED)), None)
    if injected is None:
        return
    declared = {
        node.target.id: ast.unparse(node.annotation)
        for node in ast.parse(cells[injected - 1]).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    for node in ast.parse(cells[injected]).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            _check(node.targets[0].id, ast.literal_eval(node.value), declared)


def check_kernel() -> None:
    """Stop where this notebook runs in a Python that kdkit is not installed in, such as Jupyter's own.

    Raises:
        UserError: packages are missing.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"kernel: expected kdkit's packages in this notebook's Python, {sys.executable}, got no "
            f"{', '.join(missing)}; choose the kernel of the environment that kdkit is installed in, or: "
            f"{sys.executable} -m pip install -r requirements.txt"
        )


def as_overrides(settings: dict[str, object]) -> list[str]:
    """Return `section.key=value` items of the settings that have a value; None: as in the file."""
    return [f"{key}={_write(value)}" for key, value in settings.items() if value is not None]


def _write(value: object) -> str:
    """Write a value as a person would on the command line, so that the same setting makes the same run: 4.0 is 4."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _check(name: str, value: object, declared: dict[str, str]) -> None:
    if name not in declared:
        from kdkit.config.values import suggest_key  # it needs PyYAML

        hint = suggest_key(name, list(declared))
        raise UserError(
            f"parameters: expected one of this notebook's, got {name!r}; {hint} (any other setting: OVERRIDES)"
        )
    expected, got = declared[name], type(value).__name__
    if value is not None and got != expected and (got, expected) != ("int", "float"):
        raise UserError(
            f"parameters: expected {name} to be of type {expected}, got {value!r} ({got}); write a value of "
            "that type (text in quotes, or papermill -r)"
        )
