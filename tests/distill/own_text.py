"""A stage in which the student writes, what it writes, and the batches that come of it."""

import itertools

import torch

from kdkit.alignment.tokenizers import end_token_id
from kdkit.config.language import Config
from kdkit.config.training import OnPolicy, StageSettings
from kdkit.distill.on_policy import OnPolicyTrainer
from kdkit.losses.cross_entropy import IGNORE_INDEX

PROMPT, NEW = 6, 9


def on_policy(config: Config, **changes: object) -> Config:
    """Return a configuration with a single stage, in which the student writes."""
    settings = {"prompt_length": PROMPT, "max_new_tokens": NEW}
    settings |= {name: changes.pop(name) for name in OnPolicy.model_fields if name in changes}
    seed = changes.pop("seed", config.seed)
    stage = StageSettings.model_validate({"name": "own", "max_steps": 4, "on_policy": settings} | changes)
    return config.model_copy(update={"seed": seed, "train": config.train.model_copy(update={"stages": [stage]})})


def batches_of(trainer: OnPolicyTrainer, count: int = 2, step: int = 0) -> tuple[list[dict], torch.Tensor, list[dict]]:
    """Return what the trainer makes of the next micro-batches, the number of items, and the batches of the data."""
    trainer.state.global_step = step
    given = list(itertools.islice(iter(trainer.get_train_dataloader()), count))
    batches, num_items = trainer.get_batch_samples(iter(given), count, torch.device("cpu"))
    return batches, num_items, given


def writes(monkeypatch, trainer: OnPolicyTrainer, *texts: list[int]) -> list[dict]:
    """Let the student write these tokens, row by row, padded with ends; return the arguments of the calls."""
    calls: list[dict] = []
    end = end_token_id(trainer.data.student_tokenizer)

    def generate(prompts, **options):
        calls.append(options | {"prompts": prompts})
        rows = [texts[i % len(texts)] for i in range(len(prompts))]
        longest = max(map(len, rows))
        new = torch.tensor([row + [end] * (longest - len(row)) for row in rows], dtype=torch.long)
        return torch.cat([prompts, new.reshape(len(prompts), longest)], dim=1)

    monkeypatch.setattr(trainer.model, "generate", generate)
    return calls


def long_rows(batch: dict) -> torch.Tensor:
    """Return the rows of a batch of the data that have a whole prompt."""
    return batch["input_ids"][(batch["labels"][:, PROMPT] != IGNORE_INDEX)]


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and torch.equal(first["input_ids"], second["input_ids"])
