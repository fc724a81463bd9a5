"""The verb of rejection sampling: sample."""

from typing import Annotated

import typer

from kdkit.cli.options import ConfigFile, Debug, Parameters, RunName, RunsDir, Verbose, command_line, interruptible

sample_app = typer.Typer(rich_markup_mode=None)

READING = "prompt_template", "answer_column", "skip_rows_where", "subset_size"
"""Settings of `data` that say how a file is read, and do not fit what is written here."""


@sample_app.command()
def sample(
    config: ConfigFile,
    output: Annotated[str, typer.Option(help="File to write, .jsonl; default: in the folder of caches.")] = "",
    parameter: Parameters = [],  # noqa: B006
    name: RunName = "",
    runs_dir: RunsDir = "runs",
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Let the teacher answer the training prompts several times, and keep its best answers as training data.

    What was stopped goes on with the same command; the command that trains on the answers is printed. Example:

    python -m kdkit sample chats.yaml -p sampling.num_samples=8 -p sampling.scorer=numeric_match
    """
    from pathlib import Path

    from kdkit.data.prepare import prepare_data
    from kdkit.machine.open_session import open_session
    from kdkit.runs.open_run import run_words
    from kdkit.runs.paths import make_place_for
    from kdkit.teachers.sampling.rejection import sample_answers
    from kdkit.workflow.terminal import Terminal

    if output:
        make_place_for(Path(output), "--output")
    session = open_session(config, parameter, name, runs_dir)
    terminal = Terminal(verbose)
    terminal.say(f"hardware: {session.hardware.reason}")
    again = [*run_words(config, parameter, name, runs_dir), *(["--output", output] if output else [])]
    with (
        interruptible(f"finished prompts are kept; to go on: {command_line('sample', *again)}"),
        terminal.capturing(),
    ):
        answers = sample_answers(session, prepare_data(session))
    answers = answers.copy_to(Path(output)) if output else answers
    terminal.say(f"sampled: {answers.describe()}")
    terminal.say(f"answers: {answers.path}")
    given = session.config.data.model_dump()
    changes = {f"data.{key}": "null" for key in READING if given[key] is not None} | answers.settings
    overrides = [*parameter, *(f"{key}={value}" for key, value in changes.items())]
    # not wrapped: it is there to be copied
    print(f"train on them: {command_line('run', *run_words(config, overrides, runs_dir=runs_dir))}")
