"""Copies of a run's figures in Weights & Biases: one W&B run for every training, one for the report, in one group.

`metrics.jsonl` stays the truth: every row there is one of its lines, so whatever is logged is copied, and nothing else
is. Steps are a column of their own, `step`, because two lines may have the same one and W&B's own step may not go back.

Offline the copy is a folder `wandb/offline-run-...` of the run that holds all lines from the first one on. A training
that goes on after a stop writes a new one under the same id, which takes the old one's place; so there is one folder to
`wandb sync`, and lines that were dropped with an unsaved step are not in it. Online the same id goes on, by the lines
that it lacks.
"""

import contextlib
import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kdkit.config.training import OptimizationConfig
from kdkit.errors import UserError
from kdkit.machine.interrupt import Stopped
from kdkit.machine.tracking.keys import Place, find_place
from kdkit.runs.folder import Run
from kdkit.runs.messages import note

FILE = "wandb.json"
"""In the run: its settings for W&B, and of every copy the id and, where it is offline, the folder."""
SECONDS_BETWEEN = 5.0
"""Between two looks into metrics.jsonl; W&B sends what it has every 15 seconds."""
INIT_SECONDS = 30
"""How long W&B may take to answer before an online copy is given up."""
REPORT = "report"
"""Name of the copy that holds pictures and tables."""


class TrainingCopy:
    """The copy of one training; a context that ends it. It opens at the first `update`, so what has ended opens none.

    A copy that fails ends with a line and never a training.
    """

    def __init__(
        self, run: Run, phase: str, train: OptimizationConfig, settings: dict[str, Any], beside: Sequence[str] = ()
    ):
        """Prepare the copy.

        Args:
            phase: the training, by the name of its lines in metrics.jsonl.
            settings: of the run, for W&B's page of the training.
            beside: other phases whose lines belong to this training, such as `router`; their columns begin with them.

        Raises:
            UserError: see `find_place`.
        """
        self.run, self.phase, self.settings, self.beside = run, phase, settings, beside
        self.place = find_place(train.wandb)
        self.kept = {"mode": train.wandb, "project": train.wandb_project}
        self._session: Any = None
        self._is_new = False
        self._sent = 0
        self._next_look = 0.0

    def __enter__(self) -> "TrainingCopy":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        stopped = error is None or isinstance(error, Stopped | SystemExit)
        self._look(exit_code=0 if stopped else 1)

    def begin(self, step: int) -> None:
        """Say from which step the training goes on; from 0 it is another one than that of an earlier copy."""
        self._is_new = self._session is None and step == 0

    def update(self) -> None:
        """Copy the lines that are new, now and then; call it whenever a line was written."""
        if time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + SECONDS_BETWEEN

    def _look(self, exit_code: int | None = None) -> None:
        """Copy the lines that are new, and end the copy if there is an exit code."""
        if self.place is None or (exit_code is not None and self._session is None):
            return
        try:
            self._session = self._session or self._open()
            rows = list(self._rows())
            for row in rows[self._sent :]:
                self._session.log(row)
            self._sent = max(self._sent, len(rows))
            if exit_code is not None:
                self._session.finish(exit_code=exit_code)
        except Exception as error:  # W&B is another program: whatever becomes of it, the training goes on
            note(f"{self.phase}: no more is copied to W&B ({_reason(error)}); metrics.jsonl has it all")
            self.place = None
            return
        if exit_code is not None:
            print(f"{self.phase}: {_say_where(self.run, self.phase, self._session)}", flush=True)

    def _open(self) -> Any:
        """Open the copy, offline where the server refuses it."""
        what = self.run, self.phase, self.kept, self.settings, self._is_new
        try:
            session = open_copy(self.place, *what)
        except Exception as error:  # see _look
            if self.place.mode == "offline":
                raise
            note(f"{self.phase}: W&B refuses an online copy ({_reason(error)}), so it is offline")
            session = open_copy(Place("offline"), *what)
        session.define_metric("*", step_metric="step")
        self._sent = session.starting_step
        return session

    def _rows(self) -> Iterator[dict[str, Any]]:
        return rows_of(self.run.read_metrics(), self.phase, self.beside)


def rows_of(lines: list[dict[str, Any]], phase: str, beside: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a training's copy, one for each of its lines in metrics.jsonl.

    `steps_per_second` since the last line with a loss is added, and to a router's line the means over layers:
    `router/share/EXPERT`, and `router/entropy` of the shares in nats.
    """
    before = (0, 0.0)
    for line in lines:
        values = {name: value for name, value in line.items() if name != "phase"}
        if line.get("phase") == phase:
            if "loss" in values and values["seconds"] > before[1]:
                steps, seconds = values["step"] - before[0], values["seconds"] - before[1]
                values["steps_per_second"] = steps / seconds
                before = (values["step"], values["seconds"])
            yield flatten_names(values)
        elif line.get("phase") in beside:
            name = line["phase"]
            values |= _summarise(values.get("shares", []))
            yield {key if key == "step" else f"{name}/{key}": value for key, value in flatten_names(values).items()}


def flatten_names(values: dict[str, Any]) -> dict[str, Any]:
    """Write nested values as `outer/inner`, as which W&B makes sections of charts; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{inner}": each for inner, each in flatten_names(value).items()}
        else:
            flat[name] = value
    return flat


def _summarise(shares: list[list[float]]) -> dict[str, Any]:
    """Return every expert's mean share, and the mean entropy in nats, of shares `[num_layers, num_experts]`."""
    if not shares:
        return {}
    entropies = [-sum(share * math.log(share) for share in layer if share > 0) for layer in shares]
    means = {str(expert): sum(column) / len(column) for expert, column in enumerate(zip(*shares, strict=True))}
    return {"share": means, "entropy": sum(entropies) / len(entropies)}


def copy_report(run: Run, pictures: dict[str, Path], tables: dict[str, Any], figures: dict[str, Any]) -> None:
    """Add the pictures and tables of a report to the copies of its trainings; nothing where there are none.

    Made again, it takes the place of the one before.

    Args:
        pictures: files by their headings.
        tables: headings and rows of cells, by the table's heading; None: it has none.
        figures: of the evaluation, nested; they become W&B's summary.
    """
    kept = read_kept(run)
    if not kept:
        return
    try:
        if (place := find_place(kept["mode"])) is None:
            return
        import wandb

        session = open_copy(place, run, REPORT, kept, {})
        row = {f"pictures/{heading}": wandb.Image(str(path)) for heading, path in pictures.items()}
        for heading, (names, rows) in ((heading, table) for heading, table in tables.items() if table is not None):
            cells = [[str(cell) for cell in cells] for cells in rows]
            row[f"tables/{heading}"] = wandb.Table(columns=[str(name) for name in names], data=cells)
        session.log(row)
        session.summary.update(flatten_names(figures))
        session.finish()
    except Exception as error:  # see TrainingCopy
        note(f"{REPORT}: not copied to W&B ({_reason(error)}); the report has it all")
        return
    print(f"{REPORT}: {_say_where(run, REPORT, session)}", flush=True)


def open_copy(
    place: Place, run: Run, name: str, kept: dict[str, Any], settings: dict[str, Any], is_new: bool = False
) -> Any:
    """Open the W&B run of a training or of the report, and note it in `wandb.json`.

    What W&B would collect beside our figures is left out where it may hold a secret: the console, the code, the
    address of a git remote.

    Args:
        name: of the training; W&B shows it behind the run's.
        kept: `mode` and `project` of the settings, for copies that are made later.
        settings: of the run.
        is_new: whether the rows are other ones than those of an earlier copy of that name.

    Returns:
        wandb's own run; `starting_step` rows of it are there already.
    """
    import wandb

    copies = read_kept(run).get("copies", {})
    is_torn = not copies and (run.path / FILE).is_file()
    before = _goes_on(run, copies.get(name), place, is_new)
    options = wandb.Settings(
        console="off",
        disable_git=True,
        disable_code=True,
        silent=True,
        symlink=False,  # a run folder is copied from session to session
        init_timeout=INIT_SECONDS,
        api_key=place.key,
    )
    session = wandb.init(
        project=kept["project"],
        name=f"{run.name}/{name}",
        group=run.name,
        job_type=name,
        id=before["id"],
        resume="allow" if place.mode == "online" else None,
        dir=str(run.path),
        mode=place.mode,
        config=without_passwords(settings),
        settings=options,
        reinit="create_new",  # the user may have a run of their own in this notebook
    )
    (Path(session.settings.log_internal).parent / "debug-core.log").unlink(missing_ok=True)  # a link to outside, too
    folder = Path(session.settings.sync_dir).relative_to(run.path).as_posix() if place.mode == "offline" else None
    copies[name] = {"id": session.id, "folder": folder}
    run.write_json(FILE, {"mode": kept["mode"], "project": kept["project"], "copies": copies})
    if not is_torn:  # else nobody knows which folders are copies of other trainings
        _drop_others(run, {copy["folder"] for copy in copies.values()})
    return session


def _drop_others(run: Run, kept: set[str | None]) -> None:
    """Remove the offline copies whose place was taken, and one of a process that was killed while it made it.

    What was sent stays: the server's rows are its.
    """
    for folder in (run.path / "wandb").glob("offline-run-*"):
        if folder.relative_to(run.path).as_posix() not in kept and not list(folder.glob("*.synced")):
            shutil.rmtree(folder, ignore_errors=True)


def read_kept(run: Run) -> dict[str, Any]:
    """Return what `wandb.json` holds; nothing where there is none, or none that can be read."""
    with contextlib.suppress(UserError, ValueError):
        return run.read_json(FILE)
    return {}


def _goes_on(run: Run, before: dict[str, Any] | None, place: Place, is_new: bool) -> dict[str, Any]:
    """Return id and folder of the copy that a new one continues or replaces.

    None of both where the server has rows of it that should not get more: `wandb sync` adds to what is there, so what
    is whole in itself needs an id of its own.
    """
    fresh = {"id": None, "folder": None}
    if before is None:
        return fresh
    if before["folder"] is None:
        return before if place.mode == "online" and not is_new else fresh
    return fresh if list((run.path / before["folder"]).glob("*.synced")) else before


def without_passwords(value: Any) -> Any:
    """Leave names and passwords out of addresses in nested settings: `https://me:secret@host` -> `https://host`."""
    if isinstance(value, dict):
        return {key: without_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_passwords(inner) for inner in value]
    return re.sub(r"://[^/@\s]+@", "://", value) if isinstance(value, str) else value


def sync_command(run: Run) -> str:
    """Return the command that sends all offline copies of a run; empty where there are none."""
    copies = read_kept(run).get("copies", {})
    return f"wandb sync {run.path}/wandb/offline-run-*" if any(copy["folder"] for copy in copies.values()) else ""


def _say_where(run: Run, name: str, session: Any) -> str:
    """Say in one line where a copy is."""
    folder = run.read_json(FILE)["copies"][name]["folder"]
    if folder is None:
        return f"copied to W&B, {session.url}"
    return f"copied for W&B; to send it: wandb sync {run.path / folder}"


def _reason(error: Exception) -> str:
    """Return an error's kind and first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
