"""Omega, and its gradient by complex step through everything it depends on."""

import itertools

import numpy as np
import paths
import pytest
from proof import ACTIVATIONS, STEP, random_case, run_forward
from tolerances import COMPLEX_STEP, difference_bound, exact_bound

import bptt
from bptt import _reference, flow
from bptt.flow.regulariser import FORMS, VANISHED

LEAVES = ("W", "V", "b", "z0", "x")


def value(case, V_factor=None, z=None, form="sum"):
    """Return Omega in plain NumPy, of complex arguments too.

    V_factor stands for V in the factor V^T alone.
    """
    z = run_forward(_reference, case) if z is None else z
    T, B = case.x.shape[:2]
    last = case.V if V_factor is None else V_factor
    e, total, count = (0 if case.dz_last is None else case.dz_last), 0.0, 0
    for t in range(T, 0, -1):
        if case.dz is not None:
            e = e + case.dz[t - 1]
        da = e * case.activation.dsigma(z[t])
        r = da @ last.T
        # No norm of NumPy: it takes the modulus, which has no derivative.
        square = (e * e).sum(axis=1)
        there = np.ones(B, bool) if form == "sum" else square.real >= VANISHED
        ratio = ((r * r).sum(axis=1) / square)[there]
        ratio = np.sqrt(ratio) if form == "sum" else ratio
        total, count = total + ((ratio - 1) ** 2).sum(), count + there.sum()
        e = da @ case.V.T
    return total / (B if form == "sum" else count)


def moved(case, name, direction):
    return type(case)(
        **{**vars(case), name: getattr(case, name) + 1j * STEP * direction}
    )


# Those whose slopes take complex states; the others have no curvature anywhere.
SMOOTH = ("tanh", "sigmoid", "scaled_tanh", "softplus", "identity", "affine")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_the_complex_step_derivatives(name, form, rng):
    activation = next(a for a in ACTIVATIONS if a.name == name)
    for b, dz in itertools.product([True, False], ["dz", "dz_last", "both"]):
        case = random_case(rng, 7, 3, 4, 5, activation, b=b, dz=dz)
        case.V[...] *= 4
        arguments = case.x, case.W, case.V, case.b, case.z0
        _, tape = bptt.forward(*arguments, activation=activation)
        omega, grads = flow.omega(
            tape, case.dz, dz_last=case.dz_last, form=form, need_x_grad=True
        )
        np.testing.assert_allclose(omega, value(case, form=form), rtol=exact_bound(100))
        for leaf in LEAVES:
            grad = getattr(grads, leaf)
            if grad is None:
                continue
            direction = rng.standard_normal(grad.shape)
            expected = value(moved(case, leaf, direction), form=form).imag / STEP
            products = grad * direction
            size = np.abs(products).sum() + omega
            assert abs(products.sum() - expected) <= COMPLEX_STEP * size, leaf


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_the_paper_takes_errors_and_slopes_as_constants(form, rng):
    case = random_case(rng, 7, 3, 4, 5, bptt.Activation("tanh"), dz="dz_last")
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    _, grads = flow.omega(tape, dz_last=case.dz_last, form=form, through="V")
    direction = rng.standard_normal(case.V.shape)
    expected = value(case, case.V + 1j * STEP * direction, form=form).imag / STEP
    # In `value` the errors are carried by V itself, as constants.
    products = grads.V * direction
    assert abs(products.sum() - expected) <= COMPLEX_STEP * np.abs(products).sum()
    for leaf in ("W", "b", "z0"):
        assert not getattr(grads, leaf).any()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_curvature_is_the_derivative_of_the_slope(activation, rng):
    z = activation.sigma(rng.standard_normal(50))
    h = 1e-6
    z = z[(np.abs(z) > h) & (np.abs(z - 1) > h)]  # away from the kinks
    slope = (activation.dsigma(z + h) - activation.dsigma(z - h)) / (2 * h)
    np.testing.assert_allclose(activation.curvature(z), slope, atol=difference_bound(h))


def test_omega_is_0_where_lengths_are_kept(rng):
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    x, W = np.zeros((9, 2, 1)), np.ones((1, 6))
    _, tape = bptt.forward(x, W, Q, activation="identity")
    omega, grads = flow.omega(tape, rng.standard_normal((9, 2, 6)))
    assert abs(omega) <= exact_bound(100) ** 2 * 9
    np.testing.assert_allclose(grads.V, 0, atol=exact_bound(200))


def test_an_error_of_0_has_no_term():
    _, tape = bptt.forward(np.ones((4, 2, 1)), np.ones((1, 3)), 0.5 * np.eye(3))
    dz_last = np.zeros((2, 3))
    dz_last[0, 0] = 1
    omega, grads = flow.omega(tape, dz_last=dz_last)
    assert np.isfinite(omega)
    assert all(np.isfinite(g).all() for g in grads if g is not None)


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_shows_in_omega_and_its_gradient(form, rng):
    case = random_case(rng, 5, 2, 3, 4, bptt.Activation("tanh"))
    _, tape = bptt.forward(case.x, case.W, case.V)
    case.dz[2, 1, 0] = np.nan
    found, grads = flow.omega(tape, case.dz, form=form)
    assert np.isnan(found)
    assert np.isnan(grads.V).all()


def test_the_mean_leaves_errors_out_that_have_vanished(rng):
    """Both sides of the bound occur, and the terms left out are not counted."""
    case = random_case(rng, 9, 3, 4, 5, bptt.Activation("tanh"), dz="dz_last")
    case.dz_last[...] *= 1e-8
    case.V[...] *= 0.3
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    _, of_loss = bptt.backward(tape, dz_last=case.dz_last, record=True)
    squares = np.square(of_loss.norms)
    assert 0 < (squares < VANISHED).sum() < squares.size
    omega, grads = flow.omega(tape, dz_last=case.dz_last, form="mean")
    np.testing.assert_allclose(omega, value(case, form="mean"), rtol=exact_bound(100))
    direction = rng.standard_normal(case.V.shape)
    expected = value(moved(case, "V", direction), form="mean").imag / STEP
    products = grads.V * direction
    assert abs(products.sum() - expected) <= COMPLEX_STEP * np.abs(products).sum()


@paths.FORMS
@paths.RESETS
@pytest.mark.parametrize("omega", ["sum", "mean"])
def test_omega_is_a_loop_over_sequences(form, resets, omega):
    batch = paths.a_batch(5, resets=resets)
    dz, last = paths.as_form(batch, form, batch.dz), batch.dz_last
    tape = paths.a_tape(batch, form, resets)
    found, grads = flow.omega(tape, dz, dz_last=last, form=omega, need_x_grad=True)
    lengths = batch.lengths
    total, dV, dz0 = 0.0, np.zeros_like(batch.V), np.zeros_like(batch.z0)
    dx = [np.zeros_like(x) for x in batch.x]
    for s, n in enumerate(lengths):
        for t0, t1, anew, one in paths.pieces(batch, s, resets):
            g = batch.dz[s][t0:t1].copy()
            if t1 == n and n > 0:
                g[-1] += last[s]
            # Every error is there, so that the mean is over all steps.
            share = 1 / len(lengths) if omega == "sum" else (t1 - t0) / sum(lengths)
            value, part = flow.omega(one, g, form=omega, need_x_grad=True)
            total += share * value
            dV += share * part.V
            dx[s][t0:t1] = share * part.x
            if not anew or batch.reset_state is None:
                dz0[s] += share * part.z0
    bound = exact_bound(1000)
    np.testing.assert_allclose(found, total, rtol=bound)
    np.testing.assert_allclose(grads.V, dV, atol=bound * np.abs(dV).max())
    np.testing.assert_allclose(grads.z0, dz0, atol=bound * np.abs(dz0).max())
    expected = paths.as_form(batch, form, dx)
    if form == "padded":
        expected[np.arange(len(expected))[:, np.newaxis] >= lengths] = 0
    for actual, desired in zip(grads.x, expected, strict=True):
        np.testing.assert_allclose(actual, desired, atol=bound * np.abs(dV).max())


def test_omega_of_resets_alone_is_a_loop_over_sequences():
    batch = paths.a_batch(6, lengths=[9, 9, 9])
    x, resets, dz = (batch.pad(a, 0) for a in (batch.x, batch.resets, batch.dz))
    z0 = batch.z0
    _, tape = bptt.forward(x, batch.W, batch.V, batch.b, z0, resets=resets)
    expected, packed = flow.omega(paths.a_tape(batch, "list"), batch.dz)
    value, grads = flow.omega(tape, dz)
    np.testing.assert_allclose(value, expected, rtol=exact_bound(100))
    for name in ("W", "V", "b", "z0"):
        one, other = getattr(grads, name), getattr(packed, name)
        bound = exact_bound(1000) * np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=bound)
