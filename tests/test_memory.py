"""What a call needs beside its inputs and results: a bounded workspace."""

import subprocess
import sys

import pytest

from bptt import _backend

PROGRAM = """
import resource, sys
import numpy as np, bptt
T, B, I, H = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
def array(*shape):
    return rng.random(shape, np.float32)
x, W, V, dz = array(T, B, I), array(I, H) / I, array(H, H) / H, array(T, B, H)
tiny = array(2, 1, 1)
bptt.backward(bptt.forward(tiny, tiny[0], tiny[0])[1], tiny)  # threads, first touches
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
z, tape = bptt.forward(x, W, V)
grads = bptt.backward(tape, dz)
results = tape.z.nbytes + sum(g.nbytes for g in grads if g is not None)
print(peak() - before - results)
"""
WORKSPACE = 32 * 2**20


def packed_weights(I, H):
    """Return the bytes of W, V, dW, dV in whole panels of at most 32 columns."""
    columns = -(-H // 32) * 32
    return 2 * 4 * ((I + H) * columns + H * (-(-I // 32) * 32))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss in KiB")
@pytest.mark.skipif(_backend.backend == "numpy", reason="da exists for all T there")
@pytest.mark.parametrize(
    "shape",
    [
        (20000, 1, 16, 64),
        (3000, 32, 64, 128),
        (60, 128, 512, 512),
        (20, 32, 900, 900),
        (3, 20000, 8, 256),
        (3, 4096, 8, 1024),
    ],
    ids=str,
)
def test_a_step_needs_32_mib_beside_its_packed_weights(shape):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, shape)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(done.stdout) <= WORKSPACE + packed_weights(*shape[2:])
