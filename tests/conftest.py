"""Fixtures of all tests."""

import os
import signal

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would
# the programs that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng(request):
    """A generator of its own for each test, the same in each run."""
    return np.random.default_rng(list(request.node.nodeid.encode()))
