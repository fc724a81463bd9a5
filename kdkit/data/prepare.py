"""The data stage: from a configuration to windows in the run folder (notebook 01).

Everything is determined by the configuration and the corpus; results are kept in the cache under a
hash of both, and linked into the run's `data/`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.templates import read_template
from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.language import BUILD, Config, DataConfig
from kdkit.data.chat.markers import handle_markers
from kdkit.data.chat.packer import ChatPacker, describe_cuts, give_answers
from kdkit.data.chat.sides import Side
from kdkit.data.conversations import Conversation, texts_of
from kdkit.data.corpora import Corpus, load_corpora, split_documents
from kdkit.data.documents import Documents
from kdkit.data.duplicates import find_near_copies
from kdkit.data.packing import Packer, pack_windows
from kdkit.data.pair import (
    TokenizerPair,
    make_student_tokenizer,
    make_teacher_tokenizer,
    pair_tokenizers,
    pair_vocabularies,
    sample_for_tokenizer,
    with_templates,
)
from kdkit.data.windows import PAD, Windows
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.machine.user_code import is_user_code, make_user_object
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files, link_folder
from kdkit.runs.paths import resolve_input

FORMAT = 5
"""Raise it when the meaning of the stored arrays changes: old caches are then left alone."""
CHAT_FORMAT = 1
"""The same for conversations, beside `FORMAT`."""
Split = Literal["train", "evaluation"]
OWN = "own_student_tokenizer"
"""Folder of the student's tokenizer where the pair reads with the teacher's."""


@dataclass(frozen=True)
class PreparedData:
    """Prepared data: windows of both splits, both tokenizers, and the facts about them."""

    train: Windows
    evaluation: Windows
    student_tokenizer: PreTrainedTokenizerFast
    teacher_tokenizer: PreTrainedTokenizerFast
    overlap: VocabularyOverlap
    manifest: dict[str, Any]
    own_student_tokenizer: PreTrainedTokenizerFast | None = None
    """The student's, where the pair reads with the teacher's because it has fewer tokens; None: it is the above."""
    conversations: Mapping[Split, Documents] | None = None
    """Of each split, as the models read them, cut where they were too long, in JSON: see `Conversation.from_json`. The
    document of a window (`Windows.pieces`) is its number in them. None: the data is text."""

    @property
    def is_chat(self) -> bool:
        """Whether the data are conversations: a window is one conversation."""
        return self.conversations is not None

    def prompts(self, split: Split, count: int | None = None) -> list[Conversation]:
        """Return the first conversations of a split, at most `count` of them; the windows stand in the same order."""
        if self.conversations is None:
            return []
        return [Conversation.from_json(text) for text in self.conversations[split][:count]]

    @property
    def same_tokenizer(self) -> bool:
        """Whether student and teacher ids mean the same tokens."""
        return self.manifest["same_tokenizer"]

    @property
    def key(self) -> str:
        """Fingerprint of all that made this data."""
        return self.manifest["key"]


def prepare_data(session: Session[Config]) -> PreparedData:
    """Read, split, tokenize, align and pack; or open what an earlier call made of the same inputs.

    Raises:
        UserError: see `load_corpus`, `load_tokenizer`; a loss that does not fit the tokenizers; a
            corpus shorter than one sequence.
    """
    folder = build_data(session.config, session.run.cache_path)
    link_folder(folder, session.run.path / "data")
    return open_data(session.run.path / "data")


def identify_data(config: Config, corpus_fingerprint: str, is_chat: bool = False) -> str:
    """Fingerprint all that decides the prepared data of a configuration: its text, tokenizers and lengths."""
    return fingerprint(FORMAT, corpus_fingerprint, config.seed, _relevant_settings(config, is_chat))


def build_data(config: Config, cache_path: Path) -> Path:
    """Return the cache folder with the prepared data of a configuration, making it if needed."""
    corpus, held_out = load_corpora(config.data, cache_path)
    key = identify_data(config, corpus.fingerprint, corpus.is_chat)
    return cached_folder(cache_path / "data", key, lambda path: _build(config, corpus, held_out, key, path))


def open_data(folder: Path) -> PreparedData:
    """Open a folder that `build_data` made."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    student_tokenizer = load_tokenizer(folder / "student_tokenizer", "student.path")
    teacher_tokenizer = load_tokenizer(folder / "teacher_tokenizer", "teacher.path")
    own = folder / OWN
    return PreparedData(
        train=Windows.load(folder / "train"),
        evaluation=Windows.load(folder / "evaluation"),
        student_tokenizer=student_tokenizer,
        teacher_tokenizer=teacher_tokenizer,
        overlap=pair_vocabularies(student_tokenizer, teacher_tokenizer),
        manifest=manifest,
        own_student_tokenizer=load_tokenizer(own, "student.path") if own.is_dir() else None,
        conversations=_open_conversations(folder) if "chat" in manifest else None,
    )


def _open_conversations(folder: Path) -> dict[Split, Documents]:
    """Open the conversations of both splits that a packer wrote."""
    return {split: Documents(folder / split / "conversations") for split in ("train", "evaluation")}


def alignment_examples(data: PreparedData, count: int) -> list[dict[str, str]]:
    """Show evaluation tokens side by side, quoted, so that spaces and line ends can be seen."""
    return list(islice(_aligned_tokens(data), count))


def _aligned_tokens(data: PreparedData) -> Iterator[dict[str, str]]:
    """Yield, token by token, the student's text and the teacher's where one position predicts both."""
    windows, teacher, student = data.evaluation, data.teacher_tokenizer, data.student_tokenizer
    arrays = windows.student_ids, windows.teacher_ids, windows.teacher_positions, windows.same_token
    for row, teacher_row, positions, same_token in zip(*arrays, strict=True):
        for token_id, position, same in zip(row[1:], positions, same_token, strict=False):
            if token_id != PAD:
                text = repr(teacher.decode(teacher_row[position + 1])) if same else "-"
                yield {"student": repr(student.decode(token_id)), "teacher": text}


def _relevant_settings(config: Config, is_chat: bool) -> list[Any]:
    """Collect the settings that decide the tokenizers and the windows."""
    student, teacher = config.student, config.teacher
    return [
        config.data.evaluation_fraction,
        config.data.near_duplicates,
        config.data.special_tokens,
        config.data.max_length,
        teacher_max_length(config),
        [teacher.build.vocab_size] if teacher.path == BUILD else [_identify(teacher.path), teacher.revision],
        [student.build.tokenizer, student.build.vocab_size]
        if student.path == BUILD
        else [_identify(student.path), student.revision],
        [student.document_end, teacher.document_end],
        *([_chat_settings(config)] if is_chat else []),
    ]


def _chat_settings(config: Config) -> list[Any]:
    """Collect the settings that decide how conversations become windows; templates by what they are."""
    given = []
    for side, model in (("student", config.student), ("teacher", config.teacher)):
        file = resolve_input(model.path) / "chat_template.jinja"
        own = fingerprint_files(file) if file.is_file() else None
        given.append(
            own if model.chat_template is None else read_template(model.chat_template, f"{side}.chat_template")
        )
    privileged = config.teacher.privileged_prompt
    return [CHAT_FORMAT, *given, config.data.loss_on, config.data.bad_rows, *([privileged] if privileged else [])]


def _identify(path: str) -> str:
    """Name a model: a hub name by itself, a folder by what its tokenizer files hold."""
    if is_user_code(path):
        return fingerprint(make_user_object(path, "teacher.path").tokenizer.backend_tokenizer.to_str())
    folder = resolve_input(path)
    if not folder.is_dir():
        return path
    return fingerprint(
        *(
            fingerprint_files(f)
            for f in sorted(folder.glob("*"))
            if f.is_file() and f.suffix in (".json", ".txt", ".model")
        )
    )


def data_from_texts(
    texts: list[str],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    max_length: int,
) -> PreparedData:
    """Prepare texts for two models that are already in memory; nothing is written, nothing is held out.

    Args:
        texts: documents; they follow each other, an end token after each.
        max_length: student tokens of a sequence at most; the teacher's may be twice as long.

    Raises:
        UserError: one text in place of a list, or less text than one token.
    """
    if isinstance(texts, str):
        raise UserError(f"texts: expected a list of documents, got one string of {len(texts)} characters; write [text]")
    pair = pair_tokenizers(student_tokenizer, teacher_tokenizer, ("auto", "auto"), texts)
    student_tokenizer, teacher_tokenizer = pair.student, pair.teacher
    overlap = pair_vocabularies(student_tokenizer, teacher_tokenizer)
    train, _ = pack_windows(texts, student_tokenizer, teacher_tokenizer, overlap, max_length, 2 * max_length)
    if not len(train):
        raise UserError(f"texts: expected text of at least one token, got {len(texts)} texts without any; give more")
    manifest = {"key": "", "train": train.describe(), **pair.facts}
    return PreparedData(train, train.first(0), student_tokenizer, teacher_tokenizer, overlap, manifest)


def teacher_max_length(config: Config) -> int:
    """Return the longest teacher sequence in tokens."""
    return config.teacher.max_length or 2 * config.data.max_length


def _build(config: Config, corpus: Corpus, held_out: Corpus | None, key: str, folder: Path) -> None:
    """Fill a folder with tokenizers, windows and the manifest."""
    if held_out is not None:
        train_documents, evaluation_documents = corpus.documents, held_out.documents
    else:
        train_documents, evaluation_documents = split_documents(
            corpus.documents, config.data.evaluation_fraction, config.seed
        )
    train_documents, num_near = _remove_near_copies(config.data, train_documents, evaluation_documents, corpus.is_chat)
    sample = list(texts_of(sample_for_tokenizer(train_documents), corpus.is_chat))
    print(f"data: tokenizers, from {sum(map(len, sample)) / 1e6:.1f} million characters of training text", flush=True)
    teacher_tokenizer = make_teacher_tokenizer(config, sample, corpus.is_chat)
    own = make_student_tokenizer(config, sample, teacher_tokenizer, corpus.is_chat)
    pair, packer, markers = _prepare_packer(config, sample, own, teacher_tokenizer, corpus.is_chat)
    student_tokenizer, teacher_tokenizer = pair.student, pair.teacher
    described, packers = {}, {"training": give_answers(packer, config.teacher.privileged_prompt), "evaluation": packer}
    for name, documents in (("training", train_documents), ("evaluation", evaluation_documents)):
        where = folder / {"training": "train"}.get(name, name)
        size = documents.num_characters.sum() / 1e6
        print(f"data: cutting {size:.1f} million characters of {name} text into sequences", flush=True)
        described[name] = packers[name].write(documents, where)
        _check_size(described[name], name, corpus, config)
    student_tokenizer.save_pretrained(folder / "student_tokenizer")
    teacher_tokenizer.save_pretrained(folder / "teacher_tokenizer")
    if len(own) > len(student_tokenizer):
        own.save_pretrained(folder / OWN)
    manifest = {
        "key": key,
        "corpus": {
            "source": corpus.source,
            "fingerprint": corpus.fingerprint,
            "num_documents": len(corpus.documents),
            "num_duplicates": corpus.num_duplicates,
            "files_left_out": corpus.files_left_out,
            "near_duplicates": num_near,
            "markers": markers,
            "train_documents": len(train_documents),
            "evaluation_documents": len(evaluation_documents),
        },
        "train": described["training"],
        "evaluation": {name: value for name, value in described["evaluation"].items() if name != "bytes_left_out"},
        **pair.facts,
        "vocabulary": {
            "student": len(student_tokenizer),
            "teacher": len(teacher_tokenizer),
            "common": len(packer.overlap.student_ids),
        },
        "openings": [text[:2_000] for text in texts_of(evaluation_documents[:64], corpus.is_chat)],
    }
    if corpus.is_chat:
        manifest["chat"] = {"loss_on": config.data.loss_on, "rows_left_out": corpus.rows_left_out}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


def _prepare_packer(
    config: Config,
    sample: list[str],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    is_chat: bool,
) -> tuple[TokenizerPair, Packer | ChatPacker, dict[str, int]]:
    """Pair the tokenizers and decide how text is cut for them.

    Args:
        sample: training texts.

    Returns:
        The pair, what cuts documents into windows, and the markers in the texts; see `count_markers`.
    """
    choices = config.student.document_end, config.teacher.document_end
    pair = pair_tokenizers(student_tokenizer, teacher_tokenizer, choices, sample)
    if is_chat:
        pair, templates = with_templates(config, pair, (student_tokenizer, teacher_tokenizer))
    markers = handle_markers(sample, (pair.student, pair.teacher), config.data.special_tokens == "read")
    overlap = pair_vocabularies(pair.student, pair.teacher)
    lengths = config.data.max_length, teacher_max_length(config)
    if not is_chat:
        return pair, Packer(pair.student, pair.teacher, overlap, *lengths), markers
    sides = [Side(*each) for each in zip((pair.student, pair.teacher), templates, lengths, strict=True)]
    skips = config.data.bad_rows == "skip"
    return pair, ChatPacker(sides[0], sides[1], overlap, config.data.loss_on, skips), markers


def _check_size(facts: dict[str, Any], name: str, corpus: Corpus, config: Config) -> None:
    """Say what was cut of conversations, and refuse a split of text that is shorter than one sequence."""
    tokens = facts["student_tokens"]
    if corpus.is_chat:
        if cut := describe_cuts(facts):
            print(f"data: {name} conversations: {cut}", flush=True)
    elif tokens < config.data.max_length - 1:
        raise UserError(
            f"data.path: expected at least one sequence of {config.data.max_length} tokens of {name} text, "
            f"got {tokens} tokens from {corpus.source!r}; give more text or lower data.max_length"
        )


def _remove_near_copies(
    data: DataConfig, train: Documents, evaluation: Documents, is_chat: bool
) -> tuple[Documents, int]:
    """Count the training documents that are near-copies of held-out ones, and leave them out unless asked not to."""
    print(f"data: comparing {len(train):,} training documents with {len(evaluation):,} held-out ones", flush=True)
    is_copy = find_near_copies(*(texts_of(documents, is_chat) for documents in (evaluation, train)))
    count = int(is_copy.sum())
    if count:
        what = "left out" if data.near_duplicates == "remove" else "kept (data.near_duplicates=keep)"
        print(f"data: {count} training document(s) nearly repeat a held-out one: {what}", flush=True)
    if data.near_duplicates == "keep":
        return train, count
    if count == len(train):
        raise UserError(
            f"data.path: expected training text that held-out text does not repeat, got {count} documents which all "
            "nearly do; give other text, or set data.near_duplicates=keep"
        )
    return train.select(~is_copy), count
