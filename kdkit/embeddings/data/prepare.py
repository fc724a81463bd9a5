"""The data step for embeddings: from a configuration to sentences, their tokens and what is held out.

Everything is determined by the configuration and the sources; results are kept in the cache under a hash of both, and
linked into the run's `data/`.
"""

import json
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.characters import Ragged, TokenGroups
from kdkit.alignment.tokenizers import END_OF_TEXT, load_tokenizer, tokenizers_match, train_tokenizer
from kdkit.config.embeddings import REDUCE, STATIC, EmbeddingConfig, EmbeddingStudentConfig
from kdkit.config.types import BUILD
from kdkit.data.rows import is_data_file
from kdkit.data.text.corpora import PYTHON_DOCS
from kdkit.embeddings.data.selection import select_sentences
from kdkit.embeddings.data.sentences import Sentences, dropped_words, load_sentences, refuse_hub_settings
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.data.token_pairs import TextTokens, align_texts, tokenize_texts
from kdkit.embeddings.models.places import check_length, load_fast_tokenizer, resolve_embedding_path, resolve_prompt
from kdkit.embeddings.models.static import is_static, load_table, plain_tokenizer
from kdkit.errors import UserError
from kdkit.machine.hub import is_local_path
from kdkit.machine.session import Session
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files, link_folder
from kdkit.runs.messages import note

FORMAT = 2
"""Raise it when the meaning of the stored files changes: old caches are then left alone."""
SIDES = ("student", "teacher")


@dataclass(frozen=True)
class SentenceData:
    """What the later rooms need: texts, rows, tokens of both models, and the facts about them."""

    texts: list[str]
    """Distinct training texts: all for which the teacher's signals are needed."""
    rows: np.ndarray
    """int64, `[rows]`: text of each training row, the first of two."""
    second: np.ndarray | None
    """int64, `[rows]`: text of its second sentence (`data.positives: second`)."""
    evaluation: list[str]
    """Distinct sentences that no training row has."""
    evaluation_document: list[int] | None
    """Their documents' numbers, where there are documents; sentences of one follow each other as they do in it."""
    student_tokens: Ragged
    """Token ids of each text, special tokens included, at most `data.max_length`."""
    teacher_tokens: Ragged
    """The same for the teacher, its prompt included."""
    groups: TokenGroups | None
    """Groups of aligned tokens of both models, where the method needs them."""
    student_tokenizer: PreTrainedTokenizerFast
    teacher_tokenizer: PreTrainedTokenizerFast
    """The same object as the student's where both read the same tokens."""
    manifest: dict[str, Any]
    """Counts, sources, mean lengths."""

    @property
    def key(self) -> str:
        """Fingerprint of all that made this data, the alignment aside."""
        return self.manifest["key"]


def prepare_sentences(session: Session[EmbeddingConfig], alignment: str | None) -> SentenceData:
    """Read, select, tokenize and align; or open what an earlier call made of the same inputs.

    Args:
        alignment: how tokens of both models are put together: `offsets`, `dtw`, `weighted_dtw` or `edit_distance`;
            None where no method needs it.

    Raises:
        UserError: see `load_sentences`, `load_tasks`, `load_fast_tokenizer`; too few sentences are left.
    """
    run = session.run
    folder = build_sentences(session.config, run.cache_path)
    link_folder(folder, run.path / "data")
    if alignment:
        key = fingerprint(folder.name, alignment)
        groups = cached_folder(run.cache_path / "sentence_groups", key, lambda path: _align(folder, alignment, path))
        link_folder(groups, run.path / "data" / alignment)
    return _open(run.path / "data", alignment, folder)


def build_sentences(config: EmbeddingConfig, cache_path: Path) -> Path:
    """Return the cache folder with the sentences and tokens of a configuration, making it if needed.

    Raises:
        UserError: see `prepare_sentences`.
    """
    data, teacher = config.data, config.teacher
    if is_data_file(data.path):
        refuse_hub_settings(data, ("split", "name", "revision"), "data", data.path)
    _check_lengths(config)
    uses_labels = data.positives == "second" and data.positive_labels is not None
    sentences = load_sentences(
        data.path,
        cache_path,
        key="data.path",
        split=data.split,
        name=data.name,
        revision=data.revision,
        columns=dict(data.columns),
        roles=("label",) if uses_labels else (),
        bad_rows=data.bad_rows,
    )
    tests = {task.task.name: task.test.texts() for task in load_tasks(config, cache_path)} if data.decontaminate else {}
    has_model = teacher.vectors is None
    prompt = resolve_prompt(teacher.prompt, teacher.path, teacher.revision, "teacher.path") if has_model else ""
    key = fingerprint(FORMAT, sentences.fingerprint, tests, prompt, _relevant_settings(config))
    build = partial(_build, config, sentences, tests, prompt, key)
    return cached_folder(cache_path / "sentences", key, build)


def _check_lengths(config: EmbeddingConfig) -> None:
    """Refuse a length that a model cannot read, before anything is read or cut."""
    data, teacher, student = config.data, config.teacher, config.student
    if teacher.vectors is None:
        setting = "teacher.max_length" if teacher.max_length else "data.max_length"
        check_length(teacher.max_length or data.max_length, setting, teacher.path, teacher.revision, "teacher.path")
    if student.path == REDUCE and teacher.max_length:
        check_length(data.max_length, "data.max_length", teacher.path, teacher.revision, "teacher.path")
    elif student.path not in (REDUCE, BUILD, STATIC):  # a built one is as long as the sentences, a table has no length
        check_length(data.max_length, "data.max_length", student.path, student.revision, "student.path")


def _build(
    config: EmbeddingConfig, sentences: Sentences, tests: dict[str, list[str]], prompt: str, key: str, folder: Path
) -> None:
    """Fill a folder with texts, rows, tokens, tokenizers and the manifest."""
    selection = select_sentences(sentences, tests, config.data, config.seed)
    if sentences.dropped:
        note(f"data.path: {dropped_words(sentences)}")
    if near := {task: count for task, count in selection.counts["near_matches"].items() if count}:
        words = ", ".join(f"{count:,} of {task}" for task, count in near.items())
        note(f"data.decontaminate: training sentences that nearly are test sentences, and stay: {words}")
    texts = list(dict.fromkeys(chain.from_iterable(selection.rows)))
    number = {text: i for i, text in enumerate(texts)}
    rows = np.array([[number[text] for text in row] for row in selection.rows], dtype=np.int64)
    np.save(folder / "rows.npy", rows)
    lists = {"texts": texts, "evaluation": selection.evaluation, "documents": selection.evaluation_document}
    (folder / "texts.json").write_text(json.dumps(lists, ensure_ascii=False), encoding="utf-8")
    student, teacher = _tokenizers(config, texts)
    manifest = {
        "key": key,
        "source": sentences.source,
        "fingerprint": sentences.fingerprint,
        "dropped": sentences.dropped,
        "same_tokenizer": student is teacher or tokenizers_match(student, teacher),
        "prompt": prompt,
        "lengths": [config.data.max_length, config.teacher.max_length or config.data.max_length],
        **selection.counts,
    }
    tokens = _tokenize(manifest, texts, student, teacher, offsets=False)
    for name, tokenizer, part, limit in zip(SIDES, (student, teacher), tokens, manifest["lengths"], strict=True):
        tokenizer.save_pretrained(folder / f"{name}_tokenizer")
        part.ids.save(folder, f"{name}_tokens")
        sizes = np.diff(part.ids.ends, prepend=0)
        manifest |= {f"mean_{name}_tokens": float(sizes.mean()), f"{name}_at_limit": int((sizes >= limit).sum())}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


def _tokenize(
    manifest: dict[str, Any],
    texts: list[str],
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    *,
    offsets: bool,
) -> tuple[TextTokens, TextTokens]:
    """Tokenize texts for both models, once where both read the same; with `offsets` for an alignment."""
    (student_length, teacher_length), prompt = manifest["lengths"], manifest["prompt"]
    tokens = tokenize_texts(student, texts, student_length, "", offsets)
    if manifest["same_tokenizer"] and not prompt and teacher_length == student_length:
        return tokens, tokens
    return tokens, tokenize_texts(teacher, texts, teacher_length, prompt, offsets)


def _align(prepared: Path, alignment: str, folder: Path) -> None:
    """Fill a folder with the groups of prepared texts."""
    data = _open(prepared, None, prepared)
    tokenizers = data.student_tokenizer, data.teacher_tokenizer
    encode = partial(_tokenize, data.manifest, student=tokenizers[0], teacher=tokenizers[1], offsets=True)
    align_texts(alignment, data.texts, (data.student_tokens, data.teacher_tokens), encode).save(folder)


def _open(folder: Path, alignment: str | None, cached: Path) -> SentenceData:
    """Open what `_build` and `_align` wrote.

    Args:
        cached: the folder of the cache that it is linked to, for the message.

    Raises:
        UserError: it is damaged.
    """
    try:
        return _read(folder, alignment)
    except UserError:  # it names its file
        raise
    except (OSError, ValueError, EOFError, KeyError):
        places = " and ".join(dict.fromkeys(repr(str(place)) for place in (cached, folder)))  # they share their files
        raise UserError(
            f"cache_dir: expected prepared sentences, got damaged files in {places}; remove what is named, it is made "
            "again"
        ) from None


def _read(folder: Path, alignment: str | None) -> SentenceData:
    """Read the files of a folder."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    lists = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    rows = np.load(folder / "rows.npy")
    student = load_tokenizer(folder / "student_tokenizer", "student.path")
    same = manifest["same_tokenizer"]
    groups = TokenGroups.load(folder / alignment) if alignment else None
    if groups:
        shares = {"share_aligned": groups.share_aligned, "share_one_to_one": groups.share_one_to_one()}
        manifest |= {"alignment": alignment} | shares
    return SentenceData(
        texts=lists["texts"],
        rows=rows[:, 0],
        second=rows[:, 1] if rows.shape[1] == 2 else None,
        evaluation=lists["evaluation"],
        evaluation_document=lists["documents"],
        student_tokens=Ragged.load(folder, "student_tokens"),
        teacher_tokens=Ragged.load(folder, "teacher_tokens"),
        groups=groups,
        student_tokenizer=student,
        teacher_tokenizer=student if same else load_tokenizer(folder / "teacher_tokenizer", "teacher.path"),
        manifest=manifest,
    )


def _tokenizers(config: EmbeddingConfig, texts: list[str]) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Load the teacher's tokenizer and load, share or train the student's.

    With `teacher.vectors`, which were made of texts and not of tokens, there is the student's alone.
    """
    teacher, student = config.teacher, config.student
    shared = student.path == REDUCE or (student.path == BUILD and student.build.tokenizer == "teacher")
    if student.path == BUILD and not shared:
        of_student = _own_tokenizer(texts, student.build.vocab_size)
    elif not shared and student.path != STATIC:
        of_student = _tokenizer_of(student)
    if teacher.vectors is not None:
        return of_student, of_student
    of_teacher = load_fast_tokenizer(teacher.path, teacher.revision, "teacher.path", teacher.trust_remote_code)
    if student.path == STATIC:
        return plain_tokenizer(of_teacher), of_teacher
    return of_teacher if shared else of_student, of_teacher


def _tokenizer_of(student: EmbeddingStudentConfig) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model to start from, static or not."""
    name = resolve_embedding_path(student.path, "student.path")
    if is_static(name, student.revision):
        return load_table(name, "student.path", student.revision)[1]
    return load_fast_tokenizer(student.path, student.revision, "student.path", student.trust_remote_code)


def _own_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer that starts every text with its special token, so that an empty one has a token too."""
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, tokenizer.bos_token_id)]
    )
    return tokenizer


def _relevant_settings(config: EmbeddingConfig) -> list[Any]:
    """Collect the settings that decide the selection and the tokens."""
    teacher, student = config.teacher, config.student
    data = config.data.model_dump(exclude={"path", "name", "revision", "split", "columns", "negatives"})
    own = student.path == BUILD and student.build.tokenizer == "own"
    reads_itself = student.path not in (REDUCE, BUILD, STATIC)
    others = [student.build.vocab_size] if own else [STATIC] if student.path == STATIC else []
    return [
        data | {"python_docs": config.data.path == PYTHON_DOCS},
        config.seed,
        [_identify(teacher.path, "teacher.path"), teacher.revision, teacher.max_length]
        if teacher.vectors is None
        else [],
        others,
        [_identify(student.path, "student.path"), student.revision] if reads_itself else [],
    ]


def _identify(path: str, key: str) -> str:
    """Name a model: a hub name by itself, a folder by what its tokenizer files hold."""
    name = resolve_embedding_path(path, key)
    if not is_local_path(name):
        return name
    files = (file for file in sorted(Path(name).glob("*")) if file.suffix in (".json", ".txt", ".model"))
    return fingerprint(*(fingerprint_files(file) for file in files if file.is_file()))
