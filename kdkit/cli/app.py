"""The command line: `python -m kdkit VERB`. Thin; every verb calls one function of the package.

A user's mistake is one line on stderr and exit code 2; a failure is one line and exit code 1.
"""

import sys
from typing import Annotated

import typer

from kdkit import __version__
from kdkit.cli.cache import cache_app
from kdkit.cli.distill import distill_app
from kdkit.cli.embed import embed_app
from kdkit.cli.evaluators import evaluators_app
from kdkit.cli.export import export_app
from kdkit.cli.kaggle import kaggle_app
from kdkit.cli.options import (
    INTERRUPTED,
    ConfigFile,
    Debug,
    InterruptedWorkError,
    Parameters,
    Resume,
    RunName,
    RunsDir,
    Verbose,
    interruptible,
)
from kdkit.cli.plan import plan_app
from kdkit.cli.problems import problems_app
from kdkit.cli.sample import sample_app
from kdkit.cli.solve import solve_app
from kdkit.cli.sweep import sweep_app
from kdkit.cli.text import text_app
from kdkit.cli.tokenizer import tokenizer_app
from kdkit.errors import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Distil a large language or embedding model into a small one, from numbered notebooks.\n\n"
    "Start with: python -m kdkit doctor, then python -m kdkit run configs/demo.yaml",
)

app.add_typer(cache_app, name="cache")
app.add_typer(plan_app)
app.add_typer(distill_app)
app.add_typer(sample_app)
app.add_typer(problems_app)
app.add_typer(text_app)
app.add_typer(solve_app)
app.add_typer(sweep_app)
app.add_typer(export_app)
app.add_typer(embed_app)
app.add_typer(evaluators_app)
app.add_typer(kaggle_app, name="kaggle")
app.add_typer(tokenizer_app, name="tokenizer")

USAGE_ERROR = typer.BadParameter.__base__
"""A mistyped command or option; typer has no public name for the class."""


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"kdkit {__version__}")
        raise typer.Exit


@app.command()
def run(
    config: ConfigFile,
    parameter: Parameters = [],  # noqa: B006 - typer reads the default and never changes it
    name: RunName = "",
    runs_dir: RunsDir = "runs",
    first: Annotated[
        str, typer.Option("--from", metavar="NN", help="Run from this notebook on, even if done: 03.")
    ] = "",
    only: Annotated[str, typer.Option(metavar="NN,NN", help="Run these notebooks only, even if done: 04,05.")] = "",
    resume: Resume = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run the notebooks 01 to 05 and print where the report and the student are.

    A file with `teachers:` also runs 07, one with `report: {look_inside: true}` 08, one with `method:` 06 alone.

    Notebooks that are done and whose inputs are unchanged are skipped. Examples:

    python -m kdkit run configs/demo.yaml

    python -m kdkit run configs/demo.yaml -p distill.temperature=2 --name warmer

    python -m kdkit run configs/demo.yaml --name demo --from 03

    python -m kdkit run configs/embedding_demo.yaml -p method=stella

    Ctrl-C saves a training at its present step and names the command that goes on; a second one stops at once.
    """
    from kdkit.workflow.helpers import help_training, is_helper, refuse_several
    from kdkit.workflow.pipeline import RunRequest, run_notebooks
    from kdkit.workflow.summary import summarise

    if is_helper(config):
        help_training(config, parameter, name, runs_dir)
        return
    refuse_several(config)
    request = RunRequest(config, parameter, name, runs_dir, first, only, resume, verbose)
    with interruptible("nothing was begun"):
        finished = run_notebooks(request)
    print("\n".join(summarise(finished)))


@app.command()
def chain(
    config: ConfigFile,
    generations: Annotated[int, typer.Option(metavar="K", help="Students that learn one from the other.")],
    parameter: Parameters = [],  # noqa: B006
    name: Annotated[str, typer.Option(help="Name of the chain; its runs are NAME-generation-1, and so on.")] = "",
    runs_dir: RunsDir = "runs",
    resume: Resume = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train students that teach students: generation 1 learns from the teacher, generation k from generation k - 1.

    Generations that are done are skipped, so the same command goes on after Ctrl-C. Examples:

    python -m kdkit chain configs/ensemble.yaml --generations 3

    python -m kdkit chain configs/demo.yaml --generations 2 --name born-again
    """
    from kdkit.report.terminal import to_text
    from kdkit.workflow.several.chain import ChainRequest, chain_table, run_chain

    with interruptible("nothing was begun"):
        runs = run_chain(ChainRequest(config, generations, parameter, name, runs_dir, resume, verbose))
    print(f"\n{to_text(chain_table(runs))}\n\nstudent: {runs[-1].path / 'student'}")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN ...", help="Run names, the reference first.")],
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Compare finished runs: learning curves, settings that differ, differences with paired intervals.

    They must have been judged on the same held-out text. Example:

    python -m kdkit compare demo demo-temperature=2
    """
    from kdkit.report.compare import comparison_text, write_comparison
    from kdkit.workflow.several.compare import compare_runs, comparison_page

    comparison = compare_runs(runs, runs_dir)
    print(comparison_text(comparison))
    print(f"\npage: {write_comparison(comparison, comparison_page(runs_dir))}")


@app.command()
def settings(
    section: Annotated[
        str, typer.Argument(help="A section, setting, loss, method or word: distill, jsd, chat; none: all.")
    ] = "",
    debug: Debug = False,
) -> None:
    """List settings with their defaults, ranges and meanings; all of them, those of a section, or about a word.

    Examples:
    python -m kdkit settings distill

    python -m kdkit settings train.learning_rate

    python -m kdkit settings chat
    """
    from kdkit.config.listing import list_settings

    print(list_settings(section))


@app.command()
def doctor(
    runs_dir: Annotated[str, typer.Option(help="Folder of runs, whose disk is examined.")] = "runs",
    debug: Debug = False,
) -> None:
    """Examine versions, GPU, precision, disk and network; exit code 1 if something must be fixed."""
    from pathlib import Path

    from kdkit.machine.doctor import doctor_verdict, examine

    findings = examine(Path(runs_dir).resolve())
    for finding in findings:
        print(f"{finding.state:<8} {finding.topic:<12} {finding.text}")
    print(f"verdict: {doctor_verdict(findings)}")
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 a user's mistake, 130 interrupted, 75 time is up."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(arguments, prog_name="python -m kdkit", standalone_mode=False)
        if code == INTERRUPTED:
            raise InterruptedWorkError("stopped")
    except USAGE_ERROR as error:
        message = error.format_message().replace(": Value error, ", ": ", 1)  # typer 0.29 shows pydantic's words
        _stop(UserError(message), 2, arguments)
    except UserError as error:
        _stop(error, 2, arguments)
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise
        where = f"{error.filename!r}: " if error.filename else ""
        remedy = "make room or rights there, or name other folders: --runs-dir FOLDER, -p cache_dir=FOLDER"
        _stop(
            UserError(f"disk: expected to read and write, got {where}{error.strerror or error}; {remedy}"), 2, arguments
        )
    except RuntimeError as error:
        _stop(error, 1, arguments)
    except ImportError as error:
        from kdkit.workflow.packages import missing_package

        _stop(missing_package(str(error)), 2, arguments)
    except InterruptedWorkError as error:
        _stop(error, error.code, arguments)
    sys.exit(code or 0)


def _stop(error: BaseException, code: int, arguments: list[str]) -> None:
    """Print one line and exit; with --debug show where it came from."""
    if "--debug" in arguments:
        raise error
    print("kdkit: " + " ".join(str(error).split()), file=sys.stderr)
    sys.exit(code)
