"""Initializers: the property that each is named for, seeds, and what they refuse."""

import math

import numpy as np
import pytest
from tolerances import eigenvalue_bound, orthogonality_bound, sampling_bound

from bptt import initializers

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
RANDOM = ["uniform", "normal", "glorot_uniform", "orthogonal", "spectral_radius"]


@DTYPES
def test_uniform_is_bounded_by_one_over_sqrt_h(dtype):
    W = initializers.uniform((300, 64), seed=1, dtype=dtype)
    assert np.abs(W).max() <= 1 / 8
    assert abs(W.std() * 8 * math.sqrt(3) - 1) < sampling_bound(W.size)
    W = initializers.uniform((300, 64), seed=1, dtype=dtype, limit=0.5)
    assert 1 / 8 < np.abs(W).max() <= 0.5


@DTYPES
def test_normal_has_its_standard_deviation(dtype):
    W = initializers.normal((300, 64), seed=1, dtype=dtype, std=0.02)
    assert abs(W.std() / 0.02 - 1) < sampling_bound(W.size)


@DTYPES
def test_glorot_uniform_has_the_variance_of_its_paper(dtype):
    W = initializers.glorot_uniform((300, 100), seed=1, dtype=dtype)
    assert abs(W.std() / math.sqrt(2 / 400) - 1) < sampling_bound(W.size)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (40, 40), (40, 7), (7, 40)])
def test_orthogonal_has_orthonormal_rows_or_columns(dtype, shape):
    Q = initializers.orthogonal(shape, seed=1, dtype=dtype, gain=2.0)
    assert Q.shape == shape
    assert Q.flags.c_contiguous
    Q = np.float64(Q if shape[0] >= shape[1] else Q.T) / 2
    error = Q.T @ Q - np.eye(Q.shape[1])
    assert np.abs(error).max() <= orthogonality_bound(len(Q), dtype)


def test_orthogonal_is_uniform_over_both_signs():
    signs = {
        float(initializers.orthogonal((1, 1), seed=seed)[0, 0]) for seed in range(20)
    }
    assert signs == {-1.0, 1.0}


@DTYPES
def test_identity_is_scaled(dtype):
    V = initializers.identity((3, 3), dtype=dtype, scale=0.5)
    assert V.dtype == dtype
    assert np.array_equal(V, 0.5 * np.eye(3))


@pytest.mark.parametrize("rho", [0.5, 1.0, 1.5])
def test_spectral_radius_is_rho(rho):
    V = initializers.spectral_radius((30, 30), seed=1, dtype=np.float64, rho=rho)
    found = np.abs(np.linalg.eigvals(V)).max()
    assert abs(found / rho - 1) <= eigenvalue_bound(30)


def test_zeros_are_zero():
    assert not initializers.zeros((4,)).any()


@DTYPES
@pytest.mark.parametrize("name", initializers.TABLE)
def test_all_are_called_alike(name, dtype):
    p = initializers.get(name)((6, 6), seed=3, dtype=dtype)
    assert p.dtype == dtype
    assert p.shape == (6, 6)
    assert p.flags.writeable
    assert p.flags.c_contiguous


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_decides_and_a_generator_moves_on(name):
    draw = initializers.get(name)
    first = draw((5, 5), seed=7)
    assert (draw((5, 5), seed=7) == first).all()
    assert (draw((5, 5), seed=8) != first).any()
    rng = np.random.default_rng(7)
    assert (draw((5, 5), seed=rng) == first).all()
    assert (draw((5, 5), seed=rng) != first).any()


@pytest.mark.parametrize("name", RANDOM)
def test_float32_is_float64_rounded(name):
    draw = initializers.get(name)
    double = draw((5, 5), seed=7, dtype=np.float64)
    assert (draw((5, 5), seed=7) == double.astype(np.float32)).all()


def test_get_takes_a_function_and_parameters():
    assert initializers.get("identity", scale=3.0)((1, 1))[0, 0] == 3

    def mine(shape, *, seed, dtype, value):
        return np.full(shape, value, dtype)

    draw = initializers.get(mine, value=4)
    assert draw((2,), seed=None, dtype=np.float32)[1] == 4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: initializers.uniform((3, 0)),
            ValueError,
            "a size of shape must be at least 1, got 0",
        ),
        (
            lambda: initializers.uniform(()),
            ValueError,
            "shape must have at least one size, got ()",
        ),
        (
            lambda: initializers.uniform(5),
            TypeError,
            "shape must be a tuple of sizes, got 5",
        ),
        (
            lambda: initializers.uniform((2, 2), dtype=np.float16),
            TypeError,
            "dtype must be float32 or float64, got float16",
        ),
        (
            lambda: initializers.uniform((2, 2), seed=-1),
            TypeError,
            "seed must be a non-negative integer, a sequence of them, a "
            "numpy.random.Generator or None, got -1",
        ),
        (
            lambda: initializers.uniform((2, 2), limit=math.inf),
            ValueError,
            "limit must be finite, got inf",
        ),
        (
            lambda: initializers.normal((2, 2), std=-1),
            ValueError,
            "std must be positive, got -1",
        ),
        (
            lambda: initializers.orthogonal((2,)),
            ValueError,
            "shape must be (rows, columns), got (2,)",
        ),
        (
            lambda: initializers.identity((2, 3)),
            ValueError,
            "shape must be square, got (2, 3)",
        ),
        (
            lambda: initializers.spectral_radius((2, 2), rho=0),
            ValueError,
            "rho must be positive, got 0",
        ),
        (
            lambda: initializers.get("identity", rho=1.0),
            TypeError,
            "initializer 'identity' has no parameter 'rho'",
        ),
        (
            lambda: initializers.get("xavier"),
            ValueError,
            "initializer must be one of 'zeros', 'uniform', 'normal', "
            "'glorot_uniform', 'orthogonal', 'identity', 'spectral_radius'; "
            "got 'xavier'",
        ),
    ],
)
def test_bad_input_is_told_of_in_one_line(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
