"""Documents to learn from: the embedded corpus, the user's files, or a hub data set.

Every source ends as a list of distinct, non-empty texts with a fingerprint. Used by notebook 01.
"""

import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from kdkit.config.language import DataConfig
from kdkit.config.maths.settings import MADE
from kdkit.data.chat.questions import python_questions_in_json
from kdkit.data.chat.read import ChatReader, columns_of, read_file
from kdkit.data.conversations import texts_of
from kdkit.data.text.documents import Documents, clean_text, write_documents
from kdkit.data.text.files import FILE_SUFFIXES, as_text, find_files, missing_column, read_files, split_text
from kdkit.data.text.library import python_code, python_docs
from kdkit.data.text.problems import FORMAT as PROBLEMS_FORMAT
from kdkit.data.text.problems import as_document, holds_problems, read_problem_corpus, write_problem_corpus
from kdkit.errors import UserError
from kdkit.machine.hub import hub_is_reachable
from kdkit.maths.files import SUFFIXES
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files, is_unwatched_notebook
from kdkit.runs.messages import note
from kdkit.runs.paths import resolve_input

__all__ = ["Corpus", "Documents", "clean_text", "load_corpus", "split_documents", "split_text"]

FORMAT = 2
"""Raise it when the same settings choose other documents: old caches are then left alone."""
SAMPLE_SEED = 0
"""Of `data.subset_size`: the documents are the same for every `seed` of a run, so that seeds can be compared."""
SHUFFLE_ROWS = 10_000
"""Rows of a streamed data set among which the next one is drawn."""


HUB_NAMES = {
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "openwebtext": ("Skylion007/openwebtext", None),
    "c4": ("allenai/c4", "en"),
}
"""Short names of data sets, and the hub repository and configuration that hold them today."""
LARGE_DATASETS = ("Skylion007/openwebtext", "allenai/c4")
"""Streamed even when all of it is wanted: tens to hundreds of gigabytes."""

PYTHON_DOCS, PYTHON_QUESTIONS = "python-docs", "python-questions"
LIBRARY: dict[str, Callable[[], Iterator[str]]] = {
    PYTHON_DOCS: python_docs,
    "python-code": python_code,
    PYTHON_QUESTIONS: python_questions_in_json,
}
"""What comes with Python itself: text, and conversations made of it."""


@dataclass(frozen=True)
class Corpus:
    """Distinct documents and where they came from."""

    documents: Documents
    """Read from the disk one by one."""
    source: str
    fingerprint: str
    num_duplicates: int
    """Documents that were dropped because another one has exactly the same text."""
    files_left_out: int = 0
    """Files of the folder that are hidden, or left over by an editor or an archive."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Fingerprint of each kind of text, where there are several."""
    is_chat: bool = False
    """Whether the documents are conversations, in JSON: see `Conversation.to_json`."""
    rows_left_out: dict[str, int] = field(default_factory=dict)
    """Rows that are no conversation, or were not wanted, by the reason."""
    has_problems: bool = False
    """Whether the conversations are maths problems and solutions: see `kdkit.data.text.problems`."""

    @property
    def kind(self) -> str:
        """What the documents are, in words."""
        return "maths problems" if self.has_problems else "conversations" if self.is_chat else "plain text"


def load_with_held_out(data: DataConfig, cache_path: Path) -> tuple[Corpus, Corpus | None]:
    """Load the text of a configuration and its held-out text; None where that is a part of the other.

    The fingerprint of the first is that of both.

    Raises:
        UserError: conversations and plain text; see also `load_corpus`.
    """
    corpus = load_corpus(data, cache_path)
    if data.evaluation_path is None:
        return corpus, None
    held_out = load_corpus(data.model_copy(update={"path": data.evaluation_path, "subset_size": None}), cache_path)
    if held_out.kind != corpus.kind:
        raise UserError(
            f"data.evaluation_path: expected {corpus.kind}, as data.path holds, got {held_out.kind}; name another file"
        )
    return replace(corpus, fingerprint=fingerprint(corpus.fingerprint, held_out.fingerprint)), held_out


def load_corpus(config: DataConfig, cache_path: Path) -> Corpus:
    """Read the documents that a configuration names; a second call reads a cached copy.

    Raises:
        UserError: missing, empty or unreadable files, a missing column, no network for a hub name.
    """
    source, key = _identify(config)
    folder = cached_folder(cache_path / "corpora", key, lambda path: _write(path, source, config))
    meta = json.loads((folder / "meta.json").read_text())
    return Corpus(Documents(folder), **meta)


def split_documents(
    documents: Sequence[str], evaluation_fraction: float, seed: int
) -> tuple[Sequence[str], Sequence[str]]:
    """Hold out whole documents for evaluation, about `evaluation_fraction` of the characters.

    Raises:
        UserError: there are fewer than two documents.
    """
    if len(documents) < 2:
        raise UserError(
            f"data.path: expected at least 2 documents to hold one out, got {len(documents)}; "
            "give more text, or set data.document_separator"
        )
    on_disk = isinstance(documents, Documents)
    sizes = documents.num_characters.tolist() if on_disk else [len(document) for document in documents]
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    wanted = evaluation_fraction * sum(sizes)
    is_held_out = np.zeros(len(documents), bool)
    size = 0
    for index in order:
        if size + sizes[index] <= wanted:
            is_held_out[index] = True
            size += sizes[index]
    if not is_held_out.any():
        is_held_out[min(order, key=lambda index: sizes[index])] = True
    # in the drawn order: neighbours in a file are alike
    sides = [[index for index in order if is_held_out[index] == side] for side in (False, True)]
    if on_disk:
        return documents.select(sides[0]), documents.select(sides[1])
    return [documents[index] for index in sides[0]], [documents[index] for index in sides[1]]


def stream_texts(config: DataConfig) -> tuple[Iterator[str], bool]:
    """Read the texts that a configuration names, of conversations the contents; nothing is kept on the disk.

    Returns:
        The texts, duplicates among them, and whether they are conversations.

    Raises:
        UserError: see `load_corpus`.
    """
    texts, is_chat = _read(_find_source(config), config, ChatReader(config))
    return texts_of((clean_text(text) for text in texts), is_chat), is_chat


def _find_source(config: DataConfig) -> str | Path:
    """Decide what `data.path` names: text that comes with Python, a file or folder, or a hub data set."""
    path = resolve_input(config.path)
    if config.path == MADE:
        raise UserError(f"data: expected {MADE} as data.path of a run, got it elsewhere; set data.path={MADE} alone")
    if config.path in LIBRARY:
        return config.path
    if path.exists():
        return path
    if path.suffix in (*FILE_SUFFIXES, *SUFFIXES) or config.path.startswith(("/", ".", "~")):
        raise UserError(
            f"data.path: expected an existing file or folder, got {config.path!r}, which does not exist "
            f"(in {Path.cwd()}); correct the path, or use data.path=python-docs"
        )
    return config.path


def _identify(config: DataConfig) -> tuple[str | Path, str]:
    """Decide what `data.path` names, and fingerprint all that decides the documents."""
    source, chat = _find_source(config), _chat_settings(config)
    if source in LIBRARY:
        return source, fingerprint(FORMAT, config.path, sys.version, config.subset_size)
    if isinstance(source, Path):
        has_problems = holds_problems(source, config)
        files = [source] if source.is_file() or has_problems else find_files(source)[0]
        content = [[str(file.relative_to(source)), fingerprint_files(file)] for file in files]
        settings = config.text_column, config.document_separator, config.subset_size
        problems = [PROBLEMS_FORMAT] if has_problems else []
        return source, fingerprint(FORMAT, content, source.suffix, *settings, *chat, *problems)
    settings = config.name, config.split, config.text_column, config.subset_size
    return source, fingerprint(FORMAT, config.path, *settings, *chat)


def _chat_settings(config: DataConfig) -> list[str | None]:
    """Return the settings that decide how conversations are read; none where all are the defaults: older keys stay."""
    chosen = [config.format, config.prompt_template, config.answer_column, config.skip_rows_where, config.bad_rows]
    return chosen if chosen != ["auto", None, None, None, "refuse"] else []


def _write(folder: Path, source: str | Path, config: DataConfig) -> None:
    """Write distinct non-empty documents and what is known of them."""
    if holds_problems(source, config):
        write_problem_corpus(folder, str(source), *read_problem_corpus(source, config), config.prompt_template)
        return
    num_left_out, reader = 0, ChatReader(config)
    texts, is_chat = _read(source, config, reader)
    if isinstance(source, Path):
        files, left_out = find_files(source)
        num_left_out, size = len(left_out), sum(file.stat().st_size for file in files)
        more = f"; hidden or left-over and not read: {num_left_out}, such as {left_out[0].name}" if left_out else ""
        print(f"data: reading {source}, {size / 1e6:.1f} MB in {len(files)} file(s){more}", flush=True)
    num_documents, num_duplicates, digest = write_documents(folder, texts)
    if reader.left_out:
        note(f"data: rows left out: {reader.describe()}")
    if not num_documents:
        why = f"every row was left out: {reader.describe()}" if reader.left_out else "it is empty"
        raise UserError(f"data.path: expected text, got none in {str(source)!r}; {why}")
    chat = {"is_chat": True, "rows_left_out": dict(reader.left_out)} if is_chat else {}
    meta = {
        "source": str(source),
        "fingerprint": digest,
        "num_duplicates": num_duplicates,
        "files_left_out": num_left_out,
        **chat,
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def _read(source: str | Path, config: DataConfig, reader: ChatReader) -> tuple[Iterator[str], bool]:
    """Read the raw documents of any source; with `subset_size` so many of them, drawn at random, in their order.

    Returns:
        The documents, and whether they are conversations.
    """
    is_shuffled = is_chat = False
    if holds_problems(source, config):
        problems = read_problem_corpus(source, config)[0]
        return (as_document(each, config.prompt_template) for each in problems), True
    if source in LIBRARY:
        is_chat = source == PYTHON_QUESTIONS
        has, other = ("conversations", PYTHON_DOCS) if is_chat else ("text", PYTHON_QUESTIONS)
        if config.format not in ("auto", "chat" if is_chat else "text"):
            wanted = "text" if is_chat else "conversations"
            raise UserError(
                f"data.format: expected {wanted} in data.path for {config.format!r}, got {source!r}, which is {has}; "
                f"set data.path={other}, or name a file, a folder or a hub data set: data.path=FILE.jsonl"
            )
        texts = LIBRARY[source]()
    elif isinstance(source, Path):
        files = find_files(source)[0]
        is_chat = reader.wants(columns_of(files[0]))
        texts = _read_chat_files(files, reader) if is_chat else read_files(files, config)
    else:
        texts, is_shuffled, is_chat = _read_hub(source, config, reader)
    texts = (text for text in texts if text.strip())
    if is_shuffled:
        return islice(texts, config.subset_size), is_chat
    return texts if config.subset_size is None else _sample(texts, config.subset_size), is_chat


def _read_chat_files(files: list[Path], reader: ChatReader) -> Iterator[str]:
    """Yield the conversations of files; each may have columns of its own."""
    for file in files:
        yield from reader.read(read_file(file), columns_of(file), str(file))


def _sample(texts: Iterable[str], count: int) -> Iterator[str]:
    """Draw texts, each as likely as any other, and yield them in their order.

    Source: Vitter 1985, Random sampling with a reservoir (algorithm R).
    """
    generator = random.Random(SAMPLE_SEED)
    chosen: list[tuple[int, str]] = []
    for number, text in enumerate(texts):
        if len(chosen) < count:
            chosen.append((number, text))
        elif (place := generator.randrange(number + 1)) < count:
            chosen[place] = number, text
    yield from (text for _, text in sorted(chosen))


def _read_hub(name: str, config: DataConfig, reader: ChatReader) -> tuple[Iterator[str], bool, bool]:
    """Read the documents of a hub data set, streamed when it is large or only a part is wanted.

    Returns:
        The documents; whether they come shuffled: a stream, of which not all is wanted, is drawn from the first
        `SHUFFLE_ROWS` rows of shards in random order; and whether they are conversations.
    """
    import datasets

    if not hub_is_reachable():
        datasets.config.HF_HUB_OFFLINE = True
    if is_unwatched_notebook():
        datasets.disable_progress_bars()
    path, default_configuration = HUB_NAMES.get(name, (name, None))
    is_wikitext = path == "Salesforce/wikitext"  # whose rows are lines: they cannot be drawn one by one
    streaming = path in LARGE_DATASETS or (config.subset_size is not None and not is_wikitext)
    is_shuffled = streaming and config.subset_size is not None
    try:
        rows = datasets.load_dataset(
            path, config.name or default_configuration, split=config.split, streaming=streaming
        )
        columns = rows.column_names or list(next(iter(rows), {}))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data.path: expected the hub data set {path!r} to be readable, got {type(error).__name__}: {reason}; "
            "check the name and the network, or point data.path to a local .txt, .jsonl, .csv or .parquet file"
        ) from None
    is_chat = reader.wants(columns)
    if not is_chat and config.text_column not in columns:
        raise missing_column(config.text_column, ", ".join(columns), f"the hub data set {path!r}")
    if is_shuffled:
        rows = rows.shuffle(seed=SAMPLE_SEED, buffer_size=SHUFFLE_ROWS)
    if is_chat:
        numbered = ((f"row {number} of {path!r}", row) for number, row in enumerate(rows, start=1))
        return reader.read(numbered, columns, path), is_shuffled, True
    texts = (as_text(row[config.text_column], config.text_column, path) for row in rows)
    return (_join_articles(texts) if is_wikitext else texts), is_shuffled, False


def _join_articles(lines: Iterable[str]) -> Iterator[str]:
    """Join wikitext's rows, which are lines, into articles: a top heading starts the next one."""
    article: list[str] = []
    for line in lines:
        if re.fullmatch(r" = [^=]+ = \n?", line) and article:
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)
