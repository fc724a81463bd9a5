"""The tokenizers with which a student and a teacher read."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap, overlap_vocabularies
from kdkit.alignment.same_ids import share_tokenizer
from kdkit.alignment.tokenizers import end_token_id, load_tokenizer, set_document_end, token_bytes, train_tokenizer
from kdkit.config.language import BUILD, Config
from kdkit.errors import UserError

SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS = 64, 2_000
"""Documents, and characters of each, that two tokenizers must cut alike to be one."""


@dataclass(frozen=True)
class Pair:
    """The tokenizers with which the two models read."""

    student: PreTrainedTokenizerFast
    teacher: PreTrainedTokenizerFast
    facts: dict[str, Any]
    """Entries of the manifest: `same_tokenizer`, `tokenizer_notes` (see `SharedTokenizer`), `document_ends`."""


def make_pair(
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    choices: tuple[str, str],
    documents: list[str],
) -> Pair:
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
    return Pair(*pair, facts)


def make_pairs(
    student: PreTrainedTokenizerFast,
    teachers: dict[str, PreTrainedTokenizerFast],
    choices: dict[str, tuple[str, str]],
    documents: list[str],
) -> dict[str, Pair]:
    """Make a pair with each of several teachers, with the same student in all.

    Args:
        choices: `document_end` of the student and of the teacher, by the teacher's name.

    Raises:
        UserError: the student would read with another tokenizer beside one of them.
    """
    pairs: dict[str, Pair] = {}
    for name, teacher in teachers.items():
        own, theirs = choices[name]
        if pairs:
            own = "bos" if end_token_id(student) == student.bos_token_id != student.eos_token_id else "eos"
        pair = make_pair(student, teacher, (own, theirs), documents)
        if pairs and pair.student is not student:
            raise UserError(
                f"teachers.members.{name}: expected a tokenizer with the student's entries or others, got one that "
                f"lacks {len(student) - len(pair.student)} of its own; list it first, so that the student reads with it"
            )
        pairs[name], student = pair, pair.student
    return pairs


def teacher_tokenizer_of(config: Config, documents: list[str]) -> PreTrainedTokenizerFast:
    """Train the built teacher's tokenizer, or take the given teacher's."""
    teacher = config.teacher
    if teacher.path == BUILD:
        return train_tokenizer(documents, teacher.build.vocab_size)
    key = "teacher.tokenizer" if teacher.tokenizer else "teacher.path"
    return load_tokenizer(tokenizer_path_of(config), key, teacher.revision, teacher.trust_remote_code)


def tokenizer_path_of(config: Config) -> str:
    """Return what names the teacher's tokenizer."""
    return config.teacher.tokenizer or config.teacher.path


def student_tokenizer_of(
    config: Config, documents: list[str], teacher_tokenizer: PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
    """Train the built student's tokenizer, share the teacher's, or load the given student's."""
    student = config.student
    if student.path != BUILD:
        return load_tokenizer(student.path, "student.path", student.revision, student.trust_remote_code)
    if student.build.tokenizer == "teacher":
        return teacher_tokenizer
    return train_tokenizer(documents, student.build.vocab_size)


def overlap_of(
    student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> VocabularyOverlap:
    """Pair the common tokens, the end of a document among them."""
    ends = end_token_id(student_tokenizer), end_token_id(teacher_tokenizer)
    tables = token_bytes(student_tokenizer), token_bytes(teacher_tokenizer)
    for table, end in zip(tables, ends, strict=True):
        table[end] = None  # its partner is the other end, also where texts may name it
    return overlap_vocabularies(*tables, ends)
