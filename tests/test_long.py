"""Millions of steps within a budget, measured by the resident size of a process."""

import subprocess
import sys

import pytest

from bptt import _backend

PROGRAM = """
import resource
import numpy as np, bptt
T, B, I, H = 10_000_000, 1, 16, 64
rng = np.random.default_rng(0)
# One byte a step, and 80 MB of ids if all were what the kernels take.
ids = rng.integers(0, I, (T, B), np.uint8)
W = rng.standard_normal((I, H), np.float32) / 4
V = np.linalg.qr(rng.standard_normal((H, H)))[0].astype(np.float32)
last = np.ones((B, H), np.float32)
tiny = bptt.forward(ids[:1000], W, V)[1]
bptt.backward(tiny, dz_last=last)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
z, tape = bptt.forward(ids, W, V, memory="64MB")
grads = bptt.backward(tape, dz_last=last)
assert np.isfinite(grads.V).all() and grads.V.any()
print(peak() - before, tape.schedule.peak_bytes)
"""

# Two layers in both directions, whose states would take 1 GB.
BOTH = """
import resource
import numpy as np, bptt
T, I, H = 1_000_000, 16, 64
ids = np.random.default_rng(0).integers(0, I, (T, 1))
rnn = bptt.RNN(I, H, 2, bidirectional=True, seed=0)
def step(ids, **budget):
    _, tape = rnn.forward(ids, **budget)
    grads = rnn.backward(tape, dz_last=np.ones_like(tape.z_last))
    assert np.isfinite(grads.params["V"]).all() and grads.params["V"].any()
    return tape
step(ids[:1000])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
tape = step(ids, memory="32MB")
print(peak() - before, tape.schedule.peak_bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss in KiB")
@pytest.mark.skipif(_backend.backend == "numpy", reason="takes hours there")
@pytest.mark.parametrize(
    ("program", "budget"), [(PROGRAM, 64_000_000), (BOTH, 32_000_000)]
)
def test_millions_of_steps_take_the_memory_they_may(program, budget):
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    extra, planned = map(int, done.stdout.split())
    assert planned <= budget
    assert extra <= budget
