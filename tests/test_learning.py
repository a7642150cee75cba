"""Learning what takes a long memory: the adding problem.

Each sequence has two inputs: random numbers, and marks, of which there is one in each
half. The target is the sum of the two marked numbers. Always answering 1 gives a mean
squared error of 1/6 (Hochreiter and Schmidhuber 1997; Le, Jaitly and Hinton 2015).
"""

import numpy as np
import pytest
from tolerances import ADDING_PROBLEM_SOLVED, STANDARD_ERRORS

from bptt.initializers import get
from bptt.network import Network
from bptt.optimizers import Adam
from bptt.training import train

T, B, H = 50, 32, 100


def adding_problem(step, size=B):
    """Return the batch of a step: x (T, B, 2) and target (B, 1)."""
    rng = np.random.default_rng([0, step])
    x = np.zeros((T, size, 2), np.float32)
    x[..., 0] = rng.uniform(size=(T, size))
    first, second = rng.integers(0, T // 2, size), rng.integers(T // 2, T, size)
    sequence = np.arange(size)
    x[first, sequence, 1] = x[second, sequence, 1] = 1
    return x, (x[..., 0] * x[..., 1]).sum(axis=0)[:, np.newaxis]


def test_the_problem_is_the_published_one():
    x, target = adding_problem(0, 20_000)
    assert (x[: T // 2, :, 1].sum(axis=0) == 1).all()
    assert (x[T // 2 :, :, 1].sum(axis=0) == 1).all()
    mse = np.mean((target - 1) ** 2)
    error = np.std((target - 1) ** 2) / np.sqrt(target.size)
    assert abs(mse - 1 / 6) < STANDARD_ERRORS * error


@pytest.mark.slow
def test_an_irnn_with_clipping_learns_the_adding_problem():
    network = Network(
        2,
        H,
        1,
        activation="relu",
        loss="squared_error",
        readout="last",
        init={"V": "identity", "W": get("normal", std=0.1)},
        seed=0,
    )
    held_out = adding_problem(10**9, 1000)
    start = network.evaluate(*held_out)
    history = train(
        network,
        adding_problem,
        optimizer=Adam(1e-3),
        steps=2000,
        clip=1.0,
    )
    assert start > ADDING_PROBLEM_SOLVED
    assert history.clipped_fraction > 0
    assert network.evaluate(*held_out) < ADDING_PROBLEM_SOLVED
