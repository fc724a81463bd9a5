"""The evaluation of an embedding run: the models beside the student, the tasks, and evaluation.json."""

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from kdkit.config.embeddings import REDUCE, EmbeddingConfig
from kdkit.config.methods import MethodSettings
from kdkit.config.tasks import Task
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.data.sentences import Sentences
from kdkit.embeddings.data.tasks import TaskData, embedded_tasks, load_tasks
from kdkit.embeddings.evaluate.by_mteb import find_mteb_tasks, score_run
from kdkit.embeddings.evaluate.late import check_ranked
from kdkit.embeddings.evaluate.models import Candidate, evaluate_embeddings, main_scores
from kdkit.embeddings.models.backbone import context_length
from kdkit.embeddings.models.embedder import EmbeddingModel, check_weights, encode, load_embedding_model
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.models.pooling import Reading, has_token_vectors
from kdkit.embeddings.teacher.probe import load_teacher
from kdkit.embeddings.teacher.vectors import read_vectors
from kdkit.embeddings.training.student import open_embedding_student
from kdkit.embeddings.training.train import AfterEpoch, student_folder
from kdkit.errors import UserError
from kdkit.machine.hardware import Hardware
from kdkit.machine.hub import hub_is_reachable, is_local_path
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint
from kdkit.runs.messages import note

TEACHER_TASK = "the teacher's similarities"
"""Name of the task that is made where there is no other."""
SCORES = "scores.json"
"""The student's scores on resampled rows, which differ from those of another run in pairs."""
MTEB = "evaluate.mteb"
OFF_THE_SHELF = "off the shelf"
"""Name of the ready model of the student's size in tables."""


def open_tasks(session: Session[EmbeddingConfig], data: SentenceData) -> list[TaskData]:
    """Return the tasks on which the models of a run are evaluated.

    The tasks of the configuration, those that Python's documentation gives, and where there is neither, the teacher's
    own similarities: then there is at least something that can get worse.

    Raises:
        UserError: see `load_tasks`; fewer than three held-out sentences to compare; tasks that the teacher or a ready
            model with a vector for every token cannot do.
    """
    tasks = load_tasks(session.config, session.run.cache_path)
    for line in chain.from_iterable(task.notes for task in tasks):
        note(line)
    tasks += embedded_tasks(data.evaluation, data.evaluation_document, session.config.seed)
    tasks = tasks or [_teacher_task(session, data)]
    for name, path, key, revision in _given_models(session.config):
        if has_token_vectors(resolve_embedding_path(path, key), revision):
            check_ranked(tasks, name)
    return tasks


def _given_models(config: EmbeddingConfig) -> list[tuple[str, str, str, str | None]]:
    """Return name, path, setting and revision of the models that are scored as they come."""
    teacher, ready = config.teacher, config.evaluate.off_the_shelf
    given: list[tuple[str, str, str, str | None]] = []
    if teacher.vectors is None:
        given.append(("teacher", teacher.path, "teacher.path", teacher.revision))
    if ready is not None and (is_local_path(ready) or hub_is_reachable()):
        given.append((OFF_THE_SHELF, ready, "evaluate.off_the_shelf", None))
    return given


def _teacher_task(session: Session[EmbeddingConfig], data: SentenceData) -> TaskData:
    """Make a task whose scores are the teacher's: each held-out sentence with its nearest one, and with another."""
    sentences = data.evaluation
    if len(sentences) < 3:
        raise UserError(
            f"evaluate.tasks: expected a task, or at least 3 held-out sentences, got {len(sentences)}; name a data "
            "set, or raise data.evaluation_fraction"
        )
    if session.config.teacher.vectors is not None:
        vectors = read_vectors(session.config.teacher.vectors).of(sentences, "held-out sentences")
    else:
        vectors = encode(load_teacher(session.config, session.hardware), sentences, session.config.evaluate.batch_size)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    others = np.random.default_rng(session.config.seed).integers(1, len(sentences), size=len(sentences))
    partners = np.concatenate([cosines.argmax(axis=1), (np.arange(len(sentences)) + others) % len(sentences)])
    first = np.tile(np.arange(len(sentences)), 2)
    scores = cosines[first, partners].tolist()
    first_texts, second_texts = [sentences[row] for row in first], [sentences[row] for row in partners]
    key = fingerprint(first_texts, second_texts, scores)
    test = Sentences(first_texts, second_texts, None, scores, "held-out sentences", key)
    caveat = "scores are the teacher's own cosines: this says how alike the students are to it, not how good they are"
    return TaskData(Task(name=TEACHER_TASK, kind="sts", path="held-out"), test, None, [caveat])


def task_scorer(session: Session[EmbeddingConfig], tasks: list[TaskData]) -> AfterEpoch:
    """Return what scores a student after an epoch."""

    def score(model: EmbeddingModel) -> dict[str, float]:
        """Score a model, in its own way of reading."""
        before, model.reading = model.reading, _reading_of(model, session.config)
        try:
            batch_size = session.config.evaluate.batch_size
            return main_scores(model, tasks, batch_size=batch_size, autocast_dtype=session.hardware.autocast_dtype)
        finally:
            model.reading = before

    return score


def evaluate_embedding_run(
    session: Session[EmbeddingConfig], data: SentenceData, tasks: list[TaskData]
) -> dict[str, Any]:
    """Measure every model of a run in fp32 and write `evaluation.json`; see `evaluate_embeddings`.

    With `evaluate.mteb` the package mteb scores afterwards, into `mteb.json`.
    A trained model's entry also has its `steps`; what `evaluate_embeddings` calls `resamples` goes to `scores.json`.

    Raises:
        UserError: a method of the configuration has not been trained.
    """
    config = session.config
    evaluation = evaluate_embeddings(
        find_candidates(session, data),
        tasks,
        data.evaluation,
        batch_size=config.evaluate.batch_size,
        bootstrap_samples=config.evaluate.bootstrap_samples,
        seed=config.seed,
        dimensions=config.evaluate.dimensions,
        quantisations=config.evaluate.quantisations,
    )
    # apart, as hardly anybody reads it: what another run is compared by in pairs, rounded as scores are written
    resamples = {task: np.round(values, 4).tolist() for task, values in evaluation.pop("resamples").items()}
    session.run.write_json(SCORES, {"seed": config.seed, "tasks": resamples})
    trained = session.run.read_json("training.json") if (session.run.path / "training.json").is_file() else {}
    for name in trained.keys() & evaluation["models"].keys():
        evaluation["models"][name]["steps"] = trained[name]["steps"]
    session.run.write_json("evaluation.json", evaluation)
    if config.evaluate.mteb:
        score_run(session.run, find_mteb_tasks(config.evaluate.mteb, MTEB), _mteb_models(session), MTEB)
    return evaluation


def _mteb_models(session: Session[EmbeddingConfig]) -> list[str]:
    """Return the models that mteb scores: the teacher where its folder alone says how it is read."""
    teacher = session.config.teacher
    if session.run.read_json("teacher/probe.json").get("token_vectors"):
        note(f"{MTEB}: the teacher is not scored, as it has a vector for every token")
        return ["student"]
    if teacher.vectors is not None or teacher.prompt or teacher.pooling != "auto" or teacher.normalize != "auto":
        note(f"{MTEB}: the teacher is not scored, as settings of teacher change how it is read")
        return ["student"]
    return ["student", "teacher"]


def find_candidates(session: Session[EmbeddingConfig], data: SentenceData) -> dict[str, Candidate]:
    """Load the teacher, the student before training, a ready model, and every trained student."""
    config, hardware = session.config, session.hardware
    if config.teacher.vectors is not None:
        teacher = Candidate("teacher", None, vectors=read_vectors(config.teacher.vectors))
    else:
        teacher = Candidate("teacher", load_teacher(config, hardware, dtype=torch.float32).to(hardware.device))
    untrained = open_embedding_student(session, data).to(hardware.device)
    candidates = {
        "teacher": teacher,
        "untrained": Candidate("untrained", untrained.requires_grad_(False)),
        OFF_THE_SHELF: _off_the_shelf(config, hardware),
    }
    for settings in (config.method, *config.compare):
        role = "student" if settings == config.method else "compared"
        candidates[str(settings)] = Candidate(role, _load_student(session, settings))
    for candidate in candidates.values():
        if candidate.model is not None:
            candidate.model.reading = _reading_of(candidate.model, config)
    return candidates


def _load_student(session: Session[EmbeddingConfig], settings: MethodSettings) -> EmbeddingModel:
    """Load a trained student of the run."""
    config, run, folder = session.config, session.run, student_folder(session, settings)
    if not folder.is_dir():
        raise UserError(
            f"run {run.name!r}: expected a student trained by {settings} in {folder}, got none; train it first: "
            f"{run.command}"
        )
    source = config.teacher if config.student.path == REDUCE else config.student
    model = load_embedding_model(
        str(folder), "student.path", device=session.hardware.device, trust_remote_code=source.trust_remote_code
    )
    return model.requires_grad_(False)


def _off_the_shelf(config: EmbeddingConfig, hardware: Hardware) -> Candidate:
    """Load the ready model, or give the reason why there is none: an evaluation is worth having without it."""
    path = config.evaluate.off_the_shelf
    if path is None:
        return Candidate("off_the_shelf", None, "not asked for: set evaluate.off_the_shelf")
    if not is_local_path(path) and not hub_is_reachable():
        return Candidate("off_the_shelf", None, f"{path}: no network; give a folder as evaluate.off_the_shelf")
    model = load_embedding_model(
        path,
        "evaluate.off_the_shelf",
        device=hardware.device,
        trust_remote_code=config.evaluate.trust_remote_code,
    )
    check_weights(model, "evaluate.off_the_shelf", path)
    return Candidate("off_the_shelf", model.requires_grad_(False))


def _reading_of(model: EmbeddingModel, config: EmbeddingConfig) -> Reading:
    """Return how a model reads the tasks: all of them inputs of the same length, as far as they can."""
    length = config.evaluate.max_length or config.data.max_length
    return replace(model.reading, max_length=min(length, context_length(model.backbone)))
