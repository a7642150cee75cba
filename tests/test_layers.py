"""Layers that keep few of their states: the bits of those that keep all, in less."""

import numpy as np
import pytest
from few_states import (
    Case,
    check_budgets,
    check_finds,
    check_memory,
    check_plain,
    plain,
)
from ragged import same_bits

from bptt import _backend, _layers

COMPILED = _backend.backend == "compiled"
BITS = pytest.mark.skipif(not COMPILED, reason="NumPy orders its sums by the shape")


@BITS
@pytest.mark.parametrize("seed", range(60))
def test_the_gradients_have_the_bits_of_stored_states(seed):
    check_budgets(Case(seed))


# With so many ids the chunks of the first layer are shorter than those of the others.
WIDE = {"layers": 2, "T": 1152, "B": 4, "I": 16_240, "ids": True}


@BITS
def test_layers_whose_chunks_differ():
    T, B, I = WIDE["T"], WIDE["B"], WIDE["I"]
    first, second = (_backend.kernels.chunk_steps(T, B, n, 5, 8) for n in (I, 5))
    assert (first, second) == (48, 128)
    schedule = check_plain(*plain(**WIDE))
    assert (schedule.steps, schedule.leaves) == (384, 3)


BUGS = {
    "chunks of the first layer alone": ("lcm(*chunks)", "chunks[0]"),
    "a state of another layer": ("layer.z, state[k])", "layer.z, state[0])"),
    "z0 of another layer": ("z0[k], form", "z0[k - 1], form"),
    "every layer reads x": ("if k == 0:", "if True:"),
    "a layer reads two below": ("self.layers[k - 1]", "self.layers[max(0, k - 2)]"),
    "the mask of another layer": ("self.masks[k].rows", "self.masks[0].rows"),
    "the mask of the first leaf": ("slice(t0 * leaves.B, t1 *", "slice(0, (t1 - t0) *"),
    "dropout has no gradient": ("drop_back(error, ", "abs(1) or (error, "),
    "dz_last of another layer": ("dz_last[k], form", "dz_last[k - 1], form"),
    "dz of another leaf": ("self.rows(leaf, dz)", "self.rows(0, dz)"),
    "dz goes to every layer": ("error = below", "error = run.dz_of(i, dz)"),
    "the error is not carried on": (
        "            sums[k].back(",
        "            sums[k].totals.da_next = None\n            sums[k].back(",
    ),
}


@BITS
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    cases = [(plain(dropout=0.3), {"training": True}), (plain(**WIDE), {})]

    def check():
        for case, options in cases:
            check_plain(*case, **options)

    check_finds(monkeypatch, (_layers, *BUGS[bug]), check, AssertionError)


@BITS
@pytest.mark.parametrize("shape", [(0, 3), (7, 0), (0, 0)])
def test_without_steps_or_sequences(shape):
    check_plain(*plain(T=shape[0], B=shape[1]))


def test_sequences_without_steps():
    rnn, x, z0, dz, dz_last = plain(T=4)
    tape = rnn.forward(x, z0, lengths=[0, 0], memory="1MB")[1]
    grads = rnn.backward(tape, dz, dz_last=dz_last)
    np.testing.assert_array_equal(tape.z_last, z0)
    np.testing.assert_array_equal(grads.z0, dz_last)
    assert not grads.x.any()
    assert not any(grad.any() for grad in grads.params.values())


@BITS
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_gradient_may_be_asked_for_part_by_part(batch_first):
    rnn, x, z0, target, _ = plain(batch_first=batch_first, dtype=np.float32)
    axis = int(batch_first)
    x, target = x.swapaxes(0, axis), target.swapaxes(0, axis)
    asked = []

    def dz(start, z):
        assert not z.flags.writeable
        asked.append(start)
        return z - target.take(np.arange(start, start + z.shape[axis]), axis)

    z, tape = rnn.forward(x, z0)
    stored = rnn.backward(tape, z - target)
    same_bits(rnn.backward(tape, dz).x, stored.x)
    assert asked == [0]
    asked.clear()
    tape = rnn.forward(x, z0, checkpoint=1)[1]
    found = rnn.backward(tape, dz)
    steps, leaves = tape.schedule.steps, tape.schedule.leaves
    assert asked == [steps * i for i in range(leaves)][::-1]
    same_bits(found.x, stored.x)
    for name, grad in stored.params.items():
        same_bits(found.params[name], grad)


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("lengths", [None, [6000, 5000, 100, 900]])
def test_it_takes_no_more_memory_than_it_may(lengths, dropout):
    case = plain(4, 6000, 4, 24, 24, np.float32, dropout=dropout)
    check_memory(case, lengths=lengths)


def test_a_tape_says_what_it_is():
    rnn, x, *_ = plain(T=9)
    tape = rnn.forward(x, checkpoint=4)[1]
    assert repr(tape) == "StackTape(Layers(L=3, T=9, B=2, I=5, H=5, float64, tanh))"
