"""The data stage: from a configuration to windows in the run folder (notebook 01).

Everything is determined by the configuration and the corpus; results are kept in the cache under a
hash of both, and linked into the run's `data/`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap, overlap_vocabularies
from kdkit.alignment.same_ids import share_tokenizer
from kdkit.alignment.tokenizers import end_token_id, load_tokenizer, set_document_end, token_bytes, train_tokenizer
from kdkit.config.language import BUILD, Config, DataConfig
from kdkit.data.chat.markers import handle_markers
from kdkit.data.conversations import Conversation
from kdkit.data.corpora import Corpus, load_corpus, split_documents
from kdkit.data.documents import Documents
from kdkit.data.duplicates import find_near_copies
from kdkit.data.packing import Packer, pack_windows
from kdkit.data.windows import PAD, Windows
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.machine.user_code import is_user_code, make_user_object
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files, link_folder
from kdkit.runs.paths import resolve_input

FORMAT = 5
"""Raise it when the meaning of the stored arrays changes: old caches are then left alone."""
SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS = 64, 2_000
"""Documents, and characters of each, that two tokenizers must cut alike to be one."""
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


def identify_data(config: Config, corpus_fingerprint: str) -> str:
    """Fingerprint all that decides the prepared data of a configuration: its text, tokenizers and lengths."""
    return fingerprint(FORMAT, corpus_fingerprint, config.seed, _relevant_settings(config))


def build_data(config: Config, cache_path: Path) -> Path:
    """Return the cache folder with the prepared data of a configuration, making it if needed."""
    corpus = load_corpus(config.data, cache_path)
    key = identify_data(config, corpus.fingerprint)
    return cached_folder(cache_path / "data", key, lambda path: _build(config, corpus, key, path))


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
        overlap=_overlap(student_tokenizer, teacher_tokenizer),
        manifest=manifest,
        own_student_tokenizer=load_tokenizer(own, "student.path") if own.is_dir() else None,
    )


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
    ]


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
    pair = _pair(student_tokenizer, teacher_tokenizer, ("auto", "auto"), texts)
    student_tokenizer, teacher_tokenizer = pair.student, pair.teacher
    overlap = _overlap(student_tokenizer, teacher_tokenizer)
    train, _ = pack_windows(texts, student_tokenizer, teacher_tokenizer, overlap, max_length, 2 * max_length)
    if not len(train):
        raise UserError(f"texts: expected text of at least one token, got {len(texts)} texts without any; give more")
    manifest = {"key": "", "train": train.describe(), **pair.facts}
    return PreparedData(train, train.first(0), student_tokenizer, teacher_tokenizer, overlap, manifest)


def teacher_max_length(config: Config) -> int:
    """Return the longest teacher sequence in tokens."""
    return config.teacher.max_length or 2 * config.data.max_length


def _build(config: Config, corpus: Corpus, key: str, folder: Path) -> None:
    """Fill a folder with tokenizers, windows and the manifest."""
    train_documents, evaluation_documents = split_documents(
        corpus.documents, config.data.evaluation_fraction, config.seed
    )
    train_documents, num_near = _remove_near_copies(config.data, train_documents, evaluation_documents)
    sample = _tokenizer_sample(train_documents)
    print(f"data: tokenizers, from {sum(map(len, sample)) / 1e6:.1f} million characters of training text", flush=True)
    teacher_tokenizer = _teacher_tokenizer(config, sample)
    own = _student_tokenizer(config, sample, teacher_tokenizer)
    choices = config.student.document_end, config.teacher.document_end
    pair = _pair(own, teacher_tokenizer, choices, sample)
    student_tokenizer, teacher_tokenizer = pair.student, pair.teacher
    markers = handle_markers(sample, (student_tokenizer, teacher_tokenizer), config.data.special_tokens == "read")
    overlap = _overlap(student_tokenizer, teacher_tokenizer)
    lengths = config.data.max_length, teacher_max_length(config)
    packer = Packer(student_tokenizer, teacher_tokenizer, overlap, *lengths)
    described = {}
    for name, documents in (("training", train_documents), ("evaluation", evaluation_documents)):
        where = folder / {"training": "train"}.get(name, name)
        size = documents.num_characters.sum() / 1e6
        print(f"data: cutting {size:.1f} million characters of {name} text into sequences", flush=True)
        described[name] = packer.write(documents, where)
        tokens = described[name]["student_tokens"]
        if tokens < config.data.max_length - 1:
            raise UserError(
                f"data.path: expected at least one sequence of {config.data.max_length} tokens of {name} text, "
                f"got {tokens} tokens from {corpus.source!r}; give more text or lower data.max_length"
            )
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
            "common": len(overlap.student_ids),
        },
        "openings": [text[:2_000] for text in evaluation_documents[:64]],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


@dataclass(frozen=True)
class _Pair:
    """The tokenizers with which the two models read."""

    student: PreTrainedTokenizerFast
    teacher: PreTrainedTokenizerFast
    facts: dict[str, Any]
    """Entries of the manifest: `same_tokenizer`, `tokenizer_notes` (see `SharedTokenizer`), `document_ends`."""


def _pair(
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    choices: tuple[str, str],
    documents: list[str],
) -> _Pair:
    """Make one tokenizer of two that mean the same, and decide what separates documents.

    A student learns its separator here, so that is EOS unless it reads with the teacher's tokenizer; a teacher was
    trained with one, which its files tell.

    Args:
        choices: `document_end` of the student and of the teacher.
    """
    shared = share_tokenizer(student, teacher, [text[:SAMPLE_CHARACTERS] for text in documents[:SAMPLE_DOCUMENTS]])
    if shared is None:
        set_document_end(student, "eos" if choices[0] == "auto" else choices[0], "student.document_end")
        set_document_end(teacher, choices[1], "teacher.document_end")
        pair, notes = (student, teacher), ()
    else:
        pair, notes = (shared.student, shared.teacher), shared.notes
        choice = choices[1] if choices[0] == "auto" else choices[0]
        for tokenizer in pair:
            set_document_end(tokenizer, choice, "student.document_end, teacher.document_end")
    for note in notes:
        print(f"student and teacher share a tokenizer: {note}")
    ends = [tokenizer.convert_ids_to_tokens(end_token_id(tokenizer)) for tokenizer in pair]
    facts = {"same_tokenizer": shared is not None, "tokenizer_notes": list(notes), "document_ends": ends}
    return _Pair(*pair, facts)


def _remove_near_copies(data: DataConfig, train: Documents, evaluation: Documents) -> tuple[Documents, int]:
    """Count the training documents that are near-copies of held-out ones, and leave them out unless asked not to."""
    print(f"data: comparing {len(train):,} training documents with {len(evaluation):,} held-out ones", flush=True)
    is_copy = find_near_copies(evaluation, train)
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


def _tokenizer_sample(documents: Documents) -> list[str]:
    """Choose documents to train tokenizers on, at even distances, of at most `TOKENIZER_CHARACTERS`."""
    step = max(1, math.ceil(documents.num_characters.sum() / TOKENIZER_CHARACTERS))
    return [document[:TOKENIZER_CHARACTERS] for document in documents[::step]]


def _teacher_tokenizer(config: Config, documents: list[str]) -> PreTrainedTokenizerFast:
    """Train the built teacher's tokenizer, or take the given teacher's."""
    teacher = config.teacher
    if teacher.path == BUILD:
        return train_tokenizer(documents, teacher.build.vocab_size)
    if is_user_code(teacher.path):
        return deepcopy(make_user_object(teacher.path, "teacher.path").tokenizer)  # settings of a run are put into it
    return load_tokenizer(teacher.path, "teacher.path", teacher.revision, teacher.trust_remote_code)


def _student_tokenizer(
    config: Config, documents: list[str], teacher_tokenizer: PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
    """Train the built student's tokenizer, share the teacher's, or load the given student's."""
    student = config.student
    if student.path != BUILD:
        return load_tokenizer(student.path, "student.path", student.revision, student.trust_remote_code)
    if student.build.tokenizer == "teacher":
        return teacher_tokenizer
    return train_tokenizer(documents, student.build.vocab_size)


def _overlap(
    student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> VocabularyOverlap:
    """Pair the common tokens, the end of a document among them."""
    ends = end_token_id(student_tokenizer), end_token_id(teacher_tokenizer)
    tables = token_bytes(student_tokenizer), token_bytes(teacher_tokenizer)
    for table, end in zip(tables, ends, strict=True):
        table[end] = None  # its partner is the other end, also where texts may name it
    return overlap_vocabularies(*tables, ends)
