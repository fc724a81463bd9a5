"""The data stage: from a configuration to windows in the run folder (notebook 01).

Everything is determined by the configuration and the corpus; results are kept in the cache under a
hash of both, and linked into the run's `data/`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.language import BUILD, Config, config_from_values
from kdkit.data.chat.markers import handle_markers
from kdkit.data.conversations import Conversation
from kdkit.data.corpora import Corpus, load_corpus
from kdkit.data.documents import Documents
from kdkit.data.many.documents import join_corpora, join_fingerprints, load_corpora
from kdkit.data.many.kinds import Kinds
from kdkit.data.many.pairs import (
    make_pair,
    make_pairs,
    overlap_of,
    student_tokenizer_of,
    teacher_tokenizer_of,
    tokenizer_path_of,
)
from kdkit.data.many.splits import HeldOut, hold_out
from kdkit.data.many.windows import Reader, write_windows
from kdkit.data.packing import pack_windows
from kdkit.data.windows import PAD, Windows
from kdkit.errors import UserError
from kdkit.machine.hub import identify_tokenizer
from kdkit.machine.session import Session
from kdkit.runs.folder import cached_folder, fingerprint, link_folder

FORMAT = 5
"""Raise it when the meaning of the stored arrays changes: old caches are then left alone."""
Split = Literal["train", "evaluation"]
OWN = "own_student_tokenizer"
"""Folder of the student's tokenizer where the pair reads with the teacher's."""
TOKENIZER_CHARACTERS = 20_000_000
"""Text from which tokenizers are trained at most: more of it costs time and changes next to nothing."""


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
    members: dict[str, "PreparedData"] = field(default_factory=dict)
    """The same windows as each of several teachers reads them, by name; these themselves are the first one's."""
    kinds: Kinds | None = None
    """Of the documents, where `data.sources` names several."""
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
    folder, only = build_data(session.config, session.run.cache_path), session.config.teachers.only
    link_folder(_part_of(folder, only), session.run.path / "data")
    return open_data(session.run.path / "data")


def identify_data(config: Config, corpus_fingerprint: str) -> str:
    """Fingerprint all that decides the prepared data of a configuration: its text, tokenizers and lengths."""
    return fingerprint(FORMAT, corpus_fingerprint, config.seed, _relevant_settings(config))


def build_data(config: Config, cache_path: Path) -> Path:
    """Return the cache folder with the prepared data of a configuration, making it if needed."""
    corpus = _load(config, cache_path)
    key = identify_data(config, corpus.fingerprint)
    return cached_folder(cache_path / "data", key, lambda path: _build(config, corpus, key, path, cache_path))


def open_data(folder: Path, only: str = "") -> PreparedData:
    """Open a folder that `build_data` made.

    Args:
        only: the data of one of several teachers; see `teachers.only`.
    """
    folder = _part_of(folder, only)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if names := manifest.get("members"):
        members = {name: open_data(folder, name) for name in names}
        first = next(iter(members.values()))
        return replace(first, members=members, manifest=manifest)
    student_tokenizer = load_tokenizer(folder / "student_tokenizer", "student.path")
    teacher_tokenizer = load_tokenizer(folder / "teacher_tokenizer", "teacher.path")
    own, kinds = folder / OWN, manifest.get("kinds")
    return PreparedData(
        train=Windows.load(folder / "train"),
        evaluation=Windows.load(folder / "evaluation"),
        student_tokenizer=student_tokenizer,
        teacher_tokenizer=teacher_tokenizer,
        overlap=overlap_of(student_tokenizer, teacher_tokenizer),
        manifest=manifest,
        own_student_tokenizer=load_tokenizer(own, "student.path") if own.is_dir() else None,
        kinds=Kinds.load(list(kinds), folder) if kinds else None,
    )


def _part_of(folder: Path, only: str) -> Path:
    """Return the folder inside a folder of data that is one teacher's; the folder itself for none."""
    if not only:
        return folder
    members = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["members"]
    return folder / "members" / members[only]


def _load(config: Config, cache_path: Path) -> Corpus:
    """Read the documents of a configuration."""
    sources = config.data.sources
    return join_corpora(load_corpora(config.data, cache_path)) if sources else load_corpus(config.data, cache_path)


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


def _relevant_settings(config: Config) -> list[Any]:
    """Collect the settings that decide the tokenizers and the windows."""
    members = config.teachers.members
    if not members:
        return _settings_of_pair(config)
    return [[member.name, member.trained_on, _settings_of_pair(config.view(member.name))] for member in members]


def _settings_of_pair(config: Config) -> list[Any]:
    """Collect those of a student and one teacher."""
    student, teacher = config.student, config.teacher
    return [
        config.data.evaluation_fraction,
        config.data.near_duplicates,
        config.data.special_tokens,
        config.data.max_length,
        teacher_max_length(config),
        [teacher.build.vocab_size]
        if teacher.path == BUILD
        else [identify_tokenizer(tokenizer_path_of(config), "teacher.path"), teacher.revision],
        [student.build.tokenizer, student.build.vocab_size]
        if student.path == BUILD
        else [identify_tokenizer(student.path, "student.path"), student.revision],
        [student.document_end, teacher.document_end],
    ]


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
    pair = make_pair(student_tokenizer, teacher_tokenizer, ("auto", "auto"), texts)
    student_tokenizer, teacher_tokenizer = pair.student, pair.teacher
    overlap = overlap_of(student_tokenizer, teacher_tokenizer)
    train, _ = pack_windows(texts, student_tokenizer, teacher_tokenizer, overlap, max_length, 2 * max_length)
    if not len(train):
        raise UserError(f"texts: expected text of at least one token, got {len(texts)} texts without any; give more")
    manifest = {"key": "", "train": train.describe(), **pair.facts}
    return PreparedData(train, train.first(0), student_tokenizer, teacher_tokenizer, overlap, manifest)


def teacher_max_length(config: Config) -> int:
    """Return the longest teacher sequence in tokens."""
    return config.teacher.max_length or 2 * config.data.max_length


def text_of_teacher(config: Config) -> Config:
    """Return the configuration of a built teacher's own training text: no student has a part in it.

    So one teacher serves every student, whatever its tokenizer. What is held out stays so: each kind of text is split
    for itself.
    """
    values = config.model_dump()
    if config.teachers.only and (chosen := config.teachers.member(config.teachers.only).trained_on):
        sources = values["data"]["sources"]
        values["data"]["sources"] = {kind: path for kind, path in sources.items() if kind in chosen}
    values["teachers"] = {}
    values["student"] = {"build": {"tokenizer": "teacher"}}
    values["data"]["max_length"] = teacher_max_length(config)
    values["teacher"]["max_length"] = teacher_max_length(config)
    return config_from_values(values)


def identify_text_of_teacher(config: Config, data: PreparedData) -> str:
    """Fingerprint the text on which a teacher is built.

    Args:
        data: of the run.
    """
    own, corpus = text_of_teacher(config), data.manifest["corpus"]
    is_part = own.data.sources and own.data.sources.keys() != corpus["kinds"].keys()
    chosen = {kind: corpus["kinds"][kind] for kind in own.data.sources}
    return identify_data(own, join_fingerprints(chosen) if is_part else corpus["fingerprint"])


def _build(config: Config, corpus: Corpus, key: str, folder: Path, cache_path: Path) -> None:
    """Fill a folder with tokenizers, windows and the manifest; of several teachers each gets a folder inside."""
    documents = hold_out(config.data, corpus, config.seed)
    sample = _tokenizer_sample(documents.train)
    print(f"data: tokenizers, from {sum(map(len, sample)) / 1e6:.1f} million characters of training text", flush=True)
    views = {member.name: config.view(member.name) for member in config.teachers.members} or {"": config}
    teachers = {name: _teacher_tokenizer(view, sample, cache_path) for name, view in views.items()}
    own = student_tokenizer_of(config, sample, next(iter(teachers.values())))
    pairs = make_pairs(own, teachers, {name: _document_ends(view) for name, view in views.items()}, sample)
    student = next(iter(pairs.values())).student
    tokenizers = student, *(pair.teacher for pair in pairs.values())
    markers = handle_markers(sample, tokenizers, config.data.special_tokens == "read")
    readers = [
        Reader(name, student, pair.teacher, overlap_of(student, pair.teacher), teacher_max_length(views[name]))
        for name, pair in pairs.items()
    ]
    folders = {name: folder / "members" / f"{key}-{name}" if name else folder for name in pairs}
    described = write_windows(config.data, corpus.source, documents, readers, list(folders.values()))
    facts = {"key": key, "corpus": _describe_corpus(corpus, documents) | {"markers": markers}}
    openings = [text[:2_000] for text in documents.evaluation[:64]]
    for reader, part in zip(readers, described, strict=True):
        where, pair = folders[reader.name], pairs[reader.name]
        pair.student.save_pretrained(where / "student_tokenizer")
        pair.teacher.save_pretrained(where / "teacher_tokenizer")
        if len(own) > len(pair.student):
            own.save_pretrained(where / OWN)
        vocabulary = {"student": len(pair.student), "teacher": len(pair.teacher)}
        manifest = facts | part | pair.facts
        manifest |= {"vocabulary": vocabulary | {"common": len(reader.overlap.student_ids)}}
        if config.data.sources:
            manifest["kinds"] = documents.count_kinds(list(config.data.sources))
            documents.save_kinds(where)
        manifest["openings"] = openings
        _write_json(where / "manifest.json", manifest)
        (where / where.name).touch()  # by which `link_folder` knows it
    if len(folders) > 1 or "" not in folders:
        first = json.loads((next(iter(folders.values())) / "manifest.json").read_text(encoding="utf-8"))
        _write_json(folder / "manifest.json", first | {"members": {name: part.name for name, part in folders.items()}})


def _describe_corpus(corpus: Corpus, documents: HeldOut) -> dict[str, Any]:
    """Return the entry `corpus` of the manifest."""
    facts: dict[str, Any] = {
        "source": corpus.source,
        "fingerprint": corpus.fingerprint,
        "num_documents": len(corpus.documents),
        "num_duplicates": corpus.num_duplicates,
        "files_left_out": corpus.files_left_out,
        "near_duplicates": documents.near_copies,
        "train_documents": len(documents.train),
        "evaluation_documents": len(documents.evaluation),
    }
    return facts | ({"kinds": corpus.kinds} if corpus.kinds else {})


def _document_ends(config: Config) -> tuple[str, str]:
    return config.student.document_end, config.teacher.document_end


def _teacher_tokenizer(config: Config, sample: list[str], cache_path: Path) -> PreTrainedTokenizerFast:
    """Return a teacher's tokenizer; that of one that is built on a part of the text comes with that text."""
    if config.teacher.path == BUILD and config.teachers.only:
        folder = build_data(text_of_teacher(config), cache_path)
        return load_tokenizer(folder / "teacher_tokenizer", "teacher.path")
    return teacher_tokenizer_of(config, sample)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")


def _tokenizer_sample(documents: Documents) -> list[str]:
    """Choose documents to train tokenizers on, at even distances, of at most `TOKENIZER_CHARACTERS`."""
    step = max(1, math.ceil(documents.num_characters.sum() / TOKENIZER_CHARACTERS))
    return [document[:TOKENIZER_CHARACTERS] for document in documents[::step]]
