"""A training in two stages, and how to read what it left."""

import torch
from transformers import AutoModelForCausalLM

from kdkit.config.language import Config
from kdkit.config.training import StageSettings
from kdkit.data.prepare import PreparedData
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher

FROZEN = "embed_tokens|lm_head"
STAGES = [
    {
        "name": "frozen",
        "max_steps": 3,
        "learning_rate": 0.01,
        "parameter_lr_multipliers": [{"pattern": FROZEN, "lr_multiplier": 0.0}],
    },
    {"name": "whole", "max_steps": 4, "loss": "alm", "kd_ratio": 0.3},
]
Parts = tuple[Config, PreparedData, Teacher]


def with_stages(config: Config, *stages: dict, **train_settings: object) -> Config:
    changes = {"stages": [StageSettings.model_validate(stage) for stage in stages], **train_settings}
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def weights(run: Run, phase: str = "student") -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run.path / phase).state_dict()


def metrics(run: Run, phase: str = "student", name: str = "") -> list:
    """Return a phase's metrics without their times; or one value of its lines of losses."""
    lines = [line for line in run.read_metrics() if line["phase"] == phase]
    if name:
        return [line[name] for line in lines if "loss" in line]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
