"""The teacher's answers to single sentences: asked in every step, or once and kept on disk.

Letters: b batch, m teacher tokens (padding included), d_t teacher width, k attention layers.

Every distinct text is a record of `kdkit.runs.store`, found by the hash of the text, whatever the order of the rows:

    embedding      1 row, d_t: the sentence vector, of length 1
    token_states   m rows, d_t: states of the last layer, special tokens and prompt included
    attentions     m * m rows, k: attention from token to token, mean over the heads, in the layers asked for

All in fp16, which changes cosines of unit vectors by less than 1e-4. Each kind is a file of its own, made when a
method first needs it; one pass of the teacher makes all that are missing.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.models.embedder import EmbeddingModel, batches_by_length, fingerprint_model, place_teacher
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.models.pooling import read_reading
from kdkit.embeddings.teacher.asking import (
    ATTENTIONS,
    EMBEDDING,
    TOKEN_STATES,
    TeacherView,
    answer_chunk,
    ask,
    check_tokens,
    describe_teacher,
)
from kdkit.embeddings.teacher.probe import load_teacher
from kdkit.machine.memory import memory_in_use, read_peak, start_peak
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint
from kdkit.runs.paths import make_place_for, resolve_input
from kdkit.runs.records import Field, Record
from kdkit.runs.store import Store, open_store
from kdkit.runs.store_build import build_stores

MEANING = 1
"""Raise it when the meaning of the stored numbers changes: older caches are refused."""
CHUNK_TEXTS = 256
"""Texts of a chunk: what a stopped build loses at most."""
COMPRESSION = 0
"""fp16 states are noise to gzip: level 4 saves 7 % of the room and makes reading two to five times slower."""


@dataclass(frozen=True)
class CachedTeacher:
    """Answers out of the files; the model itself is not in memory."""

    keys: list[str]
    """Hash of each text."""
    lengths: np.ndarray
    """int, one for each text: its teacher tokens."""
    vectors: np.ndarray
    """fp32, texts x d_t, of length 1."""
    token_states: Store | None = None
    attentions: Store | None = None

    def view(self, rows: list[int], device: torch.device | str) -> TeacherView:
        """Return the answers for some texts, given by their numbers."""
        view = TeacherView(torch.from_numpy(self.vectors[rows]).to(device))
        if self.token_states is None and self.attentions is None:
            return view
        lengths = self.lengths[rows]
        width = max(int(lengths.max()), 1)
        mask = np.arange(width) < lengths[:, None]
        view.attention_mask = torch.from_numpy(mask.astype(np.int64)).to(device)
        if self.token_states is not None:
            states = np.zeros((len(rows), width, self.vectors.shape[1]), np.float16)
            for place, row in enumerate(rows):
                states[place, : lengths[place]] = self.token_states.read(self.keys[row])[TOKEN_STATES]
            view.token_states = torch.from_numpy(states).to(device).float()
        if self.attentions is not None:
            k = self.attentions.fields[0].width
            maps = np.zeros((len(rows), k, width, width), np.float16)
            for place, (row, n) in enumerate(zip(rows, lengths, strict=True)):
                flat = self.attentions.read(self.keys[row])[ATTENTIONS]
                maps[place, :, :n, :n] = flat.reshape(n, n, k).transpose(2, 0, 1)
            view.attentions = torch.from_numpy(maps).to(device).float()
        return view


@dataclass(frozen=True)
class LiveTeacher:
    """Answers of a model in memory, on its own device."""

    model: EmbeddingModel
    ids: Sequence[np.ndarray]
    """Teacher tokens of every text."""
    tokens: bool = False
    """Whether to give token states."""
    attention_layers: tuple[int, ...] = ()
    """Layers whose attention maps to give."""
    batch_size: int = 64
    """Texts in a batch for `vectors`."""

    def view(self, rows: list[int], device: torch.device | str) -> TeacherView:
        """Ask about some texts; only the answers are moved to the device."""
        ids = [self.ids[row] for row in rows]
        view = ask(self.model, ids, tokens=self.tokens, attention_layers=self.attention_layers)
        return TeacherView(
            **{name: None if values is None else values.to(device) for name, values in vars(view).items()}
        )

    @cached_property
    def vectors(self) -> np.ndarray:
        """Sentence vectors of all texts, fp32, texts x d_t; made by one pass over them when first wanted."""
        vectors = np.zeros((len(self.ids), self.model.width), np.float32)
        for rows in batches_by_length(self.ids, self.batch_size):
            vectors[rows] = ask(self.model, [self.ids[row] for row in rows]).pooled.cpu().numpy()
        return vectors


def open_embedding_teacher(
    session: Session[EmbeddingConfig], data: SentenceData, *, tokens: bool, attention_layers: list[int]
) -> tuple[CachedTeacher | LiveTeacher, dict[str, Any]]:
    """Return the teacher of a configuration, ready to answer for `data.texts`, and facts about it.

    With a cache, what is missing is asked now, then the teacher is freed; where nothing is missing it is not loaded.

    Args:
        tokens: whether token states are needed.
        attention_layers: teacher layers whose attention maps are needed, counted from 0.

    Returns:
        The teacher, and `width`, `layers`, `causal`, `pooling`, `from_cache`, `seconds` and, with a cache, `files`,
        `num_bytes`, and, where it was asked, `memory`: `device`, the `peak` in bytes while it answered and what is
        in use once it is `freed`.

    Raises:
        UserError: see `load_embedding_model`; a cache of another teacher, pooling, prompt, length or other texts; NaN
            among the answers.
    """
    config = session.config
    start, layers = time.perf_counter(), tuple(attention_layers)
    if not config.teacher.cache:
        model = load_teacher(config, session.hardware, attentions=bool(layers))
        check_tokens(model, data)
        first = [data.teacher_tokens[row] for row in range(min(len(data.texts), config.teacher.batch_size))]
        answer_chunk(model, first, [EMBEDDING], (), config.teacher.batch_size)  # NaN is found before training
        live = LiveTeacher(model, data.teacher_tokens, tokens, layers, config.teacher.batch_size)
        return live, describe_teacher(model) | {"from_cache": False, "seconds": time.perf_counter() - start}
    kinds = [EMBEDDING] + [TOKEN_STATES] * tokens + [ATTENTIONS] * bool(layers)
    header = _header(session, data)
    plans = {kind: _plan(session, header, kind, layers) for kind in kinds}
    missing = [kind for kind, (path, header) in plans.items() if not _is_there(path, header)]
    memory = {}
    if missing:
        device, peak = _build(session, data, {kind: plans[kind] for kind in missing}, layers)
        memory = {"memory": {"device": str(device), "peak": peak, "freed": memory_in_use(device)}}
    stores = {kind: open_store(path, header) for kind, (path, header) in plans.items()}
    keys = [text_key(text) for text in data.texts]
    stores[EMBEDDING].require(keys)
    vectors = np.stack([stores[EMBEDDING].read(key)[EMBEDDING][0] for key in keys]).astype(np.float32)
    stores[EMBEDDING].close()
    teacher = CachedTeacher(
        keys,
        np.array([len(ids) for ids in data.teacher_tokens]),
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-6),
        stores.get(TOKEN_STATES),
        stores.get(ATTENTIONS),
    )
    files = [str(path) for path, _ in plans.values()]
    facts = stores[EMBEDDING].header["facts"] | {"from_cache": not missing, "seconds": time.perf_counter() - start}
    facts |= {"files": files, "num_bytes": sum(Path(file).stat().st_size for file in files)}
    return teacher, facts | memory


def text_key(text: str) -> str:
    """Name a text by its content."""
    return hashlib.sha256(text.encode()).hexdigest()


def _header(session: Session[EmbeddingConfig], data: SentenceData) -> dict[str, Any]:
    """Return what the answers depend on; nothing is loaded."""
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
    return {
        "meaning": MEANING,
        "teacher": fingerprint_model(settings.path, settings.revision, "teacher.path"),
        "pooling": "auto" if reading.notes else reading.pooling,  # a folder that does not say it is tried when loaded
        "prompt": reading.prompt,
        "pool_prompt": reading.pool_prompt,
        "max_length": max_length,
        "dtype": str(place_teacher(settings.device, session.hardware)[1]).removeprefix("torch."),
        "num_texts": len(data.texts),
        "texts": fingerprint(sorted(map(text_key, data.texts))),
    }


def _plan(
    session: Session[EmbeddingConfig], header: dict[str, Any], kind: str, layers: tuple[int, ...]
) -> tuple[Path, dict[str, Any]]:
    """Return the file of one kind of answers, and what its header must say."""
    header = {"kind": f"teacher {kind}"} | header | ({"attention_layers": list(layers)} if kind == ATTENTIONS else {})
    if not session.config.teacher.cache_file:
        return session.run.cache_path / "embeddings" / f"{fingerprint(header)}-{kind}.h5", header
    path = resolve_input(session.config.teacher.cache_file)
    return path if kind == EMBEDDING else path.with_name(f"{path.stem}-{kind}{path.suffix}"), header


def _is_there(path: Path, header: dict[str, Any]) -> bool:
    """Say whether a finished store lies there; one of other answers is refused before anything is computed."""
    if path.is_file():
        open_store(path, header, verify=False)
    return path.is_file()


def _build(
    session: Session[EmbeddingConfig],
    data: SentenceData,
    plans: dict[str, tuple[Path, dict[str, Any]]],
    layers: tuple[int, ...],
) -> tuple[torch.device, int]:
    """Load the teacher and fill the files; return its device and the peak of the memory there."""
    config = session.config
    start_peak(torch.device(place_teacher(config.teacher.device, session.hardware)[0]))
    model = load_teacher(config, session.hardware, attentions=ATTENTIONS in plans)
    check_tokens(model, data)
    facts = {"facts": describe_teacher(model)}
    ids = dict(zip(map(text_key, data.texts), data.teacher_tokens, strict=True))
    # whatever the order of the texts; samples of a chunk are filled up to its longest, so alike ones go together
    keys = sorted(ids, key=lambda key: (-len(ids[key]), key))
    chunks = [keys[start : start + CHUNK_TEXTS] for start in range(0, len(keys), CHUNK_TEXTS)]

    def make_chunks(number: int, kinds: list[str]) -> dict[str, list[Record]]:
        return answer_chunk(model, [ids[key] for key in chunks[number]], kinds, layers, config.teacher.batch_size)

    stores = {}
    for kind, (path, header) in plans.items():
        make_place_for(path, "teacher.cache_file")
        print(f"teacher: {kind} of {len(keys):,} texts, into {path}", flush=True)
        width = len(layers) if kind == ATTENTIONS else model.width
        stores[kind] = path, header | facts, [Field(kind, "float16", width)]
    build_stores(stores, chunks, make_chunks, _progress(), COMPRESSION)
    return model.device, read_peak(model.device)


def _progress() -> Callable[[int, int], None]:
    """Return a report of ready chunks that prints a line every tenth of the work."""
    start = time.perf_counter()

    def report(ready: int, total: int) -> None:
        if ready % max(1, total // 10) == 0 or ready == total:
            seconds = time.perf_counter() - start
            print(f"teacher {ready:>5}/{total}  {seconds / ready * (total - ready):4.0f} s left", flush=True)

    return report
