"""What the experiments in bench/experiments compute, in steps of their own."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from tolerances import exact_bound

import bptt
from bptt.network_flow import network_omega

EXPERIMENTS = Path(__file__).parent.parent / "bench" / "experiments"

pytestmark = pytest.mark.skipif(not EXPERIMENTS.exists(), reason="no experiments here")


@pytest.fixture(scope="module")
def order():
    return runpy.run_path(str(EXPERIMENTS / "temporal_order.py"))


def test_temporal_order_tells_the_two_symbols_in_their_order(order, rng):
    x, target = order["batch"](rng, 50)
    ranks, columns = np.nonzero((x < 2).T)[::-1]
    first, second = x[ranks, columns].reshape(-1, 2).T
    np.testing.assert_array_equal(target, 2 * first + second)
    when = ranks.reshape(-1, 2)
    assert set(when[:, 0]) <= set(range(5, 10))
    assert set(when[:, 1]) <= set(range(25, 30))
    assert len(set(target)) == 4


@pytest.mark.parametrize("form", ["mean", "sum"])
def test_temporal_order_steps_by_the_loss_and_the_omega_of_the_network(
    order, form, rng
):
    network = bptt.Network(6, 20, 4, readout="last", dtype=np.float64)
    for name, p in network.params.items():
        drawn = order["initial"](20, "dense", rng)[name]
        p[...] = 2 * drawn if name == "V" else drawn + 0.1  # no error vanishes
    x, target = order["batch"](rng, 50)
    loss, value, grads = order["gradients"](network.params, x, target, 0.7, form)
    plain_loss, plain = network.loss_and_gradients(x, target)
    omega, extra = network_omega(network, x, target, form=form, through="V")
    bound = exact_bound(50 * 20 * 20)
    np.testing.assert_allclose([loss, value], [plain_loss, omega], rtol=bound)
    for name, grad in grads.items():
        expected = getattr(plain, name) + 0.7 * extra[name]
        np.testing.assert_allclose(grad, expected, atol=bound * np.abs(expected).max())
    _, none, grads = order["gradients"](network.params, x, target)
    assert none is None
    np.testing.assert_allclose(grads["V"], plain.V, atol=bound * np.abs(plain.V).max())
