"""What `generate` writes with: a model of a run, of a folder, of a package or of the hub."""

import difflib
from pathlib import Path

from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.data.prepare import open_data
from kdkit.errors import UserError
from kdkit.machine.gguf_files import is_gguf
from kdkit.machine.hardware import find_hardware
from kdkit.machine.hub import is_local_path
from kdkit.machine.open_session import open_trained_session
from kdkit.machine.user_code import is_user_code
from kdkit.models.loading import check_fits, load_causal_lm
from kdkit.models.onnx.running import find_graph, load_graph
from kdkit.models.writer import Writer, model_writer
from kdkit.runs.paths import find_root, resolve_input, resolve_output
from kdkit.runs.trained_run import without_student
from kdkit.teachers.gguf import GGUFTeacher
from kdkit.teachers.prepare import make_own_teacher, prepare_teacher

KEY = "MODEL"
"""The argument, for messages."""


def open_writer(source: str, which: str, runs_dir: str, batch_size: int) -> tuple[Writer, bool | None]:
    """Load what the argument of `generate` names.

    Args:
        source: a run, by its name or folder; else a folder, package (`package:NAME`) or hub name of a causal LM, a GGUF
            file, a folder with an ONNX graph or one of its graphs, or a teacher of one's own (`python:module:Class`).
        which: model of a run: `teacher`, `student`, `baseline`, or another folder of it.
        batch_size: texts that are written at the same time.

    Returns:
        The writer, and whether it was trained on conversations; None: nobody knows.

    Raises:
        UserError: nothing of that name; see also `load_causal_lm` and `load_tokenizer`.
    """
    folder = run_folder(source, runs_dir)
    if folder is not None:
        return _open_run(folder, which, batch_size)
    _check_name(source, which, runs_dir)
    hardware = find_hardware()
    if is_user_code(source):
        return make_own_teacher(source, KEY).writer(), None
    if (graph := find_graph(source)) is not None:
        return model_writer(*load_graph(graph, KEY), batch_size), None
    tokenizer = load_tokenizer(source, KEY)
    if is_gguf(source):
        teacher = GGUFTeacher(source, tokenizer, KEY, on_gpu=hardware.device.startswith("cuda"))
        return teacher.writer(), None
    model = load_causal_lm(source, KEY, dtype=hardware.dtype, device=hardware.device)
    check_fits(model, len(tokenizer), 1, KEY, KEY)
    return model_writer(model, tokenizer, batch_size, hardware.autocast_dtype), None


def model_folder(source: str, which: str, runs_dir: str) -> tuple[str, str]:
    """Return the folder or name of a model of transformers, and what named it, for messages.

    Args:
        source: a run, by its name or folder; else a folder, package or hub name.
        which: model of a run: `student`, `baseline`, or another folder of it.

    Raises:
        UserError: nothing of that name.
    """
    folder = run_folder(source, runs_dir)
    if folder is None:
        _check_name(source, which, runs_dir)
        return source, KEY
    if which == "teacher" and (folder / "teacher" / "model" / "config.json").is_file():
        which = "teacher/model"  # one that was built
    _check_has(folder, which)
    return str(folder / which), "--model"


def _check_name(source: str, which: str, runs_dir: str) -> None:
    """Refuse what can only be the name of a run that is not there, and a model of no run."""
    if which != "student":
        raise UserError(f"--model: expected a run where a model of it is named, got {source!r}; leave --model out")
    if is_bare_name(source):
        raise unknown_name(source, runs_dir)


def _check_has(folder: Path, which: str) -> None:
    """Refuse a model that a run does not have; the name stays in the run's folder."""
    is_outside = Path(which).is_absolute() or ".." in Path(which).parts
    if is_outside or not (folder / which / "config.json").is_file():
        if which == "student":
            raise UserError(without_student(folder))
        if which == "teacher":
            raise UserError(
                f"--model: expected a model that lies in run {folder.name!r}, got its teacher, which lies elsewhere; "
                "name as MODEL what teacher.path names"
            )
        there = ", ".join(sorted(file.parent.name for file in folder.glob("*/config.json")))
        raise UserError(f"--model: expected one of teacher, {there} of run {folder.name!r}, got {which!r}; name one")


def run_folder(source: str, runs_dir: str) -> Path | None:
    """Return the folder of a run that is named by itself or by its path; None where there is none."""
    candidates = [resolve_input(source)]
    if source == Path(source).name:
        candidates.insert(0, resolve_output(runs_dir, find_root()) / source)
    return next((folder for folder in candidates if (folder / "config.yaml").is_file()), None)


def _open_run(folder: Path, which: str, batch_size: int) -> tuple[Writer, bool]:
    """Load a model of a run."""
    session = open_trained_session(folder.name, runs_dir=folder.resolve().parent)
    hardware, run, data = session.hardware, session.run, open_data(session.run.path / "data")
    if which == "teacher":
        return prepare_teacher(session, data).writer(batch_size, hardware.autocast_dtype), data.is_chat
    _check_has(run.path, which)
    tokenizer = load_tokenizer(run.path / which, "--model")
    model = load_causal_lm(str(run.path / which), "--model", dtype=hardware.dtype, device=hardware.device)
    check_fits(model, len(tokenizer), 1, "--model", "--model")
    return model_writer(model, tokenizer, batch_size, hardware.autocast_dtype), data.is_chat


def is_bare_name(source: str) -> bool:
    """Return whether an argument can only be a run, or a hub name without its owner."""
    return not is_local_path(source) and not is_user_code(source) and "/" not in source


def unknown_name(source: str, runs_dir: str, key: str = KEY, kind: str = "model") -> UserError:
    """Return the error for a run that is not there, which says what there is instead.

    Args:
        key: the argument, for messages.
        kind: what it names beside a run.
    """
    folder = resolve_output(runs_dir, find_root())
    runs = sorted(file.parent.name for file in folder.glob("*/config.yaml"))
    near = difflib.get_close_matches(source, [name for name in runs if name != source], n=1)
    hint = f"did you mean {near[0]!r}? " if near else f"there are {', '.join(runs[:8])}; " if runs else ""
    return UserError(
        f"{key}: expected a run in {folder}, or the folder, package or hub name (owner/name) of a {kind}, got "
        f"{source!r}; {hint}make a run: python -m kdkit run quick"
    )
