"""The verbs of tokenizers: train, show."""

from typing import Annotated

import typer

from kdkit.cli.options import Debug, Parameters, RunsDir, interruptible

tokenizer_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A tokenizer of your own: trained on your text, and shown at work.",
)


@tokenizer_app.command()
def train(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE ...", help="Files or folders of text, python-docs, hub data sets.")
    ],
    vocab_size: Annotated[int, typer.Option(metavar="N", help="Entries, the 256 bytes and special tokens included.")],
    output: Annotated[str, typer.Option(metavar="FOLDER", help="A new folder for the tokenizer.")],
    special: Annotated[
        list[str], typer.Option(metavar="TOKEN", help="A special token beside <|endoftext|>; repeatable.")
    ] = [],  # noqa: B006
    parameter: Parameters = [],  # noqa: B006
    debug: Debug = False,
) -> None:
    """Train a byte-level BPE on files and save it where transformers can load it.

    -p data.KEY=VALUE says how the files are read. Examples:

    python -m kdkit tokenizer train my.txt --vocab-size 4096 --output my-tokenizer

    python -m kdkit tokenizer train python-docs python-code --vocab-size 8192 --output both --special "<|think|>"

    python -m kdkit run quick -p student.build.tokenizer=my-tokenizer
    """
    from kdkit.workflow.tokenizer import TrainRequest, train_and_save

    with interruptible("nothing is kept"):
        train_and_save(TrainRequest(files, vocab_size, output, special, parameter))


@tokenizer_app.command()
def show(
    tokenizer: Annotated[str, typer.Argument(metavar="TOKENIZER", help="A folder, a hub name, or a run.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file or folder of text, python-docs, or hub data.")],
    parameter: Parameters = [],  # noqa: B006
    characters: Annotated[int, typer.Option(min=1, help="Characters that are shown cut into tokens.")] = 600,
    count: Annotated[int, typer.Option(min=1, help="Entries that are listed: the most used and the rarest.")] = 10,
    runs_dir: RunsDir = "runs",
    debug: Debug = False,
) -> None:
    """Show how a tokenizer cuts a text: tokens in colour, bytes per token, the most used and the rarest.

    Without colours (NO_COLOR, or output to a file) a bar stands between tokens. Examples:

    python -m kdkit tokenizer show my-tokenizer my.txt

    python -m kdkit tokenizer show demo python-code --characters 300
    """
    from kdkit.workflow.tokenizer import ShowRequest, show_tokenizer

    with interruptible("nothing is kept"):
        show_tokenizer(ShowRequest(tokenizer, file, parameter, characters, count, runs_dir))
