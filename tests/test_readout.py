"""A network whose readout and loss are taken leaf by leaf, or at the end alone."""

import inspect
import tracemalloc

import numpy as np
import pytest
from ragged import close, same_bits

from bptt import Network, _backend, _readout

COMPILED = _backend.backend == "compiled"
T, B, I, H, O = 700, 3, 4, 6, 5
SHAPES = [(1, False), (3, False), (1, True), (2, True)]
LOSSES = ["squared_error", "cross_entropy", "binary_cross_entropy"]


def make(batched=True, ids=False, T=T, **options):
    """Return a network, and x, target and z0 of a batch."""
    rng = np.random.default_rng(9)
    network = Network(I, H, O, seed=rng, **options)
    for p in network.params.values():
        p[...] = rng.normal(0, 0.4, p.shape)

    def array(*shape):
        return rng.standard_normal(shape).astype(network.dtype)

    batch = (B,) if batched else ()
    x = rng.integers(0, I, (T, *batch)) if ids else array(T, *batch, I)
    steps = () if network.readout == "last" else (T,)
    if network.loss == "cross_entropy":
        target = rng.integers(0, O, (*steps, *batch))
    else:
        target = rng.random((*steps, *batch, O))
    L = network.stack.cells
    return network, x, target, array(*((L,) if L > 1 else ()), *batch, H)


def leaves_of(grads):
    return grads.params | {"z0": grads.z0, "x": grads.x}


def check_close(case, budget, **options):
    """Assert that a network within a budget has the gradients of one without."""
    network, x, target, z0 = case
    loss, grads = network.loss_and_gradients(x, target, z0, **options)
    found, others = network.loss_and_gradients(x, target, z0, **options, **budget)
    close(np.array(found), np.array(loss), T)
    for name, value in leaves_of(grads).items():
        other = leaves_of(others)[name]
        if value is None:
            assert other is None
            continue
        assert (other.shape, other.dtype) == (value.shape, value.dtype)
        close(other, value, T * H)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("layers", "both"), SHAPES)
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loss_is_taken_leaf_by_leaf(
    loss, layers, both, batched, dtype, monkeypatch
):
    case = make(batched, loss=loss, num_layers=layers, bidirectional=both, dtype=dtype)
    check_close(case, {"checkpoint": 1}, need_x_grad=True)
    monkeypatch.setattr(_readout, "BLOCK", 300)
    check_close(case, {"memory": "1MB"}, resets=np.arange(T) % 90 == 80)


@pytest.mark.parametrize("layers", [1, 2])
def test_ids_dropout_and_a_state_that_goes_on(layers):
    dropout = 0.4 if layers > 1 else 0.0
    options = {"num_layers": layers, "dropout": dropout, "stateful": True}
    case = make(ids=True, dtype=np.float64, **options)
    check_close(case, {"checkpoint": 100}, seed=5)
    network, x, target, _ = case
    states = []
    for budget in ({}, {"checkpoint": 100}):
        network.reset()
        network.loss_and_gradients(x, target, seed=1, **budget)
        network.loss_and_gradients(x, target, seed=2, **budget)
        states.append(network.state)
    if COMPILED:
        same_bits(*states)


@pytest.mark.skipif(not COMPILED, reason="NumPy orders its sums by the shape")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("layers", "both"), SHAPES)
def test_a_loss_on_the_last_state_has_the_same_bits(loss, layers, both):
    network, x, target, z0 = make(
        loss=loss, num_layers=layers, bidirectional=both, readout="last"
    )
    stored, grads = network.loss_and_gradients(x, target, z0, need_x_grad=True)
    lengths = [T, 400, 0]
    ragged = network.loss_and_gradients(x, target, z0, lengths=lengths)[1]
    for budget in ({"checkpoint": 1}, {"memory": "1MB"}):
        found, others = network.loss_and_gradients(
            x, target, z0, need_x_grad=True, **budget
        )
        assert found == stored
        for name, value in leaves_of(grads).items():
            same_bits(leaves_of(others)[name], value)
        if both and layers > 1:
            continue
        others = network.loss_and_gradients(x, target, z0, lengths=lengths, **budget)[1]
        for name, value in leaves_of(ragged).items():
            same_bits(leaves_of(others)[name], value)


@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize(("layers", "both"), SHAPES)
def test_without_steps(layers, both, readout):
    network, x, target, z0 = make(
        num_layers=layers, bidirectional=both, readout=readout
    )
    if readout == "every":
        target = target[:0]
    results = [
        network.loss_and_gradients(x[:0], target, z0, **budget)
        for budget in ({}, {"checkpoint": 3})
    ]
    assert results[0][0] == results[1][0]
    for name, value in leaves_of(results[0][1]).items():
        if value is not None:
            same_bits(leaves_of(results[1][1])[name], value)


BUGS = {
    "no share of the loss": ("self.value += share * value", "self.value += value"),
    "no share of dz": ("dz *= share", "pass"),
    "dU of one leaf": ("self.dU += share * dU", "self.dU[...] = share * dU"),
    "dc of one leaf": ("self.dc += share * dc", "self.dc[...] = share * dc"),
    "a loss counted twice": ("counted=False", "counted=True"),
    "targets of the first leaf": ("self.targets.at(where,", "self.targets.at(0,"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    old, new = BUGS[bug]
    source = inspect.getsource(_readout.LeafLoss)
    assert source.count(old) == 1, f"{old!r} must stand once"
    names = dict(vars(_readout))
    exec(compile(source.replace(old, new), "planted", "exec"), names)
    case = make(dtype=np.float64, bidirectional=True)
    check_close(case, {"checkpoint": 1})
    monkeypatch.setattr(_readout, "LeafLoss", names["LeafLoss"])
    with pytest.raises(AssertionError):
        check_close(case, {"checkpoint": 1})


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize(("layers", "both"), SHAPES)
def test_it_takes_less_memory(layers, both):
    network, x, target, z0 = make(
        num_layers=layers, bidirectional=both, T=200_000, loss="squared_error"
    )

    def peak(**budget):
        tracemalloc.start()
        try:
            network.loss_and_gradients(x, target, z0, **budget)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    states = len(x) * B * network.stack.width * 4
    # The states of each layer, dz, the readout and its gradient.
    assert peak() > layers * states + (2 - both) * states
    assert peak(memory="2MB") < states / 3


network, x, target, z0 = make()
both = make(bidirectional=True)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: network.loss_and_gradients(x, target, memory=10),
            r"memory must be at least \d+ bytes for this batch, got 10",
        ),
        (
            lambda: network.loss_and_gradients(x, target[:-1], checkpoint=9),
            r"target must have shape \(T, B, \.\.\) = \(700, 3\), got \(699, 3\)",
        ),
        (
            lambda: network.loss_and_gradients(x, target, checkpoint=9, omega=1.0),
            "checkpoint must be None with omega, which needs all states, got 9",
        ),
        (
            lambda: both.loss_and_gradients(x, target, memory=10),
            r"memory must be at least \d+ bytes for this batch, got 10",
        ),
    ],
)
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
