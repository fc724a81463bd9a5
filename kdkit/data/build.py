"""Building the data of a configuration: tokenizers, windows of both splits, and a manifest that describes them."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.templates import ChatTemplate
from kdkit.config.language import Config, DataConfig
from kdkit.data.chat.markers import handle_markers
from kdkit.data.chat.packer import ChatPacker, describe_cuts, give_answers
from kdkit.data.chat.sides import Side
from kdkit.data.conversations import texts_of
from kdkit.data.many.kinds import FILE
from kdkit.data.many.splits import HeldOut, hold_out
from kdkit.data.many.windows import Reader, write_together
from kdkit.data.pair import (
    TokenizerPair,
    make_pairs,
    make_student_tokenizer,
    make_teacher_tokenizer,
    pair_vocabularies,
    sample_for_tokenizer,
    with_templates,
)
from kdkit.data.problems import FOLDER as PROBLEMS
from kdkit.data.problems import SET_OF, keep_held_out_templates, keep_problems
from kdkit.data.text.corpora import Corpus
from kdkit.errors import UserError
from kdkit.runs.messages import note

OWN = "own_student_tokenizer"
"""Folder of the student's tokenizer where the pair reads with the teacher's."""


@dataclass(frozen=True)
class Table:
    """Whoever reads the text: a student and one or several teachers, by name; one teacher alone has none."""

    own: PreTrainedTokenizerFast
    """The student's tokenizer, before it was paired."""
    student: PreTrainedTokenizerFast
    """That with which it reads."""
    pairs: dict[str, TokenizerPair]
    overlaps: dict[str, VocabularyOverlap]
    max_lengths: dict[str, int]
    """Tokens of each teacher's windows at most."""
    template: ChatTemplate | None
    """The student's, of conversations."""
    templates: dict[str, ChatTemplate]
    """The teachers'."""


def teacher_max_length(config: Config) -> int:
    """Return the longest teacher sequence in tokens."""
    return config.teacher.max_length or 2 * config.data.max_length


def fill_folder(
    config: Config,
    corpus: Corpus,
    held_out: Corpus | None,
    key: str,
    folder: Path,
    given: dict[str, PreTrainedTokenizerFast],
) -> None:
    """Fill a folder with tokenizers, windows and the manifest; of several teachers each gets a folder inside.

    Args:
        held_out: to evaluate on; None: a part of `corpus`.
        given: tokenizers of teachers by name, that need not be made.

    Raises:
        UserError: see `hold_out`, `make_pairs` and `with_templates`; text that is shorter than one sequence.
    """
    documents = hold_out(config.data, corpus, held_out, config.seed)
    sample = list(texts_of(sample_for_tokenizer(documents.train), corpus.is_chat))
    print(f"data: tokenizers, from {sum(map(len, sample)) / 1e6:.1f} million characters of training text", flush=True)
    table = _set_table(config, sample, given, corpus.is_chat)
    tokenizers = table.student, *(pair.teacher for pair in table.pairs.values())
    markers = handle_markers(sample, tokenizers, config.data.special_tokens == "read")
    folders = {name: folder / "members" / f"{key}-{name}" if name else folder for name in table.pairs}
    write = _write_conversations if corpus.is_chat else _write_texts
    described = write(config, corpus, documents, table, list(folders.values()))
    facts = {"key": key, "corpus": _describe_corpus(corpus, documents) | {"markers": markers}}
    openings = [text[:2_000] for text in texts_of(documents.evaluation[:64], corpus.is_chat)]
    for (name, where), part in zip(folders.items(), described, strict=True):
        manifest = facts | part | table.pairs[name].facts | {"vocabulary": _save_tokenizers(table, name, where)}
        if config.data.sources:
            manifest["kinds"] = documents.count_kinds(list(config.data.sources))
        manifest["openings"] = openings
        if corpus.is_chat:
            manifest["chat"] = {"loss_on": config.data.loss_on, "rows_left_out": corpus.rows_left_out}
        keep_held_out_templates(held_out, where)
        _write_json(where / "manifest.json", manifest)
        if name:
            (where / where.name).touch()  # by which `link_folder` knows it
    if "" not in folders:
        of_first = next(iter(folders.values()))
        first = json.loads((of_first / "manifest.json").read_text(encoding="utf-8"))
        if corpus.has_problems:
            shutil.copytree(of_first / PROBLEMS, folder / PROBLEMS)
        _write_json(folder / "manifest.json", first | {"members": {name: part.name for name, part in folders.items()}})


def _set_table(config: Config, sample: list[str], given: dict[str, PreTrainedTokenizerFast], is_chat: bool) -> Table:
    """Make or load all tokenizers, and pair the student's with each teacher's."""
    views = {member.name: config.view(member.name) for member in config.teachers.members} or {"": config}
    teachers = {
        name: given[name] if name in given else make_teacher_tokenizer(view, sample, is_chat)
        for name, view in views.items()
    }
    own = make_student_tokenizer(config, sample, next(iter(teachers.values())), is_chat)
    ends = {name: (view.student.document_end, view.teacher.document_end) for name, view in views.items()}
    pairs, template, templates = make_pairs(own, teachers, ends, sample), None, {}
    if is_chat:
        pairs, template, templates = with_templates(views, pairs, own, teachers)
    student = next(iter(pairs.values())).student
    overlaps = {name: pair_vocabularies(student, pair.teacher) for name, pair in pairs.items()}
    lengths = {name: teacher_max_length(view) for name, view in views.items()}
    return Table(own, student, pairs, overlaps, lengths, template, templates)


def _write_texts(
    config: Config, corpus: Corpus, documents: HeldOut, table: Table, folders: list[Path]
) -> list[dict[str, Any]]:
    """Cut both splits into windows; return the entries `train` and `evaluation` of each teacher's manifest."""
    if config.teacher.privileged_prompt is not None:
        raise UserError(
            "teacher.privileged_prompt: expected conversations, whose questions it replaces, got plain text; "
            "name chat data, or leave it out"
        )
    described: list[dict[str, Any]] = [{} for _ in folders]
    readers = [
        Reader(name, table.student, pair.teacher, table.overlaps[name], table.max_lengths[name])
        for name, pair in table.pairs.items()
    ]
    for split, texts in _announce(documents):
        keeps = split == "train" and config.data.align == "documents"
        parts = write_together(texts, readers, config.data.max_length, [folder / split for folder in folders], keeps)
        for entries, part, folder in zip(described, parts, folders, strict=True):
            _check_size(part, split, corpus, config.data)
            if split == "evaluation":
                del part["bytes_left_out"]
            entries[split] = part
            _save_kinds(config, texts, range(len(texts)), folder / split)
    return described


def _write_conversations(
    config: Config, corpus: Corpus, documents: HeldOut, table: Table, folders: list[Path]
) -> list[dict[str, Any]]:
    """Do the same for conversations; say what was cut of them."""
    described: list[dict[str, Any]] = [{} for _ in folders]
    student = Side(table.student, table.template, config.data.max_length)
    teachers = [
        Side(pair.teacher, table.templates[name], table.max_lengths[name]) for name, pair in table.pairs.items()
    ]
    packer = ChatPacker(
        student,
        teachers,
        list(table.overlaps.values()),
        config.data.loss_on,
        skips=config.data.bad_rows == "skip",
        cuts=not corpus.has_problems,  # half a problem has another answer
    )
    packers = {"train": give_answers(packer, config.teacher.privileged_prompt), "evaluation": packer}
    for split, texts in _announce(documents):
        packer = packers[split]
        parts = packer.write(texts, [folder / split for folder in folders])
        if cut := describe_cuts(parts[0]):
            note(f"data: {split} conversations: {cut}")
        for entries, part, folder in zip(described, parts, folders, strict=True):
            if split == "evaluation":
                del part["bytes_left_out"]
            entries[split] = part
            _save_kinds(config, texts, packer.documents, folder / split)
            if corpus.has_problems:  # those of the training in the order of the windows; all that are held out
                numbers = packer.documents if split == "train" else None
                keep_problems(texts, numbers, folder, SET_OF[split], config.data.prompt_template)
    return described


def _announce(documents: HeldOut) -> Iterator[tuple[str, Any]]:
    """Yield both splits, after a line that says how much there is to do."""
    for split, name, texts in (
        ("train", "training", documents.train),
        ("evaluation", "evaluation", documents.evaluation),
    ):
        size = texts.num_characters.sum() / 1e6
        print(f"data: cutting {size:.1f} million characters of {name} text into sequences", flush=True)
        yield split, texts


def _check_size(described: dict[str, Any], split: str, corpus: Corpus, data: DataConfig) -> None:
    """Refuse a split of text that is shorter than one sequence."""
    if (tokens := described["student_tokens"]) < data.max_length - 1:
        name = {"train": "training"}.get(split, split)
        raise UserError(
            f"data.path: expected at least one sequence of {data.max_length} tokens of {name} text, "
            f"got {tokens} tokens from {corpus.source!r}; give more text or lower data.max_length"
        )


def _save_kinds(config: Config, documents: Any, numbers: Sequence[int], folder: Path) -> None:
    """Write the kinds of the documents beside the windows, where there are several kinds.

    Args:
        numbers: of the documents that the windows hold, in their order.
    """
    if config.data.sources:
        np.save(folder / FILE, documents.kinds[list(numbers)])


def _save_tokenizers(table: Table, name: str, folder: Path) -> dict[str, int]:
    """Save the tokenizers of one pair; return the sizes of their vocabularies."""
    student, teacher = table.student, table.pairs[name].teacher
    student.save_pretrained(folder / "student_tokenizer")
    teacher.save_pretrained(folder / "teacher_tokenizer")
    if len(table.own) > len(student):
        table.own.save_pretrained(folder / OWN)
    return {"student": len(student), "teacher": len(teacher), "common": len(table.overlaps[name].student_ids)}


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


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
