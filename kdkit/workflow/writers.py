"""What `generate` writes with: a model of a run, of a folder, of a package or of the hub."""

import difflib
import json
from pathlib import Path

from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.data.prepare import open_data
from kdkit.errors import UserError
from kdkit.machine.gguf_files import is_gguf
from kdkit.machine.hardware import find_hardware
from kdkit.machine.hub import is_local_path
from kdkit.machine.open_session import open_trained_session
from kdkit.models.loading import check_fits, load_causal_lm
from kdkit.models.writer import Writer, model_writer
from kdkit.runs.paths import find_root, resolve_input, resolve_output
from kdkit.teachers.gguf import GGUFTeacher
from kdkit.teachers.prepare import prepare_teacher

KEY = "MODEL"
"""The argument, for messages."""


def open_writer(source: str, which: str, runs_dir: str, batch_size: int) -> tuple[Writer, bool | None]:
    """Load what the argument of `generate` names.

    Args:
        source: a run, by its name or folder; else a folder, a package (`package:NAME`) or a hub name of a causal LM, or
            a GGUF file.
        which: model of a run: `teacher`, `student`, `baseline`, or another folder of it.
        batch_size: texts that are written at the same time.

    Returns:
        The writer, and whether it was trained on conversations; None: nobody knows.

    Raises:
        UserError: nothing of that name; see also `load_causal_lm` and `load_tokenizer`.
    """
    folder = _run_folder(source, runs_dir)
    if folder is not None:
        return _open_run(folder, which, batch_size)
    if which != "student":
        raise UserError(f"--model: expected a run where a model of it is named, got {source!r}; leave --model out")
    if not is_local_path(source) and "/" not in source:
        _refuse(source, runs_dir)
    hardware = find_hardware()
    tokenizer = load_tokenizer(source, KEY)
    if is_gguf(source):
        teacher = GGUFTeacher(source, tokenizer, KEY, on_gpu=hardware.device.startswith("cuda"))
        return Writer(tokenizer, teacher.write), None
    model = load_causal_lm(source, KEY, dtype=hardware.dtype, device=hardware.device)
    check_fits(model, len(tokenizer), 1, KEY, KEY)
    return model_writer(model, tokenizer, batch_size, hardware.autocast_dtype), None


def _run_folder(source: str, runs_dir: str) -> Path | None:
    """Return the folder of a run that is named by itself or by its path; None where there is none."""
    candidates = [resolve_input(source)]
    if source == Path(source).name:
        candidates.insert(0, resolve_output(runs_dir, find_root()) / source)
    return next((folder for folder in candidates if (folder / "config.yaml").is_file()), None)


def _open_run(folder: Path, which: str, batch_size: int) -> tuple[Writer, bool]:
    """Load a model of a run."""
    session = open_trained_session(folder.name, runs_dir=folder.resolve().parent)
    hardware, run = session.hardware, session.run
    is_chat = _learnt_conversations(run.path)
    if which == "teacher":
        data = open_data(run.path / "data")
        teacher, tokenizer = prepare_teacher(session, data), data.teacher_tokenizer
        if not teacher.has_layers:
            return Writer(tokenizer, teacher.write), is_chat
        model = teacher.model
    else:
        if not (run.path / which / "config.json").is_file():
            there = sorted(file.parent.name for file in run.path.glob("*/config.json"))
            raise UserError(
                f"--model: expected one of teacher, {', '.join(there)} of run {run.name!r}, got {which!r}; name one"
            )
        tokenizer = load_tokenizer(run.path / which, "--model")
        model = load_causal_lm(str(run.path / which), "--model", dtype=hardware.dtype, device=hardware.device)
    return model_writer(model, tokenizer, batch_size, hardware.autocast_dtype), is_chat


def _learnt_conversations(run: Path) -> bool:
    """Return whether the data of a run are conversations."""
    manifest = json.loads((run / "data" / "manifest.json").read_text(encoding="utf-8"))
    return bool(manifest.get("chat"))


def _refuse(source: str, runs_dir: str) -> None:
    """Say what there is instead."""
    folder = resolve_output(runs_dir, find_root())
    runs = sorted(file.parent.name for file in folder.glob("*/config.yaml"))
    near = difflib.get_close_matches(source, runs, n=1)
    hint = f"did you mean {near[0]!r}? " if near else f"there are {', '.join(runs[:8])}; " if runs else ""
    raise UserError(
        f"{KEY}: expected a run in {folder}, or the folder, package or hub name (owner/name) of a model, got "
        f"{source!r}; {hint}make a run: python -m kdkit run quick"
    )
