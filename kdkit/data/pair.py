"""The tokenizers with which student and teacher read: made, given or shared, and what ends a document or a turn."""

import difflib
import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap, overlap_vocabularies
from kdkit.alignment.same_ids import share_tokenizer
from kdkit.alignment.templates import CHATML, CHATML_TOKENS, ChatTemplate, check_markers, read_template
from kdkit.alignment.tokenizers import (
    end_token_id,
    load_tokenizer,
    set_document_end,
    set_turn_end,
    token_bytes,
    train_tokenizer,
)
from kdkit.config.built.student import BuildStudentConfig, StudentConfig
from kdkit.config.language import BUILD, Config, TeacherConfig
from kdkit.config.teachers import BuildTeacherConfig
from kdkit.data.text.documents import Documents
from kdkit.errors import UserError
from kdkit.machine.hub import is_local_path
from kdkit.runs.messages import note

SHARED_OR_OWN = ("own", "teacher")
"""Values of a student's `tokenizer` that name no tokenizer that is there already."""
SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS = 64, 2_000
"""Documents, and characters of each, that two tokenizers must cut alike to be one."""
TOKENIZER_CHARACTERS = 20_000_000
"""Text from which tokenizers are trained at most: more of it costs time and changes next to nothing."""


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers with which the two models read."""

    student: PreTrainedTokenizerFast
    teacher: PreTrainedTokenizerFast
    facts: dict[str, Any]
    """Entries of the manifest: `same_tokenizer`, `tokenizer_notes` (see `SharedTokenizer`), `document_ends`."""


def pair_tokenizers(
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    choices: tuple[str, str],
    documents: list[str],
    teacher_key: str = "teacher",
) -> TokenizerPair:
    """Make one tokenizer of two that mean the same, and decide what separates documents.

    A student learns its separator here, so that is EOS unless it reads with the teacher's tokenizer; a teacher was
    trained with one, which its files tell.

    Args:
        choices: `document_end` of the student and of the teacher.
        teacher_key: what the settings of the teacher are called, for messages.

    Raises:
        UserError: see `set_document_end`.
    """
    shared = share_tokenizer(student, teacher, [text[:SAMPLE_CHARACTERS] for text in documents[:SAMPLE_DOCUMENTS]])
    if shared is None:
        set_document_end(student, "eos" if choices[0] == "auto" else choices[0], "student.document_end")
        set_document_end(teacher, choices[1], f"{teacher_key}.document_end")
        pair, notes = (student, teacher), ()
    else:
        pair, notes = (shared.student, shared.teacher), shared.notes
        choice, side = (choices[1], teacher_key) if choices[0] == "auto" else (choices[0], "student")
        for tokenizer in pair:
            set_document_end(tokenizer, choice, f"{side}.document_end")
    for difference in notes:
        print(f"student and teacher share a tokenizer: {difference}")
    return TokenizerPair(*pair, _facts(pair, shared is not None, notes))


def make_pairs(
    student: PreTrainedTokenizerFast,
    teachers: dict[str, PreTrainedTokenizerFast],
    choices: dict[str, tuple[str, str]],
    documents: list[str],
) -> dict[str, TokenizerPair]:
    """Make a pair with each of several teachers, with the same student in all.

    Args:
        choices: `document_end` of the student and of the teacher, by the teacher's name.

    Raises:
        UserError: the student would read with another tokenizer beside one of them.
    """
    pairs: dict[str, TokenizerPair] = {}
    for name, teacher in teachers.items():
        own, theirs = choices[name]
        if pairs:
            own = student.convert_ids_to_tokens(end_token_id(student))
        pair = pair_tokenizers(student, teacher, (own, theirs), documents, member_key(name))
        if pairs and pair.student is not student:
            raise UserError(
                f"teachers.members.{name}: expected a tokenizer with the student's entries or others, got one that "
                f"lacks {len(student) - len(pair.student)} of its own; list it first, so that the student reads with it"
            )
        pairs[name], student = pair, pair.student
    return pairs


def with_templates(
    views: dict[str, Config],
    pairs: dict[str, TokenizerPair],
    own: PreTrainedTokenizerFast,
    teachers: dict[str, PreTrainedTokenizerFast],
) -> tuple[dict[str, TokenizerPair], ChatTemplate, dict[str, ChatTemplate]]:
    """Give all tokenizers their chat templates, and let the end of a turn end what they read.

    Each model has its own; a student that brings none reads that of the first teacher whose tokenizer it shares.

    Args:
        views: the configuration as each teacher alone has it, by its name.
        own: the student's tokenizer with the template that it brings, before it was paired.
        teachers: the same of the teachers.

    Returns:
        The pairs, the student's template and the teachers'.

    Raises:
        UserError: there is none for a side; a given one names markers that its tokenizer does not know; see also
            `ChatTemplate`.
    """
    texts = {name: teacher.chat_template for name, teacher in teachers.items()}
    shared = [texts[name] for name, pair in pairs.items() if pair.facts["same_tokenizer"]]
    text = own.chat_template or next(filter(None, shared), None)
    first = next(iter(views))
    student, given = pairs[first].student, views[first].student.chat_template
    template = _set_template(student, text, "student.chat_template", given)
    made, templates = {}, {}
    for name, pair in pairs.items():
        # one tokenizer with two templates is two
        teacher = deepcopy(student) if pair.teacher is student and texts[name] != text else pair.teacher
        key, given = f"{teacher_key(views[name])}.chat_template", views[name].teacher.chat_template
        templates[name] = template if teacher is student else _set_template(teacher, texts[name], key, given)
        facts = _facts((student, teacher), pair.facts["same_tokenizer"], pair.facts["tokenizer_notes"])
        made[name] = TokenizerPair(student, teacher, facts)
    return made, template, templates


def _set_template(tokenizer: PreTrainedTokenizerFast, text: str | None, key: str, given: str | None) -> ChatTemplate:
    """Give a tokenizer its template, in place; see `with_templates`."""
    tokenizer.chat_template = text
    template = ChatTemplate(tokenizer, key)
    check_markers(template, is_given=given is not None)
    set_turn_end(tokenizer, template.end_id)
    return template


def teacher_key(config: Config) -> str:
    """Return what the settings of the teacher are called: it may be one of several."""
    return member_key(config.teachers.only)


def member_key(name: str) -> str:
    """Return what the settings of one of several teachers are called; of the only one where the name is empty."""
    return f"teachers.members.{name}" if name else "teacher"


def _facts(
    pair: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast], is_shared: bool, notes: tuple[str, ...]
) -> dict[str, Any]:
    ends = [tokenizer.convert_ids_to_tokens(end_token_id(tokenizer)) for tokenizer in pair]
    return {"same_tokenizer": is_shared, "tokenizer_notes": list(notes), "document_ends": ends}


def pair_vocabularies(
    student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> VocabularyOverlap:
    """Pair the common tokens, the end of a document, or of a turn, among them."""
    ends = end_token_id(student_tokenizer), end_token_id(teacher_tokenizer)
    tables = token_bytes(student_tokenizer), token_bytes(teacher_tokenizer)
    for table, end in zip(tables, ends, strict=True):
        table[end] = None  # its partner is the other end, also where texts may name it
    return overlap_vocabularies(*tables, ends)


def sample_for_tokenizer(documents: Documents) -> list[str]:
    """Choose documents to train tokenizers on, at even distances, of at most `TOKENIZER_CHARACTERS`."""
    step = max(1, math.ceil(documents.num_characters.sum() / TOKENIZER_CHARACTERS))
    return [document[:TOKENIZER_CHARACTERS] for document in documents[::step]]


def make_teacher_tokenizer(config: Config, documents: list[str], is_chat: bool = False) -> PreTrainedTokenizerFast:
    """Train the built teacher's tokenizer, or load the given teacher's; with its chat template."""
    teacher = config.teacher
    if teacher.path == BUILD and not teacher.tokenizer:
        return _train(documents, teacher.build, teacher.chat_template, teacher_key(config), is_chat)
    if teacher.tokenizer:
        return _load(teacher, teacher.tokenizer, "teacher.tokenizer", teacher_key(config))
    return _load(teacher, teacher.path, "teacher.path", teacher_key(config))


def tokenizer_path_of(config: Config) -> str:
    """Return what names the teacher's tokenizer."""
    return config.teacher.tokenizer or config.teacher.path


def make_student_tokenizer(
    config: Config, documents: list[str], teacher_tokenizer: PreTrainedTokenizerFast, is_chat: bool = False
) -> PreTrainedTokenizerFast:
    """Train the built student's tokenizer, share the teacher's, or load the given student's; with its chat template."""
    student = config.student
    if student.path != BUILD:
        return _load(student, student.path, "student.path", "student")
    if (chosen := student.tokenizer) not in SHARED_OR_OWN:
        _check_meant(chosen, student.tokenizer_key)
        return _load(student, chosen, student.tokenizer_key, "student")
    if chosen == "own":
        return _train(documents, student.build, student.chat_template, "student", is_chat)
    if student.chat_template is None:
        return teacher_tokenizer
    tokenizer = deepcopy(teacher_tokenizer)
    tokenizer.chat_template = read_template(student.chat_template, "student.chat_template")
    return tokenizer


def _check_meant(name: str, key: str) -> None:
    """Refuse what is neither a choice of the setting `key` nor a tokenizer's name, but nearly a choice."""
    near = difflib.get_close_matches(name, SHARED_OR_OWN, n=1)
    if near and not is_local_path(name):
        raise UserError(
            f"{key}: did you mean {near[0]!r}? Got {name!r}, expected 'own', 'teacher', or "
            "the folder or hub name of a tokenizer; correct the value"
        )


def _train(
    documents: list[str],
    build: BuildStudentConfig | BuildTeacherConfig,
    template: str | None,
    side: str,
    is_chat: bool,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer; for conversations with the special tokens of ChatML, and its template where none is given."""
    key = f"{side}.build.vocab_size"
    special = CHATML_TOKENS if is_chat else ()
    tokenizer = train_tokenizer(documents, build.vocab_size, special, key, build.digits)
    if len(tokenizer) < build.vocab_size:
        note(
            f"{key}: {build.vocab_size:,} entries wanted, {len(tokenizer):,} made: this text has no more pairs to merge"
        )
    if is_chat:
        tokenizer.chat_template = CHATML if template is None else read_template(template, f"{side}.chat_template")
    return tokenizer


def _load(model: StudentConfig | TeacherConfig, path: str, key: str, side: str) -> PreTrainedTokenizerFast:
    """Load a model's tokenizer, with the chat template that was given for it in the section `side`."""
    tokenizer = load_tokenizer(path, key, model.revision, model.trust_remote_code)
    if model.chat_template is not None:
        tokenizer.chat_template = read_template(model.chat_template, f"{side}.chat_template")
    return tokenizer
