"""Open the teacher of a run: loaded in memory, or a cache of its predictions, which is built where it is missing.

Used by notebook 03 and by `python -m kdkit cache`.
"""

import contextlib
import gc
from pathlib import Path
from typing import Any

import torch

from kdkit.config.language import BUILD, config_from_values
from kdkit.data.prepare import build_data, open_data
from kdkit.distill.choose_loss import compares_events, make_events
from kdkit.distill.committee.members import Committee
from kdkit.distill.committee.scores import asked_rows, needs_scores, score_member
from kdkit.distill.committee.weights import share_out
from kdkit.distill.curriculum import cached_rows, sequence_order
from kdkit.distill.plan import TrainingPlan, plan_training
from kdkit.errors import UserError
from kdkit.machine.hardware import DTYPES, find_hardware
from kdkit.machine.session import Session
from kdkit.runs.folder import Run, fingerprint
from kdkit.runs.messages import note
from kdkit.runs.paths import make_place_for, resolve_input
from kdkit.runs.store import Shard, describe_store, find_damage, open_store, store_error
from kdkit.teachers.build import build_teacher
from kdkit.teachers.cache import CachedSignals, check_temperature_of, window_keys
from kdkit.teachers.cache_build import SignalMaker, build_signals, repair_signals
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import prepare_teacher

OF_TEMPERATURE = ("temperature", "temperatures", "tempered")
NOT_COMPARED = ("config", "data", *OF_TEMPERATURE, "precision")
"""Header values that a reader may differ in: samples are known by their content, wherever the corpus lies, another
temperature is converted (`kdkit.losses.sparse`) or refused (`check_temperature_of`), another precision is told."""


def open_teacher(plan: TrainingPlan) -> TextTeacher | CachedSignals | Committee:
    """Open the teacher of a run: loaded in memory, or a cache of its predictions (built if missing).

    With a cache the teacher is loaded only if the cache has to be built, and let go of afterwards. Several teachers are
    opened one after the other, so that of those with a cache no two are in memory at once.

    Raises:
        UserError: see `prepare_teacher`, `build_cache`, `open_cache`.
    """
    if plan.members:
        return _open_committee(plan)
    if not plan.session.config.cache.enabled:
        return prepare_teacher(plan.session, plan.data, DTYPES[plan.answer_precision])
    if not cache_path(plan).is_file():
        build_cache(plan)
    return open_cache(plan)


def make_ready(plan: TrainingPlan) -> None:
    """Make all that a training needs made once, if it is missing: a built teacher, caches, scores, difficulties.

    Of several processes the first one calls it, alone, before they meet.

    Raises:
        UserError: see `build_teacher`, `build_cache` and `score_member`.
    """
    settings = plan.session.config.teachers
    for each in [member.plan for member in plan.members] or [plan]:
        config = each.session.config
        if config.teacher.path == BUILD:
            build_teacher(each.session, each.data)
        if config.cache.enabled and not cache_path(each).is_file():
            build_cache(each)
    if plan.members and needs_scores(settings):
        for member in plan.members:
            score_member(member.plan, asked_rows(plan))
    for stage in plan.stages:
        sequence_order(plan, stage)


def _open_committee(plan: TrainingPlan) -> Committee:
    """Open several teachers, after each has been asked about every piece of text where that decides who teaches it."""
    settings, teachers, scores = plan.session.config.teachers, [], []
    asked = asked_rows(plan) if needs_scores(settings) else []
    for member in plan.members:
        if asked:
            scores.append(score_member(member.plan, asked))
        teacher = open_teacher(member.plan)
        if settings.resident == "one" and isinstance(teacher, TextTeacher) and teacher.has_layers:
            teacher.model.to("cpu")
        teachers.append(teacher)
    return Committee(plan.members, tuple(teachers), share_out(plan, scores, asked))


def build_cache(plan: TrainingPlan, shard: Shard | None = None) -> Path:
    """Load the teacher, compute its predictions for the training sequences, and keep them; see `cached_rows`.

    A file that is there is checked and left as it is.

    Args:
        shard: the part that is built, to be merged with the others; None: all of it.

    Raises:
        UserError: a loss that such a cache cannot serve, or a file that cannot be; see also `prepare_teacher`
            and `build_signals`.
    """
    header = plan.cache_header
    path = cache_path(plan) if shard is None else shard.file_of(own_cache_path(plan))
    if path.is_file():
        open_cache(plan) if shard is None else open_store(path, header).close()
        note(f"cache {path}: complete")
        return path
    make_place_for(path, "cache.file")
    rows = cached_rows(plan)
    if shard is not None:  # too many are refused before a teacher is made
        shard.part_of(signal_maker(plan, None, rows).chunks())
    teacher = prepare_teacher(plan.session, plan.data, DTYPES[plan.answer_precision])
    build_signals(path, header, signal_maker(plan, teacher, rows), plan.session.run, shard)
    del teacher
    gc.collect()
    torch.cuda.empty_cache()
    return path


def open_cache(plan: TrainingPlan) -> CachedSignals:
    """Open the cache of a run and check that it is of this teacher and holds every sequence that is read with it.

    Raises:
        UserError: see `open_store`; another teacher, tokenizer, loss, mode or k; sequences without signals.
    """
    expected = {name: value for name, value in plan.cache_header.items() if name not in NOT_COMPARED}
    store = open_store(cache_path(plan), expected)
    if part := store.header.get("shard"):
        got = f"shard {part['number']}/{part['of']} of one"
        raise store_error(store.path, "a whole cache", got, "merge all its shards: python -m kdkit cache merge")
    keys = window_keys(plan.data.train)
    store.require([keys[row] for row in cached_rows(plan)])
    signals, config = CachedSignals(store, keys), plan.session.config
    check_temperature_of(store, config.distill.temperature)
    if expected["mode"] == "top_k" and (others := set(config.temperatures) - set(signals.temperatures)):
        made_at, wanted = (", ".join(f"{t:g}" for t in each) for each in (signals.temperatures, sorted(others)))
        note(
            f"cache {store.path}: made at temperature {made_at}, converted to {wanted}; that is exact for the kept "
            "tokens among themselves, as finely as they are kept, and approximate for the rest"
        )
    if (precision := store.header.get("precision", "fp32")) != plan.answer_precision:
        print(
            f"cache {store.path}: answers of a teacher in {precision}, read as they are; here it would answer in "
            f"{plan.answer_precision}",
            flush=True,
        )
    return signals.at(config.distill.temperature)


def repair_cache(path: Path, run: Run) -> list[int]:
    """Make the damaged chunks of a cache again, with the settings that the file carries.

    Returns:
        The numbers of the chunks that were damaged.

    Raises:
        UserError: see `repair_store`; the teacher or the text is no longer what the cache was made from.
    """
    damaged = find_damage(path)
    if not damaged:
        return []
    store = open_store(path, verify=False)
    if "config" not in store.header:
        raise UserError(
            f"{path}: expected answers of a language model, got {store.header.get('kind', 'others')}; delete the file: "
            "the next run asks its teacher again"
        )
    values = store.header["config"]
    config = config_from_values(values | {"cache": values["cache"] | {"enabled": True, "file": str(path)}})
    data = open_data(build_data(config, run.cache_path), config.teachers.only)
    plan = plan_training(Session(config, run, find_hardware(**values["train"])), data)
    expected = {name: value for name, value in plan.cache_header.items() if name not in ("config", "data", "precision")}
    with open_store(path, expected, verify=False) as store:
        keys_of = store.document["chunks"]
    damaged_keys = {key for number in damaged for key in keys_of[number]}
    if missing := damaged_keys - set(window_keys(data.train)):
        raise UserError(
            f"{path}: expected the text that it was made from, got another in {data.manifest['corpus']['source']!r}, "
            f"which lacks {len(missing)} of the {len(damaged_keys)} damaged sequences; restore the text, or build anew"
        )
    run.path.mkdir(parents=True, exist_ok=True)
    # what is mended answers as the rest did, on whatever machine
    dtype = DTYPES[store.header["precision"]] if "precision" in store.header else None
    teacher = prepare_teacher(plan.session, data, dtype)
    return repair_signals(path, keys_of, signal_maker(plan, teacher, None))


def verify_cache(path: Path) -> dict[str, Any]:
    """Check every byte of a cache and describe it.

    Raises:
        UserError: see `open_store`; a damaged chunk is named.
    """
    open_store(path).close()
    return describe_store(path)


def cache_path(plan: TrainingPlan) -> Path:
    """Return the file of a run's cache: that of these temperatures, or where it is missing, one that serves more."""
    if file := plan.session.config.cache.file:
        return resolve_input(file)
    name, of_several = _names(plan)
    folder, wanted = plan.session.run.cache_path / "answers", set(plan.session.config.answer_temperatures)
    if not (own := folder / f"{name}.h5").is_file():
        for other in sorted(folder.glob(f"{of_several}-*.h5")):
            with contextlib.suppress(UserError):  # a file that is damaged serves nobody
                header = open_store(other, verify=False).header
                if "shard" not in header and wanted <= set(header["temperatures"]):
                    return other
    return own


def own_cache_path(plan: TrainingPlan) -> Path:
    """Return the file that a build of a run's cache makes where no other serves it."""
    file = plan.session.config.cache.file
    return resolve_input(file) if file else plan.session.run.cache_path / "answers" / f"{_names(plan)[0]}.h5"


def _names(plan: TrainingPlan) -> tuple[str, str]:
    """Name a run's cache by all that its answers depend on; and say how the names begin of those that may serve more.

    Where several temperatures are served, the two agree.
    """
    header = {name: value for name, value in plan.cache_header.items() if name not in ("config", "data")}
    keys = window_keys(plan.data.train)
    answered = sorted(keys[row] for row in cached_rows(plan))
    of_several = fingerprint({name: value for name, value in header.items() if name not in OF_TEMPERATURE}, answered)
    temperatures = plan.session.config.answer_temperatures
    own = fingerprint(header, answered) if len(temperatures) == 1 else f"{of_several}-{fingerprint(temperatures)}"
    return own, of_several


def signal_maker(plan: TrainingPlan, teacher: TextTeacher | None, rows: list[int] | None) -> SignalMaker:
    """Prepare what computes the records of a run's cache.

    Args:
        teacher: None: it only says which chunks there are, and what a record consists of.
        rows: row numbers of the sequences that are answered; None: all.
    """
    session, data = plan.session, plan.data
    vocab_size, dtype = len(data.teacher_tokenizer), session.hardware.autocast_dtype
    online = None if teacher is None else teacher.online(vocab_size, dtype)
    if not compares_events(plan.loss):
        return SignalMaker(session.config, data.train, online, None, 1, rows)
    events = make_events(plan.loss, data, torch.device("cpu") if teacher is None else teacher.device)
    return SignalMaker(session.config, data.train, online, events.teacher, events.size, rows)
