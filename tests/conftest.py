"""Fixtures of all tests."""

import os

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture
def rng(request):
    """A generator of its own for each test, the same in each run."""
    return np.random.default_rng(list(request.node.nodeid.encode()))
