"""A checker and problems for tests of how models are judged."""

import pytest

from kdkit.config.maths.settings import CheckerConfig
from kdkit.maths.checking.pool import CheckerPool


@pytest.fixture(scope="module")
def pool():
    """Start one checker."""
    with CheckerPool(CheckerConfig(num_workers=1)) as pool:
        yield pool
