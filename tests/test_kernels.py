"""The compiled kernels against the reference, function by function."""

import inspect

import numpy as np
import pytest
from proof import (
    ACTIVATIONS,
    check_against_reference,
    random_case,
    run_backward,
    run_forward,
)
from tolerances import ACTIVATION_ULPS, normwise_bound

from bptt import _backend, _reference
from bptt.activations import Activation

kernels = pytest.importorskip("bptt._kernels", exc_type=ImportError)
TANH = Activation("tanh")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def test_backend_is_compiled_unless_numpy_is_forced():
    assert (_backend.kernels is kernels) == (_backend.backend == "compiled")


TWINS = (
    "forward",
    "forward_both",
    "backward",
    "backward_both",
    "side_by_side",
    "halves",
    "halve",
    "state_backward",
    "chunk_steps",
    "jvp",
    "lyapunov",
)


def functions(module):
    return {
        name: getattr(module, name)
        for name in vars(module)
        if callable(getattr(module, name)) and name in TWINS
    }


def test_each_kernel_has_a_twin_with_the_same_signature():
    assert functions(kernels).keys() == functions(_reference).keys()
    for name, function in functions(kernels).items():
        twin = inspect.signature(functions(_reference)[name])
        assert list(inspect.signature(function).parameters) == list(twin.parameters)


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_activations(activation, dtype, rng):
    for dz in ("dz", "dz_last", "both"):
        case = random_case(rng, 6, 3, 5, 19, activation, dtype, dz=dz)
        check_against_reference(kernels, case)


@DTYPES
@pytest.mark.parametrize("H", range(1, 68))
def test_every_hidden_size(H, dtype, rng):
    check_against_reference(kernels, random_case(rng, 4, 3, 6, H, TANH, dtype))


@DTYPES
@pytest.mark.parametrize("I", range(1, 68))
def test_every_input_size(I, dtype, rng):
    check_against_reference(kernels, random_case(rng, 3, 2, I, 7, TANH, dtype))


@DTYPES
@pytest.mark.parametrize("B", [1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 33])
def test_batches(B, dtype, rng):
    check_against_reference(kernels, random_case(rng, 5, B, 4, 34, TANH, dtype))


@DTYPES
@pytest.mark.parametrize("T", [1, 2, 15, 63, 64, 65, 200])
def test_lengths(T, dtype, rng):
    check_against_reference(kernels, random_case(rng, T, 2, 3, 9, TANH, dtype))
    check_against_reference(kernels, random_case(rng, T, 1, 3, 17, TANH, dtype))


@DTYPES
def test_random_configurations(dtype, rng):
    for _ in range(200):
        T, B, I, H = (int(rng.integers(1, high)) for high in (30, 20, 40, 70))
        case = random_case(
            rng,
            T,
            B,
            I,
            H,
            ACTIVATIONS[rng.integers(len(ACTIVATIONS))],
            dtype,
            ids=bool(rng.integers(2)),
            b=bool(rng.integers(2)),
            z0=bool(rng.integers(2)),
            dz=["dz", "dz_last", "both"][rng.integers(3)],
        )
        check_against_reference(kernels, case)


@DTYPES
def test_wide_layers_and_long_sequences(dtype, rng):
    check_against_reference(kernels, random_case(rng, 5, 21, 300, 517, TANH, dtype))
    check_against_reference(kernels, random_case(rng, 3000, 1, 3, 16, TANH, dtype))
    check_against_reference(kernels, random_case(rng, 700, 9, 3, 40, TANH, dtype))
    check_against_reference(
        kernels, random_case(rng, 700, 9, 30, 40, TANH, dtype, ids=True)
    )


@DTYPES
@pytest.mark.parametrize(
    "shape", [(5, 21, 300, 517), (700, 9, 3, 40), (60, 40, 9, 128)]
)
def test_large_sums_are_as_exact_as_their_type(shape, dtype, rng):
    case = random_case(rng, *shape, TANH, dtype)
    wide = random_case(rng, *shape, TANH, np.float64)
    for name, value in vars(case).items():
        if isinstance(value, np.ndarray):
            getattr(wide, name)[...] = value
    z = run_forward(kernels, case)
    expected = run_backward(_reference, wide, run_forward(_reference, wide))
    T, B, I, H = shape
    bound = normwise_bound(T * B + I + H, dtype)
    for name, grad in run_backward(kernels, case, z).items():
        error = np.linalg.norm(grad - expected[name])
        assert error <= bound * np.linalg.norm(expected[name]), name


@DTYPES
def test_runs_are_repeatable_bit_for_bit(dtype, rng):
    case = random_case(rng, 50, 5, 8, 33, TANH, dtype)
    first, second = (run_forward(kernels, case) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    one, two = (run_backward(kernels, case, first) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_special_values_are_those_of_the_reference(activation, dtype):
    info = np.finfo(dtype)
    values = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, info.min, info.tiny]
    values += [-info.tiny, 1.0, -1.0, 20.0, -20.0, 90.0, -90.0, 800.0, -800.0, 1e-5]
    x = np.array(values, dtype).reshape(1, -1, 1)
    z = np.zeros((2, len(values), 1), dtype)
    expected = z.copy()
    W, V = np.ones((1, 1), dtype), np.zeros((1, 1), dtype)
    kernels.forward(x, W, V, None, z, activation)
    _reference.forward(x, W, V, None, expected, activation)
    np.testing.assert_array_equal(np.isnan(z), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(z), np.isinf(expected))
    # The kernels flush denormal numbers to zero, on the way to a result as well.
    smallest = 4 * info.smallest_normal
    normal = np.isfinite(expected) & (np.abs(expected) >= smallest)
    np.testing.assert_array_max_ulp(
        z[normal], expected[normal], maxulp=2 * ACTIVATION_ULPS
    )
    assert (np.abs(z[np.abs(expected) < smallest]) < smallest).all()


@DTYPES
def test_a_nan_reaches_every_later_state_and_every_gradient(dtype, rng):
    for activation in ACTIVATIONS:
        case = random_case(rng, 6, 2, 3, 5, activation, dtype)
        case.x[2, 1, 0] = np.nan
        z = run_forward(kernels, case)
        assert np.isfinite(z[:3]).all()
        assert np.isfinite(z[:, 0]).all()
        assert np.isnan(z[3:, 1]).all()
        grads = run_backward(kernels, case, z)
        assert np.isnan(grads["V"]).all(), activation
        expected = run_backward(_reference, case, z)
        for name, grad in grads.items():
            np.testing.assert_array_equal(np.isnan(grad), np.isnan(expected[name]))
