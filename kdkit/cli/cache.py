"""The verbs of the cache: build, merge, verify, info, repair."""

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
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Build the I-th of N parts, on any machine; then: cache merge.")
    ] = "",
    ray: Annotated[
        int, typer.Option(metavar="N", min=0, help="Build it by N actors of Ray, one on each GPU; 0: without Ray.")
    ] = 0,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Let the teacher answer for every training sequence and keep the answers.

    A build that was stopped goes on with the same command. Size and time are said first. Examples:

    python -m kdkit cache build configs/demo.yaml --output answers.h5

    python -m kdkit run configs/demo.yaml -p cache.enabled=true -p cache.file=answers.h5

    python -m kdkit cache build configs/demo.yaml --output answers.h5 --shard 1/2

    python -m kdkit cache merge answers.h5 answers.1-of-2.h5 answers.2-of-2.h5
    """
    from kdkit.runs.open_run import run_words
    from kdkit.workflow.machines.answers import CacheRequest, build_answers
    from kdkit.workflow.terminal import Terminal

    terminal = Terminal(verbose)
    chosen = ("--output", output), ("--shard", shard), ("--ray", str(ray or ""))
    words = run_words(config, parameter, name, runs_dir)
    words += [word for option, value in chosen if value for word in (option, value)]
    with interruptible("finished chunks are kept", f"to go on: {command_line('cache', 'build', *words)}"):
        request = CacheRequest(config, parameter, name, runs_dir, output, shard, ray)
        for line in build_answers(request, terminal):
            terminal.say(line)


@cache_app.command()
def merge(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The cache to write.")],
    shards: Annotated[list[str], typer.Argument(metavar="SHARD ...", help="All its parts, in any order.")],
    debug: Debug = False,
) -> None:
    """Make a cache of the parts that `cache build --shard` has built: what one build would have made.

    Every byte of the parts is checked first, and the cache appears whole or not at all. Example:

    python -m kdkit cache merge answers.h5 answers.*-of-8.h5
    """
    from kdkit.workflow.machines.merging import merge_answers

    print("\n".join(merge_answers(out, shards)))


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
            shown = round(value, 2) if isinstance(value, float) else value
            print(f"{key.removeprefix('header.'):<24} {shown}")


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
