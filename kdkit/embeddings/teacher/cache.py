"""The cache of an embedding teacher's signals: computed once for every text and kept on disk.

Every distinct text is a record of `kdkit.runs.store`, found by the hash of the text, whatever the order of the rows:

    embedding      `[1, H_teacher]`: the sentence vector, of length 1
    token_states   `[T, H_teacher]`: states of the last layer, special tokens and prompt included
    attentions     `[T * T, attention_layers]`: attention from token to token, mean over the heads

All in fp16, which changes cosines of unit vectors by less than 1e-4. Each kind is a file of its own, made when a
method first needs it; one pass of the teacher makes all that are missing.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.models.backbone import is_causal
from kdkit.embeddings.models.embedder import (
    EmbeddingModel,
    batches_by_length,
    fingerprint_model,
    tokenize,
)
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.models.pooling import read_reading
from kdkit.embeddings.teacher.answers import ATTENTIONS, EMBEDDING, TOKEN_STATES, CachedTeacher, LiveTeacher, ask
from kdkit.embeddings.teacher.probe import describe_vectors, load_teacher
from kdkit.embeddings.teacher.vectors import read_vectors
from kdkit.errors import UserError
from kdkit.machine.hardware import place_teacher
from kdkit.machine.interrupt import stop_when_saved
from kdkit.machine.memory import memory_in_use, read_peak, start_peak
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint
from kdkit.runs.messages import step_line
from kdkit.runs.paths import make_place_for, resolve_input
from kdkit.runs.records import Field, Record
from kdkit.runs.store import open_store
from kdkit.runs.store_build import build_stores

MEANING = 1
"""Raise it when the meaning of the stored numbers changes: older caches are refused."""
CHUNK_TEXTS = 256
"""Texts of a chunk: what a stopped build loses at most."""
COMPRESSION = 0
"""fp16 states are noise to gzip: level 4 saves 7 % of the room and makes reading two to five times slower."""
LARGEST_FP16 = 65504.0


@dataclass(frozen=True)
class AnswerFile:
    """File of all signals of one kind, written or still to be written."""

    path: Path
    header: dict[str, Any]
    """The header that it must have."""


def open_embedding_teacher(
    session: Session[EmbeddingConfig], data: SentenceData, *, tokens: bool, attention_layers: list[int]
) -> tuple[CachedTeacher | LiveTeacher, dict[str, Any]]:
    """Return a configuration's teacher, with signals for `data.texts`, and facts about it.

    With a cache, missing signals are computed now and the teacher is freed; where nothing is missing it is not loaded.

    Args:
        tokens: whether token states are needed.
        attention_layers: teacher layers whose attention maps are needed, counted from 0.

    Returns:
        The teacher, and `width`, `layers`, `causal`, `pooling`, `from_cache`, `seconds` and, with a cache, `files`,
        `num_bytes`, and, where it was loaded, `memory`: `device`, the `peak` in bytes while it computed and what is
        in use once it is `freed`.

    Raises:
        UserError: see `load_embedding_model`; a cache of another teacher, pooling, prompt, length or other texts; NaN
            among the signals.
    """
    config = session.config
    start, layers = time.perf_counter(), tuple(attention_layers)
    if config.teacher.vectors is not None:
        stored, facts = _open_vectors(config.teacher.vectors, data)
        return stored, facts | {"seconds": time.perf_counter() - start}
    if not config.teacher.cache:
        model = load_teacher(config, session.hardware, attentions=bool(layers))
        check_tokens(model, data)
        first = [data.teacher_tokens[row] for row in range(min(len(data.texts), config.teacher.batch_size))]
        answer_chunk(model, first, [EMBEDDING], (), config.teacher.batch_size)  # NaN is found before training
        live = LiveTeacher(model, data.teacher_tokens, tokens, layers, config.teacher.batch_size)
        return live, describe_teacher(model) | {"from_cache": False, "seconds": time.perf_counter() - start}
    kinds = [EMBEDDING] + [TOKEN_STATES] * tokens + [ATTENTIONS] * bool(layers)
    files = identify_answers(session, data, kinds, layers)
    missing = {kind: file for kind, file in files.items() if not _is_there(file)}
    memory = {}
    if missing:
        device, peak = build_answers(session, data, missing, layers)
        memory = {"memory": {"device": str(device), "peak": peak, "freed": memory_in_use(device)}}
    teacher, facts = open_answers(files, data)
    facts |= {"from_cache": not missing, "seconds": time.perf_counter() - start}
    paths = [file.path for file in files.values()]
    facts |= {"files": [str(path) for path in paths], "num_bytes": sum(path.stat().st_size for path in paths)}
    return teacher, facts | memory


def _open_vectors(path: str, data: SentenceData) -> tuple[CachedTeacher, dict[str, Any]]:
    """Return the teacher whose vectors are in a file, as a cache of them."""
    file = read_vectors(path)
    lengths = np.zeros(len(data.texts), np.int64)  # of tokens, of which it has none
    teacher = CachedTeacher(list(map(text_key, data.texts)), lengths, file.of(data.texts, "training sentences"))
    size = {"files": [str(file.path)], "num_bytes": file.path.stat().st_size}
    return teacher, describe_vectors(file) | size | {"from_cache": True}


def identify_answers(
    session: Session[EmbeddingConfig], data: SentenceData, kinds: list[str], layers: tuple[int, ...]
) -> dict[str, AnswerFile]:
    """Return the files of the signals for `data.texts`, by their kinds; nothing is loaded.

    Args:
        layers: teacher layers of the attention maps.
    """
    common, files = describe_answers(session, data), {}
    for kind in kinds:
        header = {"kind": f"teacher {kind}"} | common
        if kind == ATTENTIONS:
            header |= {"attention_layers": list(layers)}
        if not session.config.teacher.cache_file:
            path = session.run.cache_path / "embeddings" / f"{fingerprint(header)}-{kind}.h5"
        else:
            path = resolve_input(session.config.teacher.cache_file)
            path = path if kind == EMBEDDING else path.with_name(f"{path.stem}-{kind}{path.suffix}")
        files[kind] = AnswerFile(path, header)
    return files


def build_answers(
    session: Session[EmbeddingConfig],
    data: SentenceData,
    files: dict[str, AnswerFile],
    layers: tuple[int, ...],
) -> tuple[torch.device, int]:
    """Load the teacher and fill the files; return its device and the peak of the memory there."""
    config = session.config
    start_peak(torch.device(place_teacher(config.teacher.device, session.hardware)[0]))
    model = load_teacher(config, session.hardware, attentions=ATTENTIONS in files)
    check_tokens(model, data)
    facts = {"facts": describe_teacher(model)}
    ids = dict(zip(map(text_key, data.texts), data.teacher_tokens, strict=True))
    # whatever the order of the texts; samples of a chunk are filled up to its longest, so alike ones go together
    keys = sorted(ids, key=lambda key: (-len(ids[key]), key))
    chunks = [keys[start : start + CHUNK_TEXTS] for start in range(0, len(keys), CHUNK_TEXTS)]

    def make_chunks(number: int, kinds: list[str]) -> dict[str, list[Record]]:
        """Ask about a chunk, unless it is to stop: those before it are kept."""
        request.check(f"teacher: {number} of {len(chunks)} chunks of its answers are saved")
        records = answer_chunk(model, [ids[key] for key in chunks[number]], kinds, layers, config.teacher.batch_size)
        request.look()
        return records

    stores = {}
    for kind, file in files.items():
        make_place_for(file.path, "teacher.cache_file")
        print(f"teacher: {kind} of {len(keys):,} texts, into {file.path}", flush=True)
        width = len(layers) if kind == ATTENTIONS else model.width
        stores[kind] = file.path, file.header | facts, [Field(kind, "float16", width)]
    with stop_when_saved(session.run, config.train.time_budget_hours) as request:
        build_stores(stores, chunks, make_chunks, _progress(), COMPRESSION)
    return model.device, read_peak(model.device)


def open_answers(files: dict[str, AnswerFile], data: SentenceData) -> tuple[CachedTeacher, dict[str, Any]]:
    """Open files that are there, and return the teacher and its facts in them; see `describe_teacher`.

    Raises:
        UserError: a file of other signals, or a text that it does not have.
    """
    stores = {kind: open_store(file.path, file.header) for kind, file in files.items()}
    keys, vectors = [text_key(text) for text in data.texts], stores[EMBEDDING]
    vectors.require(keys)
    numbers = np.stack([vectors.read(key)[EMBEDDING][0] for key in keys]).astype(np.float32)
    vectors.close()
    teacher = CachedTeacher(
        keys,
        np.array([len(ids) for ids in data.teacher_tokens]),
        numbers / np.linalg.norm(numbers, axis=1, keepdims=True).clip(min=1e-6),
        stores.get(TOKEN_STATES),
        stores.get(ATTENTIONS),
    )
    return teacher, dict(vectors.header["facts"])


def text_key(text: str) -> str:
    """Name a text by its content."""
    return hashlib.sha256(text.encode()).hexdigest()


def describe_answers(session: Session[EmbeddingConfig], data: SentenceData) -> dict[str, Any]:
    """Return what the signals depend on; nothing is loaded."""
    settings = session.config.teacher
    max_length = settings.max_length or session.config.data.max_length
    reading = read_reading(
        resolve_embedding_path(settings.path, "teacher.path"),
        "teacher.path",
        revision=settings.revision,
        pooling=settings.pooling,
        prompt=settings.prompt,
        max_length=max_length,
    )
    late = {} if reading.late is None else {"late": asdict(reading.late)}
    return late | {
        "meaning": MEANING,
        "teacher": fingerprint_model(settings.path, settings.revision, "teacher.path"),
        "pooling": "auto" if reading.notes else reading.pooling,  # undeclared: decided when loaded
        "prompt": reading.prompt,
        "pool_prompt": reading.pool_prompt,
        "max_length": max_length,
        "dtype": str(place_teacher(settings.device, session.hardware)[1]).removeprefix("torch."),
        "num_texts": len(data.texts),
        "texts": fingerprint(sorted(map(text_key, data.texts))),
    }


def _is_there(file: AnswerFile) -> bool:
    """Return whether a finished store lies there; one of other signals is refused before anything is computed."""
    if file.path.is_file():
        open_store(file.path, file.header, verify=False)
    return file.path.is_file()


def _progress() -> Callable[[int, int], None]:
    """Return a report of ready chunks that prints a line every tenth of the work."""
    start = time.perf_counter()

    def report(ready: int, total: int) -> None:
        """Say how far it is, about ten times."""
        if ready % max(1, total // 10) == 0 or ready == total:
            seconds = time.perf_counter() - start
            print(step_line("teacher", ready, total, "chunks", seconds / ready * (total - ready)), flush=True)

    return report


def answer_chunk(
    model: EmbeddingModel, ids: Sequence[np.ndarray], kinds: list[str], layers: tuple[int, ...], batch_size: int
) -> dict[str, list[Record]]:
    """Make the records of some texts, in their order, of each kind.

    Raises:
        UserError: NaN or inf among the signals.
    """
    records: dict[str, list[Record]] = {kind: [{}] * len(ids) for kind in kinds}
    asked = layers if ATTENTIONS in kinds else ()
    for rows in batches_by_length(ids, batch_size):
        view = ask(model, [ids[row] for row in rows], tokens=TOKEN_STATES in kinds, attention_layers=asked)
        signals = {EMBEDDING: view.pooled[:, None], TOKEN_STATES: view.token_states, ATTENTIONS: view.attentions}
        for kind in kinds:
            halves = _to_half(model, [ids[row] for row in rows], signals[kind], kind)
            for place, row in enumerate(rows):
                n = len(ids[row])
                if kind == ATTENTIONS:
                    values = halves[place, :, :n, :n].transpose(1, 2, 0).reshape(n * n, len(layers))
                else:
                    values = halves[place, : 1 if kind == EMBEDDING else n]
                records[kind][row] = {kind: values}
    return records


def _to_half(model: EmbeddingModel, ids: Sequence[np.ndarray], signals: torch.Tensor, kind: str) -> np.ndarray:
    """Bring signals of some texts to fp16, on the CPU; refuse what is no number, and vectors that point nowhere."""
    flat = signals.flatten(1)
    is_bad = ~flat.isfinite().all(dim=1)
    if kind == EMBEDDING:  # a text of no tokens has no other vector
        is_bad |= (flat == 0).all(dim=1) & torch.tensor([len(text) > 0 for text in ids], device=flat.device)
    if bad := is_bad.nonzero().flatten().tolist():
        names = ", ".join(repr(model.tokenizer.decode(ids[row], skip_special_tokens=True)[:60]) for row in bad[:3])
        raise UserError(
            f"teacher.path: expected finite {kind} other than zero, got NaN, infinite ones or zeros for {len(bad)} of "
            f"{len(ids)} texts: {names}; compute them in another precision (train.precision=fp32), leave these texts "
            "out, or choose another teacher"
        )
    return signals.clamp(-LARGEST_FP16, LARGEST_FP16).half().cpu().numpy()


def describe_teacher(model: EmbeddingModel) -> dict[str, Any]:
    """Return the facts about a teacher that methods and readers need."""
    return {
        "width": model.width,
        "layers": model.num_layers,
        "causal": is_causal(model.backbone),
        "pooling": model.reading.pooling,
    }


def check_tokens(model: EmbeddingModel, data: SentenceData) -> None:
    """Refuse prepared sentences that this teacher would have cut otherwise.

    Raises:
        UserError: another tokenizer, prompt or length.
    """
    reading, texts = model.reading, data.texts[:64]
    own = tokenize(model.tokenizer, texts, reading.max_length, reading.prompt)
    if any(list(ids) != list(given) for ids, given in zip(own, data.teacher_tokens, strict=False)):
        raise UserError(
            "teacher: expected the prepared sentences in its own tokens, got others; prepare the data again with this "
            "teacher, prompt and max_length (notebook 06)"
        )
