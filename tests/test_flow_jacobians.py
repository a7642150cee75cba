"""Jacobians against complex-step derivatives, and their products against each other."""

import numpy as np
import pytest
from proof import ACTIVATIONS, STEP, random_case, run_forward
from tolerances import COMPLEX_STEP, EXACT_CASE, exact_bound

import bptt
from bptt import _reference, flow


def a_tape(rng, T=8, B=2, I=3, H=5, activation="tanh", dtype=np.float64):
    case = random_case(rng, T, B, I, H, bptt.Activation(activation), dtype)
    V = (2 * case.V).astype(dtype)
    return bptt.forward(case.x, case.W, V, case.b, case.z0, activation=activation)[1]


def derivative(case, t, i):
    """Return dz[t]/dz[i] (B, H, H), by complex step from z[i] on."""
    z = run_forward(_reference, case)
    B, H = z.shape[1:]
    result = np.empty((B, H, H))
    for k in range(H):
        start = z[i].astype(complex)
        start[:, k] += 1j * STEP
        rest = type(case)(**{**vars(case), "x": case.x[i:t], "z0": start})
        result[:, :, k] = run_forward(_reference, rest)[-1].imag / STEP
    return result


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_jacobians_are_the_complex_step_derivatives(activation, rng):
    case = random_case(rng, 7, 3, 4, 5, activation)
    _, tape = bptt.forward(
        case.x, case.W, case.V, case.b, case.z0, activation=activation
    )
    for t in (1, 4, 7):
        expected = derivative(case, t, t - 1)
        bound = COMPLEX_STEP * np.abs(expected).max()
        np.testing.assert_allclose(bptt.jacobian(tape, t), expected, atol=bound)
    for t, i in ((7, 0), (6, 2), (3, 3)):
        expected = derivative(case, t, i) if t > i else np.stack([np.eye(5)] * 3)
        bound = COMPLEX_STEP * np.abs(expected).max()
        actual = bptt.jacobian_product(tape, t, i).dense()
        np.testing.assert_allclose(actual, expected, atol=bound)


def test_the_diagonal_is_that_of_D(rng):
    tape = a_tape(rng)
    D = bptt.jacobian(tape, 3, diagonal=True)
    assert D.shape == (2, 5)
    np.testing.assert_array_equal(
        D[:, :, np.newaxis] * tape.V.T, bptt.jacobian(tape, 3)
    )


def test_one_sequence_has_no_batch_axis(rng):
    case = random_case(rng, 6, 1, 2, 4, bptt.Activation("tanh"))
    _, one = bptt.forward(case.x[:, 0], case.W, case.V)
    _, batch = bptt.forward(case.x, case.W, case.V)
    for name, arguments in (
        ("jacobian", (3,)),
        ("jacobian_product", (5, 1)),
        ("log_singular_values", (5, 1, 2)),
    ):
        function = getattr(flow, name)
        alone, many = function(one, *arguments), function(batch, *arguments)
        if name == "jacobian_product":
            alone, many = alone.dense(), many.dense()
        np.testing.assert_array_equal(alone, many[0])
    for alone, many in zip(
        flow.split_growth(one, 5, 1), flow.split_growth(batch, 5, 1), strict=True
    ):
        np.testing.assert_array_equal(alone, many[:, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_values_are_those_of_the_product(dtype, rng):
    tape = a_tape(rng, T=12, H=20, dtype=dtype)
    for t, i in ((12, 0), (5, 4), (9, 3), (4, 4)):
        product = bptt.jacobian_product(tape, t, i)
        expected = np.log(np.linalg.svd(product.matrix)[1]) + product.log_scale[:, None]
        found = flow.log_singular_values(tape, t, i, 4)
        # Of the smaller ones the product itself has lost digits.
        bound = exact_bound(20 * 12) * np.exp(expected[:, :1] - expected[:, :4])
        assert (np.abs(found - expected[:, :4]) <= bound).all()


def test_the_norm_of_a_product_that_is_not_finite_is_NaN():
    x = np.zeros((4, 2, 1))
    x[1, 1] = np.nan
    _, tape = bptt.forward(x, np.ones((1, 3)), 0.1 * np.eye(3))
    norm = bptt.jacobian_product(tape, 4, 0).log10_norm
    assert np.isnan(norm[1])
    np.testing.assert_allclose(norm[0], -4, rtol=exact_bound(4))


def test_singular_values_far_below_the_largest_are_kept():
    V = np.diag([1.0, 1e-3])
    _, tape = bptt.forward(np.zeros((500, 1)), np.ones((1, 2)), V)
    found = flow.log_singular_values(tape, 500, 0, 2)
    np.testing.assert_allclose(found, [0, 500 * np.log(1e-3)], atol=EXACT_CASE * 5000)


def test_the_split_adds_up_to_the_growth(rng):
    tape = a_tape(rng, T=10)
    u = rng.standard_normal((2, 5))
    growth = flow.split_growth(tape, 9, 2, u)
    assert growth.V.shape == (7, 2)
    after = np.einsum("bhk,bk->bh", bptt.jacobian_product(tape, 9, 2).dense(), u)
    expected = np.log(np.linalg.norm(after, axis=1) / np.linalg.norm(u, axis=1))
    np.testing.assert_allclose(
        (growth.V + growth.D).sum(axis=0), expected, rtol=exact_bound(100)
    )
    through_V = np.linalg.norm(u @ tape.V, axis=1) / np.linalg.norm(u, axis=1)
    np.testing.assert_allclose(growth.V[0], np.log(through_V), rtol=exact_bound(20))
    assert (growth.D < 0).all()  # tanh only shrinks


def test_norms_of_all_products(rng):
    tape = a_tape(rng, T=9, B=2, H=5)
    norms = flow.product_norms(tape, 1, probes=5)
    for t in range(10):
        for i in range(10):
            if i > t:
                assert np.isnan(norms[t, i])
                continue
            product = bptt.jacobian_product(tape, t, i).dense()[1]
            expected = np.log10(np.linalg.norm(product) / np.sqrt(5))
            bound = float(np.finfo(np.float32).eps) * 4 * (1 + abs(expected))
            assert abs(norms[t, i] - expected) <= bound


@pytest.mark.parametrize("factor", [1e-2, 1e2])
def test_norms_neither_vanish_nor_overflow(factor):
    V = np.float32(factor) * np.eye(4, dtype=np.float32)
    x, W = np.zeros((200, 1), np.float32), np.ones((1, 4), np.float32)
    _, tape = bptt.forward(x, W, V, activation="identity")
    gap = np.arange(201)
    expected = np.log10(factor) * (gap[:, None] - gap)
    expected[np.triu_indices(201, 1)] = np.nan
    bound = float(np.finfo(np.float32).eps) * 200
    np.testing.assert_allclose(flow.product_norms(tape), expected, rtol=bound)


@pytest.mark.parametrize("factor", [1e-25, 1e20])
def test_norms_of_one_step_whose_squares_leave_float32(factor):
    V = np.float32(factor) * np.eye(4, dtype=np.float32)
    x, W = np.zeros((3, 1), np.float32), np.ones((1, 4), np.float32)
    _, tape = bptt.forward(x, W, V, activation="identity")
    expected = np.log10(factor) * np.arange(3, -1, -1)
    bound = float(np.finfo(np.float32).eps) * 4
    np.testing.assert_allclose(flow.product_norms(tape)[3], expected, rtol=bound)


def test_norms_beyond_saturated_sigmoids_are_not_0():
    x, W, V = np.full((6, 1), -60.0), np.ones((1, 4)), np.eye(4)
    arguments = (a.astype(np.float32) for a in (x, W, V))
    _, tape = bptt.forward(*arguments, activation="sigmoid")
    expected = [bptt.jacobian_product(tape, 6, i).log10_norm for i in range(7)]
    bound = float(np.finfo(np.float32).eps) * 10
    np.testing.assert_allclose(flow.product_norms(tape)[6], expected, rtol=bound)


def test_few_probes_estimate_the_norm(rng):
    tape = a_tape(rng, T=30, B=1, H=64)
    exact = flow.product_norms(tape, probes=64)
    few = flow.product_norms(tape, probes=8)
    lower = np.tril_indices(31)
    # sqrt(2 / 8) of the square is 0.11 in log10; five times that.
    assert np.abs(few - exact)[lower].max() <= 5 * np.log10(1 + np.sqrt(2 / 8)) / 2
