"""What goes into a run beside its settings: checked before the first notebook, and recognised again without reading."""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdkit.config.embeddings import REDUCE, STATIC, EmbeddingConfig
from kdkit.config.language import BUILD, Config, dump_config
from kdkit.machine.tracking.keys import find_place
from kdkit.machine.user_code import code_file
from kdkit.runs.folder import Run, describe_environment, fingerprint, fingerprint_files
from kdkit.runs.paths import resolve_input
from kdkit.workflow.forecast import plan_work

FILE = "inputs.json"
"""In the run: what its inputs were when they were read last, and how they are recognised."""
OUTPUTS = ("cache_dir", "cache", "cache_file", "wandb_project", "title")
"""Settings that name no input."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run that have been checked."""

    source: str
    """Fingerprint of the corpus and the models."""
    work: dict[str, float]
    """See `plan_work`."""
    sizes: list[str] = field(default_factory=list)
    """Lines on models that will be built."""


def known_inputs(config: Config | EmbeddingConfig, run: Run) -> Inputs | None:
    """Return the inputs that were checked before, if no file has another size or time since; nothing is read."""
    values = run.read_json(FILE) if (run.path / FILE).is_file() else {}
    if values.pop("stamp", None) != stamp_inputs(config):
        return None
    return Inputs(**values)


def keep_inputs(config: Config | EmbeddingConfig, run: Run, inputs: Inputs) -> None:
    """Remember inputs that have been checked, for `known_inputs`."""
    values = asdict(inputs) | {"stamp": stamp_inputs(config)}
    if not (run.path / FILE).is_file() or run.read_json(FILE) != values:
        run.write_json(FILE, values)


def stamp_inputs(config: Config | EmbeddingConfig) -> str:
    """Fingerprint the settings, the software, and name, size and time of every file that the settings name."""
    files = [
        [str(file), file.stat().st_size, file.stat().st_mtime_ns]
        for text in sorted(set(_texts(config.model_dump())))
        if (path := code_file(text) or resolve_input(text)).exists()
        for file in ([path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()))
    ]
    return fingerprint(dump_config(config), sys.version, describe_environment()["packages"], files)


def _texts(value: Any) -> list[str]:
    """Return all texts among nested settings that may name an input."""
    if isinstance(value, dict):
        return [text for name, inner in value.items() if name not in OUTPUTS for text in _texts(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) and _may_be_path(value) else []


def _may_be_path(text: str) -> bool:
    """Return whether a file could have such a name: a title of 300 letters could not, and `build` is never one."""
    parts = text.encode(errors="replace").split(b"/")
    return text != BUILD and 0 < len(text) < 1000 and not {"\n", "\0"} & set(text) and max(map(len, parts)) <= 255


def check_inputs(config: Config | EmbeddingConfig, run: Run) -> Inputs:
    """Find a user's mistakes before anything is written to the run, by reading all that will be read."""
    if config.train.wandb in ("online", "offline"):
        find_place(config.train.wandb)
    return _check_embeddings(config, run) if isinstance(config, EmbeddingConfig) else _check_language(config, run)


def _check_language(config: Config, run: Run) -> Inputs:
    """Check the inputs of a run for language models.

    The prepared data is made here if the cache does not have it: reading the corpus is the check.
    """
    from kdkit.data.prepare import build_data, open_data
    from kdkit.distill.plan import plan_training
    from kdkit.distill.student import describe_student
    from kdkit.evaluate.maths.sets import find_sets
    from kdkit.evaluate.pairs.files import read_pairs
    from kdkit.machine.hardware import find_hardware
    from kdkit.machine.session import Session
    from kdkit.models.loading import check_model_folder
    from kdkit.teachers.build import describe_built_teacher
    from kdkit.teachers.prepare import has_layers, identify_files, identify_teacher

    hardware = find_hardware(config.train.device, config.train.precision)
    read_pairs(config.evaluate.minimal_pairs)
    find_sets(run.path / "data", config.maths.judging)
    parts: list[Any] = []
    members = [(member.path, f"teachers.members.{member.name}.path") for member in config.teachers.members]
    for path, key in (*(members or [(config.teacher.path, "teacher.path")]), (config.student.path, "student.path")):
        if path != BUILD and key != "student.path" and not has_layers(path):
            parts.append(identify_files(path, key))
        elif path != BUILD:
            name = check_model_folder(path, key)
            files = sorted(Path(name).glob("*"))  # none for a hub name
            parts.append([[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files])
    folder = build_data(config, run.cache_path)
    plan = plan_training(Session(config, run, hardware), open_data(folder, config.teachers.only))
    half = hardware.autocast_dtype is not None
    sizes = [describe_student(config, plan.data, half)] if config.student.path == BUILD else []
    builds_teacher = False
    for each in [member.plan for member in plan.members] or [plan]:
        if each.session.config.teacher.path == BUILD:
            key = identify_teacher(each.session, each.data)["key"]
            if not (run.cache_path / "teachers" / key).is_dir():
                builds_teacher = True
                sizes.insert(0, describe_built_teacher(each.session, each.data))
    steps = sum(stage.steps for stage in plan.stages)
    work = plan_work(config, steps, builds_teacher)
    return Inputs(fingerprint(folder.name, parts), work, sizes)


def _check_embeddings(config: EmbeddingConfig, run: Run) -> Inputs:
    """Check the inputs of a run for embedding models: the sentences are read, and the tasks."""
    from kdkit.embeddings.data.prepare import build_sentences
    from kdkit.embeddings.data.tasks import load_tasks
    from kdkit.embeddings.evaluate.by_mteb import find_mteb_tasks
    from kdkit.embeddings.evaluate.measures import check_tasks
    from kdkit.embeddings.evaluate.prompts import check_prompts
    from kdkit.embeddings.models.embedder import fingerprint_model
    from kdkit.embeddings.teacher.cross_encoder import check_cross_encoder
    from kdkit.embeddings.teacher.vectors import read_vectors
    from kdkit.machine.hardware import find_hardware, place_teacher
    from kdkit.machine.hub import is_local_path

    place_teacher(config.teacher.device, find_hardware(config.train.device, config.train.precision))
    if config.evaluate.tasks:
        check_prompts(config)
        check_tasks(load_tasks(config, run.cache_path))
    if config.evaluate.mteb:
        find_mteb_tasks(config.evaluate.mteb, "evaluate.mteb")
    if config.teacher.cross_encoder is not None:
        check_cross_encoder(config)
    ready = config.evaluate.off_the_shelf
    if ready is not None and is_local_path(ready):
        fingerprint_model(ready, None, "evaluate.off_the_shelf")
    vectors = config.teacher.vectors
    models = [(config.teacher.path, config.teacher.revision, "teacher.path")] if vectors is None else []
    if config.student.path not in (REDUCE, BUILD, STATIC):
        models.append((config.student.path, config.student.revision, "student.path"))
    parts = [fingerprint_model(*model) for model in models]
    if vectors is not None:
        file = read_vectors(vectors)
        parts.append({"vectors": fingerprint(fingerprint_files(file.path), list(file.places))})
    return Inputs(fingerprint(build_sentences(config, run.cache_path).name, parts), plan_work(config, 0, False))
