"""Lyapunov exponents: kernel against reference, determinants, and the mean field."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from proof import random_case, run_forward
from tolerances import (
    MEAN_FIELD,
    STANDARD_ERRORS,
    SUM_OF_EXPONENTS,
    exact_bound,
    frame_bound,
)

import bptt
from bptt import _backend, _reference, flow
from bptt.activations import Activation

TANH, RELU = Activation("tanh"), Activation("relu")


def autonomous(rng, N, g, T):
    """Return the arguments of z <- tanh(J z) with J ~ N(0, g^2 / N)."""
    J = rng.standard_normal((N, N)) * g / np.sqrt(N)
    return (np.ones((1, N)), J.T.copy(), None, np.zeros((T, 1))), rng.standard_normal(N)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("T", "B", "H", "k"), [(20, 3, 19, 4), (30, 1, 64, 8), (9, 2, 33, 33), (5, 1, 5, 1)]
)
def test_kernel_is_the_reference(T, B, H, k, dtype, rng):
    case = random_case(rng, T, B, 3, H, TANH, dtype)
    V = (np.linalg.qr(case.V)[0] + 0.3 * case.V).astype(dtype)
    z = run_forward(_reference, case)
    start = np.linalg.qr(rng.standard_normal((B, H, k)))[0].swapaxes(1, 2)
    results = []
    for module in (_backend.kernels, _reference):
        # The reference in float64, from the same rounded numbers.
        wide = np.float64 if module is _reference else dtype
        Q, logs = np.array(start.astype(dtype), wide, order="C"), np.zeros((B, k))
        module.lyapunov(V.astype(wide), z.astype(wide), TANH, Q, logs)
        results.append(logs)
        eye = Q @ Q.swapaxes(1, 2)
        bound = frame_bound(np.eye(H)[np.newaxis], wide)
        np.testing.assert_allclose(
            eye, np.broadcast_to(np.eye(k), eye.shape), atol=bound
        )
    slopes = TANH.dsigma(z[1:].astype(np.float64)).reshape(-1, 1, H)
    bound = frame_bound(V.astype(np.float64) * slopes, dtype)
    np.testing.assert_allclose(*results, atol=bound)


@pytest.mark.parametrize("V", [0.5, 2.0])
def test_no_length_underflows_or_overflows(V):
    for dtype in (np.float32, np.float64):
        scale = float(np.finfo(dtype).smallest_normal ** 0.8) if V < 1 else 1e25
        arguments = np.ones((1, 3), dtype), scale * np.eye(3, dtype=dtype), None
        x = np.zeros((50, 1), dtype)
        found = flow.lyapunov_exponents(
            (*arguments, x), 3, activation="identity", z0=np.zeros(3, dtype)
        )
        expected = np.log(float(dtype(scale)))
        np.testing.assert_allclose(
            found.exponents, expected, rtol=float(np.finfo(dtype).eps) * 50
        )


def test_the_sum_of_all_is_the_mean_log_determinant(rng):
    arguments, z0 = autonomous(rng, 24, 1.8, 400)
    W, V, _, x = arguments
    found = flow.lyapunov_exponents(arguments, 24, z0=z0)
    z, _ = bptt.forward(x, W, V, z0=z0)
    mean = np.log(1 - z * z).sum(axis=1).mean() + np.linalg.slogdet(V)[1]
    assert abs(found.exponents.sum() - mean) <= SUM_OF_EXPONENTS


def test_a_tape_and_its_arguments_give_the_same(rng, monkeypatch):
    monkeypatch.setattr(flow.exponents, "_PIECE", 37)
    (W, V, _, x), z0 = autonomous(rng, 12, 1.5, 200)
    x = rng.standard_normal((200, 2, 1))
    z0 = rng.standard_normal((2, 12))
    _, tape = bptt.forward(x, W, V, z0=z0)
    whole = flow.lyapunov_exponents(tape, 4, skip=50)
    pieces = flow.lyapunov_exponents((W, V, None, x), 4, z0=z0, skip=50)
    np.testing.assert_array_equal(whole.exponents, pieces.exponents)
    assert whole.steps == 150
    assert whole.exponents.shape == (2, 4)


def test_results_do_not_depend_on_the_threads(rng):
    _, tape = bptt.forward(
        rng.standard_normal((300, 5, 2)),
        rng.standard_normal((2, 32)),
        rng.standard_normal((32, 32)) / 5,
    )
    found = []
    for n in (1, 2, 3):
        with bptt.threads(n):
            found.append(flow.lyapunov_exponents(tape, 6).exponents)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_direction_that_dies_has_the_exponent_minus_infinity():
    V = np.diag([0.5, 0.0])
    spectrum = flow.lyapunov_exponents((np.ones((1, 2)), V, None, np.zeros((9, 1))), 2)
    assert spectrum.exponents[1] == -np.inf
    assert np.isfinite(spectrum.exponents[0])


def rank(rows):
    """Return how many rows of fractions are independent."""
    found, rows = 0, [list(row) for row in rows]
    for column in range(len(rows[0])):
        first = next((r for r in rows[found:] if r[column]), None)
        if first is None:
            continue
        rows.remove(first)
        rows.insert(found, first)
        found += 1
        for row in rows[found:]:
            part = row[column] / first[column]
            row[:] = [a - part * b for a, b in zip(row, first, strict=True)]
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(8))
def test_as_many_exponents_are_finite_as_the_product_has_a_rank(seed, dtype):
    # Of rows that lie in the span of others no more than rounding is left, which is not
    # to grow like those.
    rng, H = np.random.default_rng(seed), 6
    case = random_case(rng, 10, 1, 3, H, RELU, dtype)
    V = np.linalg.qr(case.V)[0].astype(dtype)
    z = run_forward(_reference, replace(case, V=V))
    product = np.vectorize(Fraction)(np.eye(H))
    for state in z[1:, 0]:
        product = (product @ np.vectorize(Fraction)(V.astype(float))) * (state > 0)
    desired = np.arange(H) < rank(product)
    start = np.linalg.qr(rng.standard_normal((1, H, H)))[0].astype(dtype)
    for module in (_backend.kernels, _reference):
        Q, logs = start.copy(), np.zeros((1, H))
        module.lyapunov(V, z, RELU, Q, logs)
        np.testing.assert_array_equal(np.isfinite(logs[0]), desired)
        np.testing.assert_array_equal(Q[0].any(axis=1), desired)


def test_dimension_and_entropy():
    spectrum = flow.LyapunovSpectrum(np.array([0.4, 0.1, -0.3, -1.0]), 100)
    # 0.4 + 0.1 - 0.3 = 0.2 is left for a fourth direction that shrinks by 1.
    np.testing.assert_allclose(spectrum.kaplan_yorke, 3.2, rtol=exact_bound(4))
    np.testing.assert_allclose(spectrum.entropy_rate, 0.5, rtol=exact_bound(4))
    assert flow.LyapunovSpectrum(np.array([-0.1, -0.2]), 9).kaplan_yorke == 0
    assert np.isnan(flow.LyapunovSpectrum(np.array([0.2, 0.1]), 9).kaplan_yorke)


def test_the_dimension_of_what_shrinks_no_volume_is_that_of_the_state(rng):
    Q = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    arguments = np.ones((1, 3)), 1.1 * Q, None, np.zeros((2, 5, 1))
    for k, dimension in [(3, 3.0), (2, np.nan)]:
        found = flow.lyapunov_exponents(arguments, k, activation="identity")
        np.testing.assert_array_equal(found.kaplan_yorke, np.full(5, dimension))
    # Of what is not finite, and of a state of unknown size, nothing is known.
    for exponents, H in [([np.nan] * 2, 2), ([0.2, np.nan], 2), ([0.2, 0.1], None)]:
        spectrum = flow.LyapunovSpectrum(np.array(exponents), 9, H)
        assert np.isnan(spectrum.kaplan_yorke)


def test_below_1_the_spectrum_is_that_of_the_random_matrix(rng):
    # ln g + (ln q) / 2, q the part of the spectrum that is below; the states die.
    N, g = 256, 0.5
    arguments, z0 = autonomous(rng, N, g, 600)
    found = flow.lyapunov_exponents(arguments, N, z0=z0, skip=400).exponents
    q = 1 - (np.arange(N) + 0.5) / N  # of the largest first
    expected = np.log(g) + np.log(q) / 2
    middle = slice(N // 10, -N // 10)  # the ends fluctuate from matrix to matrix
    assert np.abs(found - expected)[middle].max() <= 10 * MEAN_FIELD


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("N", "networks", "T"), [(512, 100, 5000), (1024, 40, 3000)])
@pytest.mark.parametrize(
    ("g", "largest", "mean"),
    [(1.5, 0.06522, -0.7143), (2.0, 0.15472, -1.1490), (3.0, 0.31025, -2.2728)],
)
def test_the_mean_field(g, largest, mean, N, networks, T):
    found, skip = [], T // 5
    for seed in range(networks):
        rng = np.random.default_rng(seed)
        (W, V, b, x), z0 = autonomous(rng, N, g, T)
        z, tape = bptt.forward(x, W, V, b, z0)
        spectrum = flow.lyapunov_exponents(tape, 1, skip=skip)
        log_slopes = np.log(1 - np.square(z[skip:])).sum(axis=1).mean()
        found.append(
            (spectrum.exponents[0], (log_slopes + np.linalg.slogdet(V)[1]) / N)
        )
    off = np.abs(np.mean(found, axis=0) - (largest, mean))
    # Networks differ, near g = 1 most: what is asked is asked of their expectation, of
    # which these are a sample.
    sampling = STANDARD_ERRORS * np.std(found, axis=0, ddof=1) / np.sqrt(networks)
    asked = off <= MEAN_FIELD + sampling
    assert asked[0]
    # 512 units at g = 1.5 are too few for the mean: in the expectation over 400
    # networks it is 0.021 off (bench/experiments/lyapunov.md).
    assert asked[1] or (g, N) == (1.5, 512)
