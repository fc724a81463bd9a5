"""Questions about Python's standard library with answers, made from its source: conversations without any file."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from kdkit.alignment.templates import Message
from kdkit.data.conversations import Conversation
from kdkit.data.library import SKIPPED_FOLDERS

_ASKED = {
    "module": ("What is the module {} for?", "What does the Python module {} provide?"),
    "class": ("What is {}?", "What is the class {} for?"),
    "function": ("What does {} do?", "What is {} for?", "Explain {} briefly."),
}
"""Wordings of a question; which one, the name decides."""
_LENGTHS = range(24, 400)
"""Characters of an answer."""
_Callable = ast.FunctionDef | ast.AsyncFunctionDef


def python_questions() -> Iterator[Conversation]:
    """Yield what modules, classes and functions are for, and which arguments functions take, in the files' order.

    Of two things with the same last name and the same answer, such as `posixpath.isabs` and `ntpath.isabs`, the first
    one stays: else many held-out answers would stand in the training text.
    """
    seen = set()
    for name, conversation in _of_library():
        key = name.rpartition(".")[2], conversation.answer
        if key not in seen:
            seen.add(key)
            yield conversation


_Named = Iterator[tuple[str, Conversation]]
"""Questions, with the name of what is asked about."""


def _of_library() -> _Named:
    """Yield the questions about every public module."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = list(path.relative_to(library).with_suffix("").parts)
        if SKIPPED_FOLDERS.isdisjoint(parts) and parts[0] != "idlelib":
            if parts[-1] == "__init__":
                parts.pop()
            if parts and not any(part.startswith("_") for part in parts):
                yield from _of_module(".".join(parts), ast.parse(path.read_bytes()))


def _of_module(module: str, tree: ast.Module) -> _Named:
    """Yield the questions about a module and all public names in it."""
    yield from _purpose("module", module, tree)
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | _Callable) or node.name.startswith("_"):
            continue
        name = f"{module}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _purpose("class", name, node)
            methods = [each for each in node.body if isinstance(each, _Callable) and not each.name.startswith("_")]
            for method in methods:
                yield from _of_function(f"{name}.{method.name}", method, is_method=True)
        else:
            yield from _of_function(name, node)


def _of_function(name: str, node: _Callable, is_method: bool = False) -> _Named:
    """Yield the questions about a function; arguments are asked for where it is explained."""
    for purpose in _purpose("function", name, node):
        yield purpose
        if arguments := _describe_arguments(node.args, is_method):
            yield name, _conversation(f"Which arguments does {name} take?", arguments)


def _purpose(kind: str, name: str, node: ast.Module | ast.ClassDef | _Callable) -> _Named:
    """Yield what something is for: the first paragraph of its docstring, where that is a sentence."""
    answer = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    if len(answer) in _LENGTHS and answer[0].isupper() and answer[-1] == "." and ">>>" not in answer:
        wordings = _ASKED[kind]
        yield name, _conversation(wordings[crc32(name.encode()) % len(wordings)].format(name), answer)


def _describe_arguments(arguments: ast.arguments, is_method: bool) -> str:
    """Say which arguments there are; empty: none."""
    positional = [each.arg for each in (*arguments.posonlyargs, *arguments.args)][is_method:]
    count = len(positional) - len(arguments.defaults)
    keyword = list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    required = positional[: max(count, 0)] + [each.arg for each, default in keyword if default is None]
    optional = positional[max(count, 0) :] + [each.arg for each, default in keyword if default is not None]
    takes = [word + _list(names) for word, names in (("", required), ("optionally ", optional)) if names]
    return f"It takes {' and '.join(takes)}." if takes else ""


def _list(names: list[str]) -> str:
    """Write names as a list in a sentence."""
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def _conversation(question: str, answer: str) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)))
