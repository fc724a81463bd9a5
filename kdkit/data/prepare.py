"""The data stage: from a configuration to windows in the run folder (notebook 01).

Everything is determined by the configuration and the corpus; results are kept in the cache under a
hash of both, and linked into the run's `data/`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.templates import read_template
from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.built.student import BuildStudentConfig, StudentConfig
from kdkit.config.language import BUILD, Config, config_from_values
from kdkit.config.maths.settings import MADE
from kdkit.config.teachers import BuildTeacherConfig
from kdkit.data.build import OWN, fill_folder, teacher_max_length
from kdkit.data.conversations import Conversation
from kdkit.data.many.documents import join_corpora, join_fingerprints, load_corpora
from kdkit.data.many.kinds import Kinds
from kdkit.data.packing import pack_windows
from kdkit.data.pair import SHARED_OR_OWN, pair_tokenizers, pair_vocabularies, tokenizer_path_of
from kdkit.data.problems import load_made, open_problems
from kdkit.data.text.corpora import Corpus, load_with_held_out
from kdkit.data.text.documents import Documents
from kdkit.data.windows import Windows
from kdkit.errors import UserError
from kdkit.machine.hub import identify_tokenizer
from kdkit.machine.session import Session
from kdkit.maths.problem import Problem
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files, link_folder
from kdkit.runs.paths import resolve_input

FORMAT = 5
"""Raise it when the meaning of the stored arrays changes: old caches are then left alone."""
CHAT_FORMAT = 2
"""The same for conversations, beside `FORMAT`."""
Split = Literal["train", "evaluation"]


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
    folder: Path | None = None
    """Where it lies; None: in memory."""

    @property
    def is_chat(self) -> bool:
        """Whether the data are conversations: a window is one conversation."""
        return self.conversations is not None

    def prompts(self, split: Split, count: int | None = None) -> list[Conversation]:
        """Return the first conversations of a split, at most `count` of them; the windows stand in the same order."""
        if self.conversations is None:
            return []
        return [Conversation.from_json(text) for text in self.conversations[split][:count]]

    def problems(self, name: str) -> list[Problem]:
        """Return the maths problems of a set (`kdkit.data.problems.SETS`); none where the data are no such.

        Those to train on stand in the order of the windows.
        """
        return [] if self.folder is None else open_problems(self.folder, name)

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


def identify_data(config: Config, corpus_fingerprint: str, is_chat: bool = False) -> str:
    """Fingerprint all that decides the prepared data of a configuration: its text, tokenizers and lengths."""
    return fingerprint(FORMAT, corpus_fingerprint, config.seed, _relevant_settings(config, is_chat))


def build_data(config: Config, cache_path: Path) -> Path:
    """Return the cache folder with the prepared data of a configuration, making it if needed."""
    corpus, held_out = _load(config, cache_path)
    key = identify_data(config, corpus.fingerprint, corpus.is_chat)

    def fill(folder: Path) -> None:
        # the tokenizer of a teacher that is built on a part of the text comes with that text
        views = [config.view(member.name) for member in config.teachers.members if member.path == BUILD]
        folders = {view.teachers.only: build_data(text_of_teacher(view), cache_path) for view in views}
        given = {name: load_tokenizer(at / "teacher_tokenizer", "teacher.path") for name, at in folders.items()}
        fill_folder(config, corpus, held_out, key, folder, given)

    return cached_folder(cache_path / "data", key, fill)


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
        overlap=pair_vocabularies(student_tokenizer, teacher_tokenizer),
        manifest=manifest,
        own_student_tokenizer=load_tokenizer(own, "student.path") if own.is_dir() else None,
        kinds=Kinds.load(list(kinds), folder) if kinds else None,
        conversations=_open_conversations(folder) if "chat" in manifest else None,
        folder=folder,
    )


def _open_conversations(folder: Path) -> dict[Split, Documents]:
    """Open the conversations of both splits that a packer wrote."""
    return {split: Documents(folder / split / "conversations") for split in ("train", "evaluation")}


def _part_of(folder: Path, only: str) -> Path:
    """Return the folder inside a folder of data that is one teacher's; the folder itself for none."""
    if not only:
        return folder
    members = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["members"]
    return folder / "members" / members[only]


def _load(config: Config, cache_path: Path) -> tuple[Corpus, Corpus | None]:
    """Read the documents of a configuration, and those that are held out; None where they are a part of the others."""
    if config.data.path == MADE:
        return load_made(config.maths.problems, config.seed, cache_path, config.data.prompt_template)
    if config.data.sources:
        return join_corpora(load_corpora(config.data, cache_path)), None
    return load_with_held_out(config.data, cache_path)


def _relevant_settings(config: Config, is_chat: bool) -> list[Any]:
    """Collect the settings that decide the tokenizers and the windows."""
    members = config.teachers.members
    if not members:
        return _settings_of_pair(config, is_chat)
    return [
        [member.name, member.trained_on, _settings_of_pair(config.view(member.name), is_chat)] for member in members
    ]


def _settings_of_pair(config: Config, is_chat: bool) -> list[Any]:
    """Collect those of a student and one teacher."""
    student, teacher = config.student, config.teacher
    return [
        config.data.evaluation_fraction,
        config.data.near_duplicates,
        config.data.special_tokens,
        config.data.max_length,
        teacher_max_length(config),
        _settings_of_trained(teacher.build)
        if teacher.path == BUILD and not teacher.tokenizer
        else [identify_tokenizer(tokenizer_path_of(config), "teacher.path"), teacher.revision],
        _settings_of_built(student)
        if student.path == BUILD
        else [identify_tokenizer(student.path, "student.path"), student.revision],
        [student.document_end, teacher.document_end],
        *([config.data.align] if config.data.align != "stream" else []),
        *([_chat_settings(config)] if is_chat else []),
    ]


def _settings_of_built(student: StudentConfig) -> list[Any]:
    """Collect those of the tokenizer of a student that is made here."""
    if student.tokenizer in SHARED_OR_OWN:
        return [student.tokenizer, *_settings_of_trained(student.build)]
    return [identify_tokenizer(student.tokenizer, student.tokenizer_key)]


def _settings_of_trained(build: BuildStudentConfig | BuildTeacherConfig) -> list[Any]:
    """Collect those of a tokenizer that is trained here; the default of a later one is not named: older keys stay."""
    return [build.vocab_size, *([build.digits] if build.digits != "together" else [])]


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


def text_of_teacher(config: Config) -> Config:
    """Return the configuration of a built teacher's own training text: no student has a part in it.

    So one teacher serves every student, whatever its tokenizer and the cut of its text. What is held out stays so:
    each kind of text is split for itself.
    """
    values = config.model_dump()
    if config.teachers.only and (chosen := config.teachers.member(config.teachers.only).trained_on):
        sources = values["data"]["sources"]
        values["data"]["sources"] = {kind: path for kind, path in sources.items() if kind in chosen}
    values["teachers"] = {}
    values["student"] = {"build": {"tokenizer": "teacher"}}
    values["data"] |= {"max_length": teacher_max_length(config), "align": "stream"}
    # it learns to answer questions, not to repeat the answers in them
    values["teacher"] |= {"max_length": teacher_max_length(config), "privileged_prompt": None}
    return config_from_values(values)


def identify_text_of_teacher(config: Config, data: PreparedData) -> str:
    """Fingerprint the text on which a teacher is built.

    Args:
        data: of the run.
    """
    own, corpus = text_of_teacher(config), data.manifest["corpus"]
    is_part = own.data.sources and own.data.sources.keys() != corpus["kinds"].keys()
    chosen = {kind: corpus["kinds"][kind] for kind in own.data.sources}
    return identify_data(own, join_fingerprints(chosen) if is_part else corpus["fingerprint"], data.is_chat)
