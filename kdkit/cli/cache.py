"""The verbs of the cache: build, verify, info, repair."""

from typing import Annotated

import typer

from kdkit.cli.options import ConfigFile, Debug, Parameters, RunName, RunsDir, Verbose, command_line, interruptible

cache_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The teacher's answers on disk: build them once, train many students without the teacher.",
)

CacheFile = Annotated[str, typer.Argument(metavar="FILE", help="A cache, as `cache build` names it.")]


@cache_app.command()
def build(
    config: ConfigFile,
    output: Annotated[str, typer.Option(help="File to write; default: in the folder of caches.")] = "",
    parameter: Parameters = [],  # noqa: B006
    name: RunName = "",
    runs_dir: RunsDir = "runs",
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Let the teacher answer for every training sequence and keep the answers.

    A build that was stopped goes on with the same command. Size and time are said first. Example:

    python -m kdkit cache build configs/demo.yaml --output answers.h5

    python -m kdkit run configs/demo.yaml -p cache.enabled=true -p cache.file=answers.h5
    """
    from dataclasses import replace

    from kdkit.data.prepare import prepare_data
    from kdkit.distill.open_teacher import build_cache
    from kdkit.distill.plan import plan_training
    from kdkit.machine.open_session import open_session
    from kdkit.workflow.terminal import Terminal

    # the file is the command's business: it must not make another run of the same settings
    session = open_session(config, parameter, name, runs_dir)
    if output:
        cache = session.config.cache.model_copy(update={"file": output})
        session = replace(session, config=session.config.model_copy(update={"cache": cache}))
    terminal = Terminal(verbose)
    terminal.say(f"hardware: {session.hardware.reason}")
    words = [config, *(word for setting in parameter for word in ("-p", setting))]
    chosen = [("--output", output, ""), ("--name", name, ""), ("--runs-dir", runs_dir, "runs")]
    words += [word for option, value, default in chosen if value != default for word in (option, value)]
    with (
        interruptible("finished chunks are kept", f"to go on: {command_line('cache', 'build', *words)}"),
        terminal.capturing(),
    ):
        path = build_cache(plan_training(session, prepare_data(session)))
    terminal.say(f"cache: {path}")


@cache_app.command()
def verify(file: CacheFile, debug: Debug = False) -> None:
    """Check every byte of a cache; exit code 2 if something is wrong."""
    from pathlib import Path

    from kdkit.distill.open_teacher import verify_cache

    facts = verify_cache(Path(file))
    print(f"{file}: {facts['num_samples']:,} sequences in {facts['num_chunks']} chunks, all as they were written")


@cache_app.command()
def info(file: CacheFile, debug: Debug = False) -> None:
    """Say what a cache holds and what it was made from."""
    from kdkit.config.values import flatten
    from kdkit.runs.store import describe_store

    for key, value in flatten(describe_store(file)).items():
        if not key.startswith("header.config."):
            print(f"{key.removeprefix('header.'):<24} {value}")


@cache_app.command()
def repair(
    file: CacheFile,
    runs_dir: RunsDir = "runs",
    cache_dir: Annotated[str, typer.Option(help="Folder of prepared data and built teachers.")] = ".cache",
    debug: Debug = False,
) -> None:
    """Make the damaged chunks of a cache again, and leave the others as they are.

    The file carries the settings that it was made with; the teacher and the text must still be there.
    """
    from pathlib import Path

    from kdkit.distill.open_teacher import repair_cache
    from kdkit.runs.folder import default_run_name
    from kdkit.runs.open_run import open_side_run

    name = default_run_name(f"repair-{Path(file).name}", [])  # a file may have a name that a run may not
    words = ["--runs-dir", runs_dir, "--cache-dir", cache_dir, "--", file]
    with interruptible("mended chunks are kept", f"to go on: {command_line('cache', 'repair', *words)}"):
        damaged = repair_cache(Path(file), open_side_run(name, runs_dir, cache_dir))
    print(f"{file}: {f'made again: {damaged}' if damaged else 'nothing is damaged'}")
