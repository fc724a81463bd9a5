"""Which training sequences a plan reads with its teacher: what a cache of its answers has to hold."""

import numpy as np
import torch
from transformers import Trainer

from kdkit.distill.curriculum import curriculum_order
from kdkit.distill.plan import Stage, TrainingPlan, sequences_per_step
from kdkit.training.arguments import make_training_arguments

READ_AHEAD = 4
"""Micro-batches that a loader fetches at most before they are asked for: they are in the cache, too."""


def cached_rows(plan: TrainingPlan) -> list[int]:
    """Return the row numbers of the sequences that a cache of this plan holds, increasing; see `cache.sequences`."""
    if plan.session.config.cache.sequences == "all":
        return list(range(len(plan.data.train)))
    return sorted({row for stage in plan.stages if stage.asks_teacher for row in rows_read(plan, stage)})


def rows_read(plan: TrainingPlan, stage: Stage) -> set[int]:
    """Return the row numbers of the sequences that a stage reads, those fetched ahead among them."""
    config, num_rows = plan.session.config, len(plan.data.train)
    seed = config.seed + stage.first_step
    arguments = make_training_arguments(
        config.train, plan.session.hardware, plan.session.run.path / "checkpoints", max_steps=stage.steps, seed=seed
    )
    num_draws = stage.steps * sequences_per_step(config) * arguments.world_size
    if config.train.curriculum == "none":
        num_draws += READ_AHEAD * config.train.per_device_train_batch_size * arguments.world_size
    if num_draws >= num_rows:
        return set(range(num_rows))
    if config.train.curriculum != "none":
        # how hard they are decides their order alone, not which they are
        return set(curriculum_order(np.zeros(num_rows), num_draws, seed))
    # Trainer itself shuffles, for a model that is none: nothing is trained
    reader = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=range(num_rows), data_collator=list)
    sampler = reader.get_train_dataloader().batch_sampler
    batches = getattr(sampler, "batch_sampler", sampler)  # under several processes each has a shard of it
    return set([row for batch in batches for row in batch][:num_draws])
