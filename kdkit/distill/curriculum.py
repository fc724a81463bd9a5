"""Order of the training sequences: shuffled, or a curriculum from easy to hard, for the teacher or by given levels.

And which of them are read at all, since a cache of the teacher's answers holds no others.
"""

from pathlib import Path

import numpy as np

from kdkit.data.problems import TRAIN, find_levels
from kdkit.distill.plan import Stage, TrainingPlan
from kdkit.runs.disk import whole_file, writing
from kdkit.teachers.prepare import prepare_teacher
from kdkit.teachers.probe import teacher_entropy, teacher_loss
from kdkit.training.options.batch_plan import has_plan, plan_batches
from kdkit.training.order import num_processes, shuffled_order

READ_AHEAD = 4
"""Batches that a loader fetches at most before they are asked for: they are in the cache, too."""


def sequence_order(plan: TrainingPlan, stage: Stage) -> list[int] | None:
    """Return the row numbers of a stage's training sequences in the order of reading.

    None where they are shuffled by Trainer: in a stage whose steps are given and alike, so that a step never reads
    beyond the end of a pass. The difficulties are computed once, by the teacher, and kept in the cache.
    """
    num_draws, seed = _draws(plan, stage), plan.session.config.training_seed + stage.first_step
    if not plan.curriculum_key:
        is_given = stage.num_sequences is not None or has_plan(plan.session.config.train)
        return shuffled_order(len(plan.data.train), num_draws, seed) if is_given else None
    if plan.session.config.train.curriculum == "level":
        return curriculum_order(find_levels(plan.data.problems(TRAIN)), num_draws, seed)
    path = plan.session.run.cache_path / "difficulty" / f"{plan.curriculum_key}.npy"
    if not path.is_file():
        _build_difficulty(plan, path)
    return curriculum_order(np.load(path), num_draws, seed)


def curriculum_order(difficulty: np.ndarray, num_draws: int, seed: int) -> list[int]:
    """Return row numbers for a training, easy to hard within every pass over the sequences.

    A pass that is cut short keeps its range from easy to hard: it draws fewer sequences, not the easy ones.

    Args:
        difficulty: float, one per training sequence; larger is harder.
        num_draws: sequences that the training reads.
        seed: of the draw of a pass that is cut short.

    Source: Bengio et al. 2009, curriculum learning.
    """
    generator = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < num_draws:
        drawn = generator.permutation(len(difficulty))[: num_draws - len(order)]
        order += drawn[np.argsort(difficulty[drawn], kind="stable")].tolist()
    return order


def cached_rows(plan: TrainingPlan) -> list[int]:
    """Return the row numbers of the sequences that a cache of this plan holds, increasing; see `cache.sequences`."""
    if plan.session.config.cache.sequences == "all":
        return list(range(len(plan.data.train)))
    return sorted({row for stage in plan.stages if stage.asks_teacher for row in rows_read(plan, stage)})


def rows_read(plan: TrainingPlan, stage: Stage) -> set[int]:
    """Return the row numbers of the sequences that a stage reads, those fetched ahead among them."""
    config, num_rows = plan.session.config, len(plan.data.train)
    num_draws, seed = _draws(plan, stage), config.training_seed + stage.first_step
    if config.train.curriculum != "none":
        # how hard they are decides their order alone, not which they are
        return set(curriculum_order(np.zeros(num_rows), num_draws, seed))
    if stage.num_sequences is None:
        train = config.train
        is_whole = stage.micro_batch_tokens is not None
        at_once = train.per_device_train_batch_size * (train.gradient_accumulation_steps if is_whole else 1)
        num_draws += READ_AHEAD * at_once * num_processes()
    # Trainer shuffles in the same way, and nothing is read a second time that has not been read before
    return set(shuffled_order(num_rows, min(num_draws, num_rows), seed))


def _draws(plan: TrainingPlan, stage: Stage) -> int:
    """Return how many sequences a stage reads, those of several passes each time."""
    train = plan.session.config.train
    if has_plan(train):
        return plan_batches(train, stage.steps, stage.num_sequences).num_sequences
    num_draws = plan_batches(train, stage.steps).num_sequences
    return num_draws if stage.num_sequences is None else min(num_draws, stage.num_sequences)


def _build_difficulty(plan: TrainingPlan, path: Path) -> None:
    """Compute how hard every training sequence is for the teacher, and keep it in the cache."""
    session, data = plan.session, plan.data
    teacher, batch_size = prepare_teacher(session, data), session.config.evaluate.batch_size
    if session.config.train.curriculum == "teacher_loss":
        difficulty = teacher_loss(teacher, data.train, batch_size, session.hardware)
    else:
        difficulty = teacher_entropy(teacher, data.train, data.overlap.teacher_size, batch_size, session.hardware)
    with writing(path.parent, "cache_dir"), whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, difficulty)
