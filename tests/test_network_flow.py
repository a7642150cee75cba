"""The gradient flow of a network is that of its layer under its loss."""

import numpy as np
import pytest
from tolerances import exact_bound

import bptt
from bptt.network_flow import network_flow, network_omega, trace
from bptt.optimizers import SGD

KINDS = [
    ("squared_error", "every"),
    ("squared_error", "last"),
    ("cross_entropy", "every"),
    ("cross_entropy", "last"),
]


def batch(rng, loss, readout):
    x = rng.standard_normal((9, 4, 3))
    shape = (9, 4) if readout == "every" else (4,)
    if loss == "cross_entropy":
        return x, rng.integers(0, 2, shape)
    return x, rng.standard_normal((*shape, 2))


@pytest.mark.parametrize(("loss", "readout"), KINDS)
def test_the_trace_is_the_networks_own_loss(loss, readout, rng):
    network = bptt.Network(
        3, 6, 2, loss=loss, readout=readout, seed=0, dtype=np.float64
    )
    x, target = batch(rng, loss, readout)
    value, grads = network.loss_and_gradients(x, target, need_x_grad=True)
    one = trace(network, x, target)
    assert abs(one.loss - value) <= exact_bound(100) * value
    same = bptt.backward(one.tape, one.dz, dz_last=one.dz_last)
    for name in ("W", "V", "b", "z0", "x"):
        expected = getattr(grads, name)
        bound = exact_bound(100) * np.abs(expected).max()
        np.testing.assert_allclose(getattr(same, name), expected, atol=bound)


def test_one_sequence_of_ids_has_a_flow(rng):
    network = bptt.Network(5, 6, 5, seed=0)
    ids = rng.integers(0, 5, 20)
    flow = network_flow(network, ids[:-1], ids[1:])
    assert flow.sizes == (19, 1, 5, 6)


def test_training_with_omega_keeps_the_length_of_errors(rng):
    x = rng.standard_normal((20, 16, 3)).astype(np.float32)
    target = x.mean(axis=0)[:, :2]
    omegas = {}
    for weight in (None, 1.0):
        network = bptt.Network(3, 12, 2, loss="squared_error", readout="last", seed=0)
        bptt.train(
            network, (x, target), optimizer=SGD(0.05), steps=200, clip=1.0, omega=weight
        )
        omegas[weight] = network_omega(network, x, target)[0]
    assert omegas[1.0] < omegas[None] / 2


def test_omega_adds_its_gradient_to_that_of_the_loss(rng):
    x, target = batch(rng, "squared_error", "last")
    networks = [
        bptt.Network(
            3, 6, 2, loss="squared_error", readout="last", seed=0, dtype=np.float64
        )
        for _ in range(2)
    ]
    _, grads = networks[0].loss_and_gradients(x, target)
    _, extra = network_omega(networks[0], x, target)
    bptt.train(networks[1], (x, target), optimizer=SGD(0.1), steps=1, omega=4.0)
    for name, p in networks[0].params.items():
        expected = p - 0.1 * (getattr(grads, name) + 4.0 * extra[name])
        np.testing.assert_allclose(
            networks[1].params[name], expected, atol=exact_bound(100)
        )
