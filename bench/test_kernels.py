"""The compiled kernels beside the NumPy fallback: `pytest bench --benchmark-enable`."""

import numpy as np
import pytest

from bptt import _reference
from bptt.activations import Activation

kernels = pytest.importorskip("bptt._kernels", exc_type=ImportError)

SHAPES = [  # T, B, I, H
    (1000, 1, 16, 16),
    (1000, 1, 16, 64),
    (1000, 1, 64, 256),
    (200, 32, 64, 128),
    (100, 64, 64, 256),
]
MODULES = {"kernels": kernels, "numpy": _reference}
TANH = Activation("tanh")


@pytest.fixture(params=SHAPES, ids=lambda shape: "T{} B{} I{} H{}".format(*shape))
def arrays(request):
    T, B, I, H = request.param
    rng = np.random.default_rng(0)

    def array(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    z = np.zeros((T + 1, B, H), np.float32)
    W, V = array(I, H, scale=I**-0.5), array(H, H, scale=H**-0.5)
    return array(T, B, I), W, V, array(H), z, array(T, B, H)


@pytest.mark.parametrize("module", MODULES)
def test_forward(benchmark, arrays, module):
    x, W, V, b, z, _ = arrays
    benchmark(MODULES[module].forward, x, W, V, b, z, TANH)


@pytest.mark.parametrize("module", MODULES)
def test_backward(benchmark, arrays, module):
    x, W, V, b, z, dz = arrays
    kernels.forward(x, W, V, b, z, TANH)
    outputs = [np.empty_like(a) for a in (W, V, b, z[0], x)]
    benchmark(MODULES[module].backward, x, W, V, z, TANH, dz, None, *outputs)
