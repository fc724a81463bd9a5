"""A tiny pair with a cache of its teacher, and what tests of caches do to it."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.distill import curriculum
from kdkit.distill import open_teacher as source
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.teachers.cache import CachedSignals
from tests.tiny import make_config, make_data, make_plan, save_teacher

STUDENT = {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}
VOCABULARY = 320
pytestmark = pytest.mark.usefixtures("one_thread")

MODES = {
    "top_k": {"mode": "top_k", "top_k": 8},
    "sampled": {"mode": "sampled", "num_samples": 50},
    "several": {"mode": "top_k", "top_k": 8, "temperatures": [4.0, 2.0]},
    "true_token": {"mode": "true_token"},
}


class Place:
    """A folder with a corpus and a saved teacher, where caches are made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.teacher = save_teacher(make_data(make_config(folder), folder), folder / "teacher")

    def config(
        self,
        loss: object = "forward_kl",
        *,
        own_tokenizer: bool = False,
        vocab_size: int = 290,
        temperature: float = 1.0,
        **cache: object,
    ) -> Config:
        """Return a configuration with a cache; one tokenizer, or a student with its own, a finer or a coarser one."""
        return make_config(
            self.folder,
            teacher={"path": str(self.teacher)},
            student={"build": STUDENT | {"vocab_size": vocab_size, "tokenizer": "own" if own_tokenizer else "teacher"}},
            distill={"loss": loss, "temperature": temperature},
            cache={"enabled": True, "samples_per_chunk": 8, "top_k": 8, "sequences": "all"} | cache,
        )

    def data(self, config: Config) -> PreparedData:
        return make_data(config, self.folder)

    def run(self, name: str = "run") -> Run:
        return Run(self.folder / "runs" / name, self.folder / "cache")

    def open(self, config: Config, data: PreparedData | None = None) -> CachedSignals:
        """Open the cache of a configuration, which is made if there is none."""
        return source.open_teacher(make_plan(config, self.run(), data or self.data(config)))

    def mode(self, name: str) -> Config:
        return self.config("alm" if name == "true_token" else "forward_kl", **MODES[name])

    def damaged_copy(self, config: Config, path: Path, *numbers: int) -> Config:
        """Copy a cache, flip a bit in some of its chunks, and return the configuration that names the copy."""
        shutil.copy(self.open(config).store.path, path)
        for number in numbers:
            flip_chunk(path, number)
        return with_cache(config, file=str(path))


def flip_chunk(path: Path, number: int) -> None:
    """Flip a bit in one of a cache's chunks."""
    with h5py.File(path) as file:
        group = file[f"chunks/{number:05d}"]
        offset = group[next(name for name in group if name != "lengths")].id.get_chunk_info(0).byte_offset
    flip(path, offset + 7)


def with_cache(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"cache": config.cache.model_copy(update=changes)})


def with_distill(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"distill": config.distill.model_copy(update=changes)})


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))


def chosen(windows: Windows, rows: list[int] | np.ndarray) -> Windows:
    return Windows(*(np.asarray(array)[rows] for array in vars(windows).values()))


@contextmanager
def refused(*words: str):
    """Expect a UserError of one line that holds these words."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in (": expected ", ", got ", "; ", *words)), message


@contextmanager
def without_teacher(monkeypatch):
    """Forbid to load a teacher."""

    def fail(*_):
        raise AssertionError("the teacher was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(source, "prepare_teacher", fail)
        patch.setattr(curriculum, "prepare_teacher", fail)
        yield
