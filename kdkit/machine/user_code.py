"""Code of the user's own that a configuration names: `python:module:Class`, or `python:FILE.py:Class`.

Importing a module runs it, with all that the user may do. A configuration from somebody else that names one is to be
read like a program from somebody else.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kdkit.errors import UserError
from kdkit.runs.paths import resolve_input

PREFIX = "python:"


class UserCode:
    """Base of what a configuration may name so; see `kdkit.teachers.interface.TextTeacher`."""

    @property
    def tokenizer(self) -> Any:  # the command that only starts kernels need not hold transformers for its name
        """The tokenizer whose ids it reads, a `PreTrainedTokenizerFast`."""
        raise NotImplementedError(f"{type(self).__name__}: tokenizer")


def is_user_code(path: str) -> bool:
    """Return whether a `path` names a class of the user's own."""
    return path.startswith(PREFIX)


def code_file(path: str) -> Path | None:
    """Return the file in which a `path` finds its class, without running it; None where it names no such file."""
    if not is_user_code(path):
        return None
    module_name = path.removeprefix(PREFIX).rpartition(":")[0]
    if module_name.endswith(".py"):
        return resolve_input(module_name)
    try:
        found = importlib.util.find_spec(module_name) if module_name else None
    except (ImportError, ValueError):
        found = None
    return Path(found.origin) if found is not None and found.origin and Path(found.origin).is_file() else None


def make_user_object(path: str, key: str) -> UserCode:
    """Import what a `path` names and make one.

    Args:
        path: `python:module:Class`; a module that ends in `.py` is a file.
        key: the setting, for messages.

    Raises:
        UserError: no such module or class, a class of another kind, or one whose constructor fails.
    """
    module_name, _, class_name = path.removeprefix(PREFIX).rpartition(":")
    if not module_name or not class_name:
        raise UserError(f"{key}: expected python:MODULE:CLASS or python:FILE.py:CLASS, got {path!r}; name both")
    module = _import(module_name, key)
    found = vars(module).get(class_name)
    if not isinstance(found, type) or not issubclass(found, UserCode):
        kind = "no such name" if found is None else "something else"
        raise UserError(
            f"{key}: expected a subclass of kdkit.teachers.interface.TextTeacher named {class_name!r} in "
            f"{module_name!r}, got {kind}; write `class {class_name}(TextTeacher):` there"
        )
    try:
        return found()
    except Exception as error:  # whatever the user's own constructor raises
        raise _explain(error, f"{key}: expected {class_name}() of {module_name!r} to make a teacher") from error


def find_user_function(path: str, key: str) -> Callable[..., Any]:
    """Import the function that `python:module:function` names.

    Args:
        key: the setting, for messages.

    Raises:
        UserError: no such module, or nothing in it that can be called by this name.
    """
    module_name, _, name = path.removeprefix(PREFIX).rpartition(":")
    if not module_name or not name:
        raise UserError(f"{key}: expected python:MODULE:FUNCTION or python:FILE.py:FUNCTION, got {path!r}; name both")
    found = vars(_import(module_name, key)).get(name)
    if not callable(found):
        kind = "no such name" if found is None else type(found).__name__
        raise UserError(
            f"{key}: expected a function {name!r} in {module_name!r}, got {kind}; write `def {name}(...)` there"
        )
    return found


def _import(name: str, key: str) -> ModuleType:
    """Import a module by name, or from a file."""
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        file = resolve_input(name).resolve()
        if not file.is_file():
            raise UserError(f"{key}: expected a Python file, got {name!r}, which does not exist (in {Path.cwd()})")
        # known under a name of its own, so that it is run once, and its classes stay the same
        known = f"kdkit_user_code_{file.stem}_{abs(hash(str(file)))}"
        if known not in sys.modules:
            spec = importlib.util.spec_from_file_location(known, file)
            module = importlib.util.module_from_spec(spec)
            sys.modules[known] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[known]
                raise
        return sys.modules[known]
    except UserError:
        raise
    except Exception as error:  # whatever the user's own module raises
        raise _explain(error, f"{key}: expected the Python module {name!r} to be importable") from error


def _explain(error: Exception, expected: str) -> UserError:
    """Say in one line what the user's code raised."""
    if isinstance(error, UserError):
        return error
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{expected}, got {type(error).__name__}: {reason}; correct the code (--debug shows where)")
