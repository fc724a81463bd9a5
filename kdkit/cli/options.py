"""What the verbs share: options, the exit code of Ctrl-C, and what is said after it."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from kdkit.machine.interrupt import TimeIsUp

INTERRUPTED = 130
"""Exit code of Ctrl-C."""
TIME_IS_UP = 75
"""Exit code where the time budget is used up and the same command with --resume goes on: EX_TEMPFAIL of sysexits.h."""

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ConfigFile = Annotated[str, typer.Argument(help="A YAML file, or the name of one of configs/: demo.")]
Parameters = Annotated[
    list[str], typer.Option("-p", "--parameter", metavar="SECTION.KEY=VALUE", help="Change a setting; repeatable.")
]
RunName = Annotated[str, typer.Option(help="Name of the run; default: made from the file and the changed settings.")]
RunsDir = Annotated[str, typer.Option(help="Folder of runs; in the project around the current folder, else in this.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted training from its checkpoint.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show all that is printed on the way.")]


def command_line(*words: str) -> str:
    """Write a command line that can be copied."""
    return shlex.join(["python", "-m", "kdkit", *words])


class InterruptedWorkError(Exception):
    """Ctrl-C, with what is kept and how to go on: typer makes a bare number of KeyboardInterrupt."""

    code = INTERRUPTED


class TimeIsUpError(InterruptedWorkError):
    """The time budget is used up; with what is kept and how to go on."""

    code = TIME_IS_UP


@contextmanager
def interruptible(otherwise: str, go_on: str = "") -> Iterator[None]:
    """Answer Ctrl-C with what the interrupted work says of itself.

    Args:
        otherwise: what to say where it says nothing.
        go_on: what to say behind that.
    """
    try:
        yield
    except TimeIsUp as error:
        raise TimeIsUpError(f"stopped; {error}") from None
    except KeyboardInterrupt as error:
        said = filter(None, ["stopped", str(error) or otherwise, go_on])
        raise InterruptedWorkError("; ".join(said)) from None
