"""What gradient_flow says of a loss, against plain NumPy and known cases."""

import json

import numpy as np
import pytest
from proof import random_case, run_forward
from tolerances import EXACT_CASE, exact_bound, normwise_bound, power_bound

import bptt
from bptt import _reference, flow
from bptt.cli.flow import table


def errors(tape, dz):
    """Return e[t] for t = 0..T, plainly."""
    T = len(dz)
    e = np.zeros((T + 1, *dz.shape[1:]))
    for t in range(T, 0, -1):
        e[t] += dz[t - 1]
        e[t - 1] = (e[t] * tape.activation.dsigma(tape.z[t])) @ tape.V.T
    return e


@pytest.mark.parametrize("B", [1, 3, 9])
@pytest.mark.parametrize("kind", ["dz", "dz_last", "both"])
def test_norms_are_those_of_the_gradients(B, kind, rng):
    case = random_case(rng, 12, B, 3, 5, bptt.Activation("tanh"), dz=kind)
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    found = bptt.gradient_flow(tape, case.dz, dz_last=case.dz_last)
    dz = np.zeros((12, B, 5)) if case.dz is None else case.dz.copy()
    if case.dz_last is not None:
        dz[-1] += case.dz_last
    e = errors(tape, dz)
    bound = exact_bound(12 * 5)
    expected = np.log10(np.linalg.norm(e, axis=2))
    np.testing.assert_allclose(found.log10_norm, expected, rtol=bound, atol=bound)
    every = np.log10(np.linalg.norm(e.reshape(13, -1), axis=1))
    np.testing.assert_allclose(found.log10_norm_all, every, rtol=bound, atol=bound)
    z0 = bptt.backward(tape, case.dz, dz_last=case.dz_last).z0
    np.testing.assert_allclose(
        10 ** found.log10_norm_all[0],
        np.linalg.norm(z0),
        rtol=power_bound(bound, found.log10_norm_all[0]),
    )
    da = e[1:] * tape.activation.dsigma(tape.z[1:])
    parts = [np.linalg.norm(a.T @ b) for a, b in zip(tape.z[:-1], da, strict=True)]
    np.testing.assert_allclose(
        10**found.log10_dV, parts, rtol=power_bound(bound, found.log10_dV)
    )


def test_weights_may_stand_column_after_column(rng):
    case = random_case(rng, 12, 3, 4, 5, bptt.Activation("tanh"), dz="dz")
    flows = [
        bptt.gradient_flow(bptt.forward(case.x, W, V, case.b)[1], case.dz)
        for W, V in [(case.W, case.V), map(np.asfortranarray, (case.W, case.V))]
    ]
    assert flows[0].to_dict() == flows[1].to_dict()


def test_decay_is_that_of_single_steps(rng):
    case = random_case(rng, 10, 2, 3, 5, bptt.Activation("tanh"), dz="dz")
    case.dz[[0, 2, 3]] = 0
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    found = bptt.gradient_flow(tape, case.dz)
    for gap in range(11):
        expected = []
        for t in range(gap, 11):
            if t == 0 or not case.dz[t - 1].any():
                continue
            alone = np.zeros_like(case.dz)
            alone[t - 1] = case.dz[t - 1]
            e = np.linalg.norm(errors(tape, alone), axis=2)
            expected += list(np.log10(e[t - gap] / e[t]))
        np.testing.assert_allclose(
            found.log10_decay[gap], np.mean(expected), rtol=0, atol=exact_bound(100)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_neither_vanishes_nor_overflows(dtype, rng):
    V = (0.01 * np.eye(4)).astype(dtype)
    x, W = np.zeros((400, 1), dtype), np.ones((1, 4), dtype)
    _, tape = bptt.forward(x, W, V, activation="identity")
    found = bptt.gradient_flow(tape, dz_last=np.ones(4, dtype))
    expected = 400 * np.log10(float(dtype(0.01)))
    np.testing.assert_allclose(
        found.log10_norm_all[0] - found.log10_norm_all[-1], expected, rtol=EXACT_CASE
    )
    assert found.horizon == 1


def test_a_loss_added_to_a_vanished_or_exploded_error():
    for factor in (1e-2, 1e2):
        V = factor * np.eye(2)
        x, W = np.zeros((400, 1)), np.ones((1, 2))
        _, tape = bptt.forward(x, W, V, activation="identity")
        dz = np.zeros((400, 2))
        dz[[-1, 0], :] = [[1.0, 0.0], [3.0, 0.0]]
        found = bptt.gradient_flow(tape, dz)
        # After step 1 the loss there counts where the other has vanished.
        expected = np.log10(3) if factor < 1 else 399 * 2
        np.testing.assert_allclose(
            found.log10_norm_all[1], expected, rtol=exact_bound(400)
        )


def layer(rng, V, activation="tanh", T=60, scale=0.1, b=None):
    H = len(V)
    x = rng.standard_normal((T, 2, 3))
    W = scale * rng.standard_normal((3, H))
    _, tape = bptt.forward(x, W, V, b, activation=activation)
    return bptt.gradient_flow(tape, dz_last=rng.standard_normal((2, H)))


def test_verdicts(rng):
    Q = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    found = layer(rng, 0.6 * Q)
    assert found.kind == "vanishing"
    assert f"1 % in {found.horizon:.0f} steps of 60" in found.verdict
    assert "gamma ||V|| = 0.6 < 1" in found.verdict
    found = layer(rng, Q, "sigmoid")
    assert found.kind == "vanishing"
    assert "in place of sigmoid" in found.verdict
    found = layer(rng, Q, "identity")
    assert found.kind == "healthy"
    assert np.isinf(found.horizon)
    found = layer(rng, 1.4 * Q, "identity")
    assert found.kind == "exploding"
    assert "h = 1" in found.verdict
    assert "1.4 per step" in found.verdict
    found = layer(rng, 0.5 * Q, scale=50.0)
    assert found.kind == "saturated"
    assert found.units.saturated > 0.5
    found = layer(rng, Q, "relu", b=np.full(16, -100.0))
    assert found.kind == "dead"
    assert list(found.units.dead) == list(range(16))
    assert (found.units.dead_since == 1).all()
    assert "16 of 16 units" in found.verdict
    for text in (layer(rng, s * Q).verdict for s in (0.5, 1.0, 3.0)):
        assert "\n" not in text


def saturated_at_the_end(factor):
    x, W, V = np.zeros((200, 1)), np.ones((1, 4)), factor * np.eye(4)
    x[-3:] = 3
    return bptt.gradient_flow(bptt.forward(x, W, V)[1], dz_last=np.ones(4))


def test_a_gradient_that_comes_back_has_not_vanished():
    found = saturated_at_the_end(1.2)
    assert found.horizon == 1
    assert found.log10_decay[-1] > 7
    assert found.kind == "exploding"
    assert "shrink" not in found.verdict
    found = saturated_at_the_end(1.1)
    assert found.horizon == 1
    assert found.kind == "healthy"
    assert found.verdict.count("but is above that again 200 steps back.") == 1
    assert saturated_at_the_end(1.05).kind == "vanishing"


def test_a_gradient_that_explodes_before_it_is_0_is_told_to_explode():
    # The units are off at the first step alone.
    x, W, V = np.zeros((20, 1)), np.ones((1, 2)), 2 * np.eye(2)
    x[:2] = [[-1], [1]]
    _, tape = bptt.forward(x, W, V, activation="relu")
    found = bptt.gradient_flow(tape, dz_last=np.ones(2))
    assert found.log10_decay[-1] == -np.inf
    assert found.kind == "exploding"
    assert "over 19 steps back the gradient is multiplied by 5.2e+5" in found.verdict
    assert "shrink" not in found.verdict
    found = bptt.gradient_flow(tape, np.eye(20)[:, :1] @ np.ones((1, 2)))
    assert found.kind == "vanishing"
    assert found.verdict.startswith("Vanishing: the gradient is 0 after 1 step of 1.")


@pytest.mark.parametrize("T", [1, 2, 3])
def test_a_gradient_that_a_step_takes_to_1_per_cent_vanishes(T):
    x, W = np.zeros((T, 1)), np.ones((1, 2))
    _, tape = bptt.forward(x, W, 0.001 * np.eye(2))
    assert bptt.gradient_flow(tape, dz_last=np.ones(2)).kind == "vanishing"
    _, tape = bptt.forward(x, W, 0.5 * np.eye(2))
    assert bptt.gradient_flow(tape, dz_last=np.ones(2)).kind == "healthy"


def test_truncation_is_advised_beyond_the_last_of_the_gradient():
    # It is at .1 % after a step, grows for 7 more, and then is 0.
    x, W, V = np.zeros((40, 1)), np.ones((1, 9)), np.diag([10.0] * 7 + [1e-3], 1)
    _, tape = bptt.forward(x, W, V, activation="identity")
    found = bptt.gradient_flow(tape, dz_last=np.eye(9)[8])
    assert found.horizon == 1
    assert found.kind == "vanishing"
    assert "truncation beyond 9 steps loses little" in found.verdict


def test_a_large_radius_with_small_growth_is_told(rng):
    found = layer(rng, 1.5 * np.eye(16), scale=50.0)
    assert found.spectral_radius == 1.5
    assert "the radius alone would promise that gradients explode" in found.verdict


def test_dead_units_since_when_and_where(rng):
    x = np.ones((10, 2, 1))
    x[4:] = -1
    x[4:, 1] = 1  # only the first sequence turns negative
    W = np.array([[1.0, 1.0, -1.0]])
    V = np.diag([0.0, 2.0, 0.0])
    _, tape = bptt.forward(x, W, V, activation="relu")
    units = bptt.gradient_flow(tape, dz_last=np.ones((2, 3))).units
    assert list(units.dead_share) == [0.5, 0, 0.5]
    assert list(units.dead_since) == [11, 11, 11]
    assert len(units.dead) == 0
    off = tape.z[1:] == 0
    assert units.zero == off.mean()


def test_json_has_dead_units_since_when_and_where():
    x = np.ones((10, 2, 1))
    x[:4] = -1
    W = np.array([[1.0, -1.0]])
    _, tape = bptt.forward(x, W, np.zeros((2, 2)), activation="relu")
    said = bptt.gradient_flow(tape, dz_last=np.ones((2, 2))).to_dict()
    assert said["dead_units"] == [1]
    assert said["dead_since"] == [5]
    assert said["dead_share"] == [0, 1]


def test_units_that_saturate_to_the_last_bit_are_not_told_to_be_dead():
    x, W = np.full((9, 2, 1), 99.0), np.ones((1, 4))
    _, tape = bptt.forward(x, W, 0.5 * np.eye(4))
    assert (tape.z[1:] == 1).all()
    assert bptt.gradient_flow(tape, dz_last=np.ones((2, 4))).kind == "saturated"


def test_saturation_is_counted(rng):
    case = random_case(rng, 9, 4, 3, 6, bptt.Activation("tanh"))
    _, tape = bptt.forward(3 * case.x, case.W, case.V)
    units = bptt.gradient_flow(tape, case.dz).units
    saturated = 1 - np.square(tape.z[1:]) < 0.05
    assert 0 < units.saturated < 1
    np.testing.assert_allclose(units.saturated, saturated.mean(), rtol=exact_bound(4))
    np.testing.assert_allclose(
        units.saturated_by_unit, saturated.mean(axis=(0, 1)), rtol=exact_bound(4)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_has_no_horizon(bad, rng):
    case = random_case(rng, 9, 2, 3, 6, bptt.Activation("tanh"))
    _, tape = bptt.forward(case.x, case.W, case.V)
    dz_last = np.full((2, 6), bad)
    found = bptt.gradient_flow(tape, dz_last=dz_last)
    assert found.kind == "not finite"
    assert np.isnan(found.log10_decay).all()
    assert np.isnan([found.horizon, flow.horizon(tape, dz_last=dz_last)]).all()
    assert "not finite" in table(found)


def test_a_sequence_that_is_not_finite_shows_in_the_decay_of_the_batch(rng):
    case = random_case(rng, 9, 2, 3, 6, bptt.Activation("tanh"))
    _, tape = bptt.forward(case.x, case.W, 0.1 * case.V)
    dz_last = np.ones((2, 6))
    assert flow.horizon(tape, dz_last=dz_last) < 9
    dz_last[0] = np.nan
    found = bptt.gradient_flow(tape, dz_last=dz_last)
    assert found.kind == "not finite"
    assert np.isnan(found.horizon)
    assert np.isnan(flow.horizon(tape, dz_last=dz_last))
    # The state of one sequence is NaN from step 3 on.
    case.x[2, 0] = np.nan
    _, tape = bptt.forward(case.x, case.W, case.V)
    found = bptt.gradient_flow(tape, dz_last=np.ones((2, 6)))
    assert found.log10_decay[0] == 0
    assert np.isnan(found.log10_decay[1:]).all()
    assert np.isnan(found.horizon)


def test_a_nan_is_located(rng):
    case = random_case(rng, 9, 2, 3, 6, bptt.Activation("tanh"))
    z = run_forward(_reference, case)
    case.dz[4, 1, 2] = np.nan
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    np.testing.assert_allclose(tape.z, z, rtol=normwise_bound(100, np.float64))
    found = bptt.gradient_flow(tape, case.dz)
    assert found.kind == "not finite"
    assert "dL/dz[5]" in found.verdict


def test_json(rng):
    Q = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    found = layer(rng, Q)
    saved = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert saved["kind"] == found.kind
    assert len(saved["log10_norm"]) == 61
    assert repr(found) == f"GradientFlow(T=60, B=2, H=8, tanh, {found.kind})"


def test_growth_bound_holds(rng):
    found = layer(rng, rng.standard_normal((8, 8)))
    assert (found.log10_decay[1:] <= found.log10_bound[1:]).all()
    assert flow.GradientFlow is type(found)
