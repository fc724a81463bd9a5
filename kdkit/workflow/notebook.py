"""Execution of one notebook by papermill, in a kernel of this very Python, with Ctrl-C passed on to it."""

import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from kdkit.errors import UserError
from kdkit.machine.interrupt import Stopped
from kdkit.runs.disk import disk_error, is_full, writing
from kdkit.workflow.packages import missing_package
from kdkit.workflow.terminal import Lines, Terminal

SETTINGS = (
    *("DATA", "TEACHER", "STUDENT", "LOSS", "TEMPERATURE", "KD_RATIO", "METHOD", "COMBINE", "SAMPLES"),
    *("LEARNING_RATE", "MAX_STEPS", "SEED"),
)
"""Parameters of the notebooks that set what the configuration sets, where they are not None."""


def run_notebook(notebook: Path, output: Path, parameters: dict[str, object], terminal: Terminal) -> None:
    """Execute one notebook in the current folder; the terminal decides what of its output a person sees.

    Raises:
        UserError: a parameter that the notebook does not have, a package that is missing, or a mistake found inside it.
        RuntimeError: the notebook failed.
        KeyboardInterrupt: the user stopped it; `Stopped`, with what is saved, where a training was stopped.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    check_parameter_names(notebook, list(parameters))
    with writing(output.parent, "--runs-dir"):
        output.parent.mkdir(parents=True, exist_ok=True)
    kernel = _Kernel(terminal)
    partial = output.with_name(f".{output.stem}.partial.ipynb")  # papermill saves after every cell, in place
    try:
        with kernel.passing_on():
            papermill.execute_notebook(
                str(notebook),
                str(partial),
                parameters,
                kernel_name="python3",
                cwd=str(Path.cwd()),
                progress_bar=False,
                stdout_file=Lines(terminal.printed),
                stderr_file=Lines(terminal.complained),
                kernel_manager_class=kernel.manager_class(),
                on_cell_start=kernel.check,
                # noise: that it talks unencrypted, to this machine only, and that it was stopped, as it was at its end
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        kernel.check()
    except papermill.PapermillExecutionError as error:
        raise _explain(error, notebook, output) from error
    except DeadKernelError as error:
        kernel.check()
        raise RuntimeError(
            f"{notebook.name}: its kernel died, most often for lack of memory; lower "
            f"train.per_device_train_batch_size or data.max_length (see {output})"
        ) from error
    finally:
        if partial.is_file():
            partial.replace(output)


def check_parameter_names(notebook: Path, names: list[str]) -> list[str]:
    """Return the parameters that a notebook has; papermill itself warns of another one and goes on.

    Raises:
        UserError: one of the names is not among them.
    """
    import papermill

    known = list(papermill.inspect_notebook(str(notebook)))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "use one of these"
            raise UserError(f"{notebook.name}: expected a parameter among {', '.join(known)}, got {name!r}; {hint}")
    return known


def set_by_hand(notebook: Path) -> dict[str, None]:
    """Return as None the settings that somebody gave in the notebook itself: a run made by a command has its own."""
    import papermill

    known = papermill.inspect_notebook(str(notebook))
    return {name: None for name in SETTINGS if name in known and known[name]["default"] != "None"}


def _explain(error: Any, notebook: Path, output: Path) -> BaseException:
    """Return what to raise for the error of a cell."""
    if error.ename == Stopped.__name__:
        return Stopped(error.evalue)
    if error.ename == KeyboardInterrupt.__name__:
        return KeyboardInterrupt()
    if error.ename == UserError.__name__:
        return UserError(error.evalue)
    if error.ename == ModuleNotFoundError.__name__:
        return missing_package(error.evalue)
    if is_full(error):  # by what was written without our help: checkpoints, pictures
        return disk_error(error, output.parent.parent, "--runs-dir")
    return RuntimeError(f"{notebook.name} failed: {error.ename}: {error.evalue}; see {output}")


@dataclass
class _Kernel:
    """The process that executes a notebook; it has a process group of its own, so a terminal's Ctrl-C misses it."""

    terminal: Terminal
    managers: list[Any] = field(default_factory=list)
    is_asked: bool = False
    """Whether the user has asked to stop."""

    def manager_class(self) -> type:
        """Return a kernel manager that starts this very Python, whatever kernels are installed elsewhere.

        Raises:
            UserError: this Python has no kernel.
        """
        try:
            import ipykernel  # noqa: F401 - the kernel's process imports it
        except ImportError:
            raise UserError(
                f"notebooks: expected the package ipykernel, a kernel for {sys.executable}, got none installed; "
                "pip install ipykernel"
            ) from None
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager

        own = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        managers = self.managers

        class Manager(AsyncKernelManager):
            kernel_spec = KernelSpec(argv=own, display_name="Python 3", language="python")

            def __init__(self, **settings: Any):
                super().__init__(**settings)
                managers.append(self)

        return Manager

    def check(self, **cell: object) -> None:
        """Stop between two cells, where the kernel does not listen; nbclient's hook.

        Raises:
            KeyboardInterrupt: the user has asked.
        """
        if self.is_asked:
            raise KeyboardInterrupt

    @contextmanager
    def passing_on(self) -> Iterator[None]:
        """Send the first Ctrl-C to the kernel, which saves what it trains; the second one ends the kernel at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(signum: int, frame: FrameType | None) -> None:
            """Pass the first Ctrl-C on to the kernel; kill it at the second."""
            process = next((manager.provisioner.pid for manager in self.managers if manager.provisioner), None)
            self.terminal.erase_in_signal()
            is_second, self.is_asked = self.is_asked, True
            if process is None or is_second:
                _send(process, signal.SIGKILL)
                raise KeyboardInterrupt
            _send(process, signal.SIGINT)

        before: Callable[..., Any] | int | None = signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _send(process: int | None, number: int) -> None:
    """Send a signal to a process that may have ended, or not begun."""
    if process is not None:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            return
