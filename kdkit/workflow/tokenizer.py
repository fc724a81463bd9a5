"""The verbs of tokenizers: training one on files, and showing how one cuts a text."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.language import ALIASES, Config, DataConfig, config_from_values
from kdkit.config.reading import apply_overrides
from kdkit.config.values import expand_home
from kdkit.data.text.corpora import stream_texts
from kdkit.data.tokenizer.merges import cut_text
from kdkit.data.tokenizer.train import check_new_folder, save_tokenizer, train_on
from kdkit.data.tokenizer.usage import TokenUse, count_tokens, first_of
from kdkit.errors import UserError
from kdkit.report.terminal import to_text
from kdkit.report.tokens.words import colour_tokens, counts_table, divide_tokens, use_table
from kdkit.runs.paths import find_root, resolve_input, resolve_output
from kdkit.workflow.writers import is_bare_name, unknown_name

TOKENIZER_FILES = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True)
class TrainRequest:
    """Options of `python -m kdkit tokenizer train`."""

    files: list[str]
    """Files or folders, text that comes with Python, hub data sets."""
    vocab_size: int
    output: str
    special: list[str]
    overrides: list[str]
    """`data.KEY=VALUE` items: how the files are read."""


@dataclass(frozen=True)
class ShowRequest:
    """Options of `python -m kdkit tokenizer show`."""

    tokenizer: str
    """Folder, hub name or run."""
    file: str
    overrides: list[str]
    characters: int
    """Of the text that is shown cut."""
    count: int
    """Entries in the table of the most and least used."""
    runs_dir: str


def train_and_save(request: TrainRequest) -> None:
    """Train a tokenizer, save it, and print how it is used.

    Raises:
        UserError: see `train_on` and `check_new_folder`.
    """
    output = expand_home(request.output)
    check_new_folder(output, "--output")
    sources = _sources(request.files, request.overrides)
    with _naming_files():
        made = train_on(sources, request.vocab_size, request.special, "--vocab-size")
    save_tokenizer(made.tokenizer, output, "--output")
    print(f"tokenizer: {made.describe()}")
    if made.is_chat:
        print("the texts are conversations: it has the markers and the chat template of ChatML")
    print(f"saved: {output}")
    print(f"look at it: {shlex.join(['python', '-m', 'kdkit', 'tokenizer', 'show', str(output), request.files[0]])}")
    print(f"train with it: python -m kdkit run quick -p {shlex.quote(f'student.build.tokenizer={output}')}")


def show_tokenizer(request: ShowRequest) -> None:
    """Print how a tokenizer cuts a text, and what it makes of all of it.

    Raises:
        UserError: no tokenizer or no text there.
    """
    tokenizer = open_tokenizer(request.tokenizer, request.runs_dir)
    (source,) = _sources([request.file], request.overrides)
    with _naming_files():
        texts, _ = stream_texts(source)
        first = next(texts, None)
    if first is None:
        raise UserError(f"FILE: expected text, got none in {request.file!r}; it is empty")
    pieces = cut_text(tokenizer, "".join(first_of([first], 4 * request.characters))[: request.characters])
    print(f"tokenizer {request.tokenizer}: {len(tokenizer):,} entries")
    print(f"text {request.file}, its beginning:\n")
    print(colour_tokens(pieces) if _has_colours() else divide_tokens(pieces))
    use = count_tokens(tokenizer, chain([first], texts))
    print(f"\n{to_text(use_table({'the whole text': use.describe()}))}")
    print(f"\n{to_text(counts_table(use.most_used(request.count), use.rarest(request.count), use.num_tokens))}")
    print(f"\n{_remarks(tokenizer, use)}")


def open_tokenizer(source: str, runs_dir: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer by folder, hub name, or the name of a run, whose student's it is.

    Raises:
        UserError: there is none.
    """
    run = resolve_output(runs_dir, find_root()) / source if source == Path(source).name else resolve_input(source)
    of_run = run / "data" / "student_tokenizer"
    if of_run.is_dir() and not any((run / name).is_file() for name in TOKENIZER_FILES):
        source = str(of_run)
    try:
        return load_tokenizer(source, "TOKENIZER")
    except UserError:
        if is_bare_name(source):
            raise unknown_name(source, runs_dir, "TOKENIZER", "tokenizer") from None
        raise


def _sources(files: list[str], overrides: list[str]) -> list[DataConfig]:
    """Return how each of several files is read."""
    if wrong := [item for item in overrides if not item.startswith("data.") or item.startswith("data.path=")]:
        raise UserError(
            f"-p: expected settings of how files are read, got {wrong[0]!r}; write e.g. -p data.text_column=story"
        )
    data = config_from_values(apply_overrides(Config, {}, overrides, ALIASES)).data
    return [data.model_copy(update={"path": file}) for file in files]


@contextmanager
def _naming_files() -> Iterator[None]:
    """Call the files of a command what its help calls them, not by the setting of a run."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("data.path=", "").replace("data.path", "FILE")) from None


def _has_colours() -> bool:
    """Return whether the terminal shows colours; see no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _remarks(tokenizer: PreTrainedTokenizerFast, use: TokenUse) -> str:
    """Say what the table cannot: entries that are never used, bytes that are lost, special tokens."""
    lines = [f"never used here: {use.never_used:,} of {use.num_entries:,} entries"]
    if use.unknown_bytes:
        lines.append(f"unknown: {use.unknown_bytes:,} of {use.num_bytes:,} bytes are read as {tokenizer.unk_token!r}")
    else:
        lines.append("unknown: nothing, every byte of this text has a token")
    if use.changed_bytes:
        lines.append(f"changed before it is read: {use.changed_bytes:,} bytes (lower case, accents, spaces)")
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    more = f" and {len(special) - 8} more" if len(special) > 8 else ""
    return "\n".join([*lines, f"special tokens: {' '.join(special[:8])}{more}"])
