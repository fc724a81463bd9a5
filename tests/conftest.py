"""Fixtures that several test files use; nothing here reaches the network."""

import gc
import os
import random
import signal
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from tests.browsing import browser  # noqa: F401 - a fixture

# huggingface_hub reads it once, when it is first imported: no import above may do that
os.environ["HF_HUB_OFFLINE"] = "1"
# models of a few thousand parameters: threads would only wait for each other, several times longer on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

# what `train.wandb: auto` does
os.environ["WANDB_MODE"] = "disabled"

# nobody cuts the power: waiting for the disk would be a quarter of what small trainings take
os.fsync = lambda descriptor: None

# a shell starts jobs in the background with Ctrl-C ignored, and what they start inherits that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# the same examples on every machine; no deadline, because the first call of a tokenizer is slow
settings.register_profile("kdkit", derandomize=True, deadline=None)
settings.load_profile("kdkit")

# until `pytest_collection_finish`
gc.disable()

WORDS = (
    "river mountain teacher student window letter garden morning evening yellow silver quiet slowly quickly "
    "remember forget carry follow answer question bridge castle winter summer the a of and in to with under over "
    "na\u00efve caf\u00e9 \u00fcber \u4e2d\u6587 \u65e5\u672c\u8a9e \U0001f600 "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 x=1 42"
)


def pytest_collection_finish():
    """Leave what imports and collection made out of every garbage collection: a million lasting objects."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real tokenizers and texts."""
    folder = os.environ.get("KDKIT_TEST_DATA")
    if not folder:
        pytest.skip("KDKIT_TEST_DATA is not set: real tokenizers and texts are not available")
    return Path(folder).resolve()  # tests change their folder


@pytest.fixture(scope="module")
def one_thread():
    """Compute on one core: tiny models gain nothing from more, and lose much where others compute too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """Forty distinct short documents with accents, CJK and emoji."""
    draw, words = random.Random(0), WORDS.split()
    sentences = [" ".join(draw.choices(words, k=12)).capitalize() + "." for _ in range(400)]
    return ["\n".join(sentences[i : i + 10]) for i in range(0, 400, 10)]


@pytest.fixture(scope="session")
def small_pair(documents):
    """Two byte-level tokenizers of different sizes, trained on `documents`: student, teacher."""
    from kdkit.alignment.tokenizers import train_tokenizer

    return train_tokenizer(documents, 300), train_tokenizer(documents[::-1], 400)


@pytest.fixture(scope="session")
def real_tokenizer(test_data):
    """Load a tokenizer of the test data once: `real_tokenizer("gpt2")`."""
    from kdkit.alignment.tokenizers import load_tokenizer

    folders = {folder.name: folder for folder in (*test_data.glob("tokenizers/*"), *test_data.glob("models/*"))}
    return cache(lambda name: load_tokenizer(folders[name]))


@pytest.fixture(scope="session")
def real_table(real_tokenizer):
    """Return what `token_bytes` gives for a tokenizer of the test data, computed once."""
    from kdkit.alignment.tokenizers import token_bytes

    return cache(lambda name: token_bytes(real_tokenizer(name)))


@pytest.fixture(scope="session")
def crossed(tmp_path_factory):
    """Data whose tokens cross, cut unevenly, and a teacher; no test changes them."""
    from tests.crossed import cross_data, cut_unevenly
    from tests.tiny import make_config, make_teacher

    folder = tmp_path_factory.mktemp("crossed")
    data = cut_unevenly(cross_data(make_config(folder), folder))
    return data, make_teacher(data)
