"""Stores that several test files read."""

import shutil
from pathlib import Path

import pytest

from tests.runs.stores import build


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A whole store, which no test may change."""
    return build(tmp_path_factory.mktemp("store") / "cache.h5")


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A whole store to damage."""
    return Path(shutil.copy(finished, tmp_path / "copy.h5"))
