"""What the experiments in bench/experiments compute, in steps of their own."""

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from tolerances import SUM_OF_EXPONENTS, exact_bound

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


@pytest.fixture(scope="module")
def lyapunov():
    return runpy.run_path(str(EXPERIMENTS / "lyapunov.py"))


@pytest.mark.parametrize(
    ("g", "published"),
    [
        (1.1, (0.00507, -0.5119)),
        (1.5, (0.06522, -0.7143)),
        (2.0, (0.15472, -1.1490)),
        (3.0, (0.31025, -2.2728)),
        (5.0, (0.53243, -4.9068)),
    ],
)
def test_the_mean_field_is_that_of_the_tests(lyapunov, g, published):
    digits = (5e-6, 5e-5)  # half of the last that is given
    off = np.abs(np.subtract(lyapunov["mean_field"](g), published))
    assert (off <= 1.01 * np.array(digits)).all()


def test_the_two_exponents_are_the_first_of_all_and_their_mean(lyapunov):
    V, z0 = lyapunov["network"](24, 1.8, 3)
    largest, mean = lyapunov["exponents"](V, z0, 400, 100)
    arguments = np.ones((1, 24)), V, None, np.zeros((400, 1))
    spectrum = bptt.lyapunov_exponents(arguments, 24, z0=z0, skip=100)
    assert abs(mean - spectrum.exponents.mean()) <= SUM_OF_EXPONENTS
    one = bptt.lyapunov_exponents(arguments, 1, z0=z0, skip=100)
    assert largest == one.exponents[0]


def test_the_fit_finds_what_was_put_in(lyapunov, rng):
    N = np.array([64.0, 128, 256])
    error = rng.uniform(0.5, 2, 3)
    for power in (1, 0.5):
        c, of_c, chi = lyapunov["fit"](N, -3 / N**power, error, power)
        np.testing.assert_allclose(c, -3, rtol=exact_bound(20))
        assert chi <= exact_bound(100) ** 2
        off = np.ones(3) * -3 / N**power + error
        _, _, chi = lyapunov["fit"](N, off, error, power)
        assert 0 < chi < 3
        np.testing.assert_allclose(
            of_c, np.sum((N**-power / error) ** 2) ** -0.5, rtol=exact_bound(20)
        )


def test_the_table_has_a_row_for_each_gain_and_size(lyapunov):
    lines = [
        {"g": g, "N": N, "largest": e, "mean": -1.0 - e, "seconds": 0.5}
        for g in (1.5, 2.0)
        for N in (8, 16)
        for e in (-0.1, 0.2, 0.3)
    ]
    out = io.StringIO()
    lyapunov["table"](lines, out)
    text = out.getvalue()
    off = 0.4 / 3 - lyapunov["mean_field"](2.0)[0]
    error = np.std([-0.1, 0.2, 0.3], ddof=1) / np.sqrt(3)
    assert f"| 2.0 | 16 | 3 | 1 | {off:+.5f} +- {error:.5f} |" in text
    assert text.endswith("6 s of CPU.\n")
