"""The flow of gradients: exact cases, and one way of computing against another.

Here are the cases of which the answer is known; `test_flow_*.py` have the modules of
the package.
"""

import numpy as np
import pytest
from tolerances import EXACT_CASE, RTRL_IS_BPTT, exact_bound

import bptt
from bptt import flow


def run(V, T=100, activation="identity", *, x=None, z0=None, W=None):
    V = np.asarray(V, np.float64)
    H = len(V)
    x = np.zeros((T, 1)) if x is None else x
    W = np.ones((x.shape[-1], H)) if W is None else W
    return bptt.forward(x, W, V, z0=z0, activation=activation)[1]


def orthogonal(rng, H):
    return np.linalg.qr(rng.standard_normal((H, H)))[0]


def chain(H, by):
    return np.diag(np.full(H - 1, by), 1)


def test_an_orthogonal_linear_layer_keeps_every_length(rng):
    tape = run(orthogonal(rng, 12))
    singular = np.linalg.svd(flow.jacobian_product(tape, 100, 0).dense())[1]
    np.testing.assert_allclose(singular, 1, rtol=exact_bound(100 * 12))
    logs = flow.log_singular_values(tape, 100, 0, 12)
    np.testing.assert_allclose(logs, 0, atol=exact_bound(100 * 12))


@pytest.mark.parametrize("rho", [0.5, 0.99, 1.3])
def test_a_scaled_orthogonal_layer_grows_by_its_scale_per_step(rho, rng):
    tape = run(rho * orthogonal(rng, 12))
    for gap in (1, 7, 100):
        logs = flow.log_singular_values(tape, 100, 100 - gap, 3)
        np.testing.assert_allclose(logs, gap * np.log(rho), rtol=exact_bound(1200))
        norm = flow.jacobian_product(tape, 100, 100 - gap).log10_norm
        np.testing.assert_allclose(norm, gap * np.log10(rho), rtol=exact_bound(1200))
    found = flow.gradient_flow(tape, dz_last=rng.standard_normal(12))
    np.testing.assert_allclose(found.growth[1:], rho, rtol=exact_bound(1200))
    np.testing.assert_allclose(
        found.log10_bound[1:], found.log10_decay[1:], rtol=EXACT_CASE
    )
    assert found.kind == {0.5: "vanishing", 0.99: "healthy", 1.3: "exploding"}[rho]


def test_relu_with_the_identity_and_positive_states_changes_nothing(rng):
    tape = run(np.eye(6), 50, "relu", x=1 + rng.random((50, 2)), W=rng.random((2, 6)))
    product = flow.jacobian_product(tape, 50, 0)
    np.testing.assert_array_equal(product.matrix, np.eye(6))
    assert product.exponent == 0


def test_a_chain_grows_though_its_spectral_radius_is_0(rng):
    tape = run(chain(100, 1.02), 99)
    product = flow.jacobian_product(tape, 99, 0)
    np.testing.assert_allclose(product.log10_norm, 99 * np.log10(1.02), rtol=EXACT_CASE)
    assert round(10 ** float(product.log10_norm), 1) == 7.1
    logs = flow.log_singular_values(tape, 99, 0)
    np.testing.assert_allclose(logs, 99 * np.log(1.02), rtol=EXACT_CASE)
    # The gradient that meets this direction: of the first unit on, after the last step.
    found = flow.gradient_flow(tape, dz_last=np.eye(100)[-1])
    assert found.spectral_radius == 0
    np.testing.assert_allclose(found.growth[99], 1.02, rtol=EXACT_CASE)
    assert found.kind == "healthy"
    assert "the radius alone would promise that gradients vanish" in found.verdict


def test_the_singular_values_are_within_the_bound(rng):
    for activation in ("tanh", "sigmoid"):
        V = rng.standard_normal((8, 8))
        x, W = rng.standard_normal((20, 3)), rng.standard_normal((3, 8))
        tape = run(V, activation=activation, x=x, W=W)
        step = tape.activation.gamma * np.linalg.norm(V, 2)
        for i in range(20):
            assert flow.log_singular_values(tape, 20, i) <= (20 - i) * np.log(step)


def test_a_product_of_any_size_is_kept():
    for factor in (1e-3, 1e3):
        tape = run(factor * np.eye(2), 1000, z0=np.zeros(2))
        product = flow.jacobian_product(tape, 1000, 0)
        np.testing.assert_allclose(
            product.log10_norm, 1000 * np.log10(factor), rtol=exact_bound(1000)
        )
        found = flow.gradient_flow(tape, dz_last=np.ones(2))
        np.testing.assert_allclose(
            found.log10_decay[-1], 1000 * np.log10(factor), rtol=exact_bound(1000)
        )
        logs = flow.log_singular_values(tape, 1000, 0)
        np.testing.assert_allclose(logs, 1000 * np.log(factor), rtol=exact_bound(1000))


def test_rtrl_gives_the_gradients_of_bptt(rng):
    for activation in ("tanh", "relu", "sigmoid", "softplus"):
        T, I, H = 40, 3, 6
        x, W, V = (rng.standard_normal(s) for s in [(T, I), (I, H), (H, H)])
        b, z0, dz = (rng.standard_normal(s) for s in [(H,), (H,), (T, H)])
        V /= 2
        _, tape = bptt.forward(x, W, V, b, z0, activation=activation)
        expected = bptt.backward(tape, dz)
        layer = flow.RTRL(W, V, b, z0, activation=activation)
        for x_t, dz_t in zip(x, dz, strict=True):
            layer.step(x_t)
            layer.add_loss(dz_t)
        for name in ("W", "V", "b", "z0"):
            grad, other = getattr(layer.gradients, name), getattr(expected, name)
            error = np.linalg.norm(grad - other)
            assert error <= RTRL_IS_BPTT * np.linalg.norm(other), (activation, name)
