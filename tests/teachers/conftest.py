"""Fixtures of the tests of caches, and the scenes of routed teachers, which no test changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD
from tests.caches import Place, with_cache
from tests.routed import SAME_TOKENIZER, Scene, make_scene


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def exact(place) -> Callable[[PreparedData, int], torch.Tensor]:
    """Return a function that computes the teacher's logits for a window in float64: t v."""
    known: dict[str, torch.Tensor] = {}
    model = AutoModelForCausalLM.from_pretrained(place.teacher, dtype=torch.float64, experts_implementation="eager")

    @torch.no_grad()
    def logits(data: PreparedData, row: int) -> torch.Tensor:
        ids = torch.from_numpy(np.array(data.train.teacher_ids, dtype=np.int64))
        if data.key not in known:  # what follows a token does not change what is said about it
            known[data.key] = model.eval()(ids.clamp(min=0)).logits
        return known[data.key][row, : int((ids[row] != PAD).sum())]

    return logits


@pytest.fixture(scope="module")
def made(place) -> Config:
    """A configuration whose file exists, for a pair with two tokenizers."""
    config = place.config("projected_kl", own_tokenizer=True)
    return with_cache(config, file=str(place.open(config).store.path))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> dict[str, Scene]:
    """One tokenizer and two, so that the events are tokens, and groups of tokens."""
    folders = [tmp_path_factory.mktemp(name) for name in ("same", "two")]
    return {"same": make_scene(folders[0], **SAME_TOKENIZER), "two": make_scene(folders[1])}


@pytest.fixture
def scene(scenes) -> Scene:
    return scenes["two"]
