"""Layers in both directions over sequences of different lengths: each as it is alone,
whatever is kept of the states, in the memory that the schedule tells.
"""

import pickle

import numpy as np
import pytest
from few_states import (
    Case,
    check_budgets,
    check_finds,
    check_memory,
    least_of,
    peak,
    plain,
)
from ragged import same_bits
from test_layers_both import Counted
from tolerances import normwise_bound

from bptt import (
    RNN,
    Network,
    _backend,
    _errors_both,
    _layers_both,
    _sides,
    _sides_ragged,
)
from bptt.data import pad

COMPILED = _backend.backend == "compiled"
BITS = pytest.mark.skipif(not COMPILED, reason="NumPy orders its sums by the shape")
BOTH = {"bidirectional": True}
FORMS = ["padded", "list", "values"]


@BITS
@pytest.mark.parametrize("seed", range(60))
def test_the_gradients_have_the_bits_of_stored_states(seed):
    check_budgets(Case(seed, FORMS, **BOTH))


class Alone:
    """A batch of sequences of different lengths, and each of them alone."""

    def __init__(self, seed, layers=2, lengths=None, dtype=np.float64):
        rng = self.rng = np.random.default_rng([seed, 3])
        I, H = (int(n) for n in rng.choice([1, 3, 17], 2))
        self.rnn = RNN(I, H, layers, seed=rng, dtype=dtype, **BOTH)
        for p in self.rnn.params.values():
            p[...] = rng.normal(0, 0.6 / np.sqrt(len(p)), p.shape)
        if lengths is None:
            lengths = rng.integers(0, rng.choice([5, 90, 700]), rng.integers(2, 9))
            lengths[rng.integers(len(lengths))] = rng.integers(1, 700)
        self.lengths = [int(n) for n in lengths]
        S, L = len(self.lengths), self.rnn.stack.cells
        self.x, self.dz = (
            [rng.standard_normal((n, K)).astype(dtype) for n in self.lengths]
            for K in (I, 2 * H)
        )
        self.z0, self.dz_last, self.again = rng.standard_normal((3, L, S, H), dtype)
        self.resets = [rng.random(n) < rng.choice([0.01, 0.3]) for n in self.lengths]
        self.options = {}
        if seed % 3:
            self.options["resets"] = self.resets
        if seed % 3 == 2:
            self.options["reset_state"] = self.again
        self.back = {"record": True}
        if seed % 4 > 1:
            self.back |= {"clip_error": 1.0, "clip_error_value": 0.3}

    def run(self, **budget):
        z, tape = self.rnn.forward(self.x, self.z0, **self.options, **budget)
        back = self.rnn.backward(tape, self.dz, dz_last=self.dz_last, **self.back)
        return z, tape, *back

    def run_alone(self, s):
        options = dict(self.options)
        if "resets" in options:
            options["resets"] = self.resets[s]
        if "reset_state" in options:
            options["reset_state"] = self.again[:, s]
        z, tape = self.rnn.forward(self.x[s], self.z0[:, s], **options)
        last = self.dz_last[:, s]
        return z, tape, *self.rnn.backward(tape, self.dz[s], dz_last=last, **self.back)

    def check(self, **budget):
        """Assert that what is no sum has the bits that it has alone, and that sums are
        those of all but for rounding.
        """
        z, tape, grads, flows = self.run(**budget)
        sums = {name: np.zeros_like(grad) for name, grad in grads.params.items()}
        sizes = dict.fromkeys(sums, 0.0)
        dead = [0] * len(flows)
        for s in range(len(self.lengths)):
            z_s, tape_s, grads_s, flows_s = self.run_alone(s)
            if not budget:
                same_bits(z[s], z_s)
            same_bits(tape.z_last[:, s], tape_s.z_last)
            same_bits(grads.z0[:, s], grads_s.z0)
            same_bits(grads.x[s], grads_s.x)
            for cell, (flow, flow_s) in enumerate(zip(flows, flows_s, strict=True)):
                same_bits(flow.norms[s], flow_s.norms)
                same_bits(flow.saturated[s], flow_s.saturated)
                dead[cell] = dead[cell] + flow_s.dead
            for name, grad in grads_s.params.items():
                sums[name] += grad
                sizes[name] += np.linalg.norm(grad)
        bound = normwise_bound(sum(self.lengths), self.rnn.stack.dtype)
        for name, value in sums.items():
            error = np.linalg.norm(grads.params[name] - value)
            assert error <= bound * sizes[name], name
        for flow, count in zip(flows, dead, strict=True):
            np.testing.assert_array_equal(flow.dead, count)
        return tape


@BITS
@pytest.mark.parametrize("budget", [{}, {"checkpoint": 1}])
@pytest.mark.parametrize("seed", range(36))
def test_each_sequence_is_what_it_is_alone(seed, budget):
    dtype = (np.float64, np.float32)[seed // 4 % 2]
    Alone(seed, 2 + seed % 2, dtype=dtype).check(**budget)


# Slots that end together, within a leaf and at its border; one after the other; one
# long sequence and many short ones; sequences without a step.
LENGTHS = [
    [600, 600, 0, 600],
    [600, 300, 299, 450, 149],
    [512, 256, 255, 257],
    [700] + [9] * 30,
    [0, 0, 3],
    [0, 0],
    [1],
    [400, 1, 1, 1, 399, 0, 398],
]


@BITS
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("seed", [2, 3])
def test_slots_end_here_and_there(lengths, seed):
    for layers in (2, 3):
        case = Alone(seed, layers, lengths)
        kept, found = case.check(), case.check(checkpoint=1)
        assert kept.schedule is None
        assert found.schedule is not None
        grads = [case.rnn.backward(tape, case.dz) for tape in (kept, found)]
        for name, grad in grads[0].params.items():
            same_bits(grads[1].params[name], grad)


BUGS = {
    "resets that come late": (_sides_ragged, "- [1, 0, 0 if", "- [0, 0, 0 if"),
    "the wrong state after resets": (_sides_ragged, "0 if apart else S", "S"),
    "a row goes on that starts": (_sides_ragged, "anew[own[:, 1]] = own", "pass"),
    "the state of another part": (
        _sides_ragged,
        "first = self.part.stop",
        "first = self.part.start",
    ),
    "the state of other slots": (
        _sides_ragged,
        "behind[self.rows - rows :] = self.room",
        "behind[:rows] = self.room",
    ),
    "nothing is kept at a border": (
        _sides_ragged,
        "self.ground.kept(kept, self.t0)[...] = self.states[-1]",
        "self.ground.kept(kept, self.t0)[...] = 0",
    ),
    "nothing is kept at a border of the other direction": (
        _sides_ragged,
        "self.ground.kept(kept, self.stretch.t1)[...] = after",
        "self.ground.kept(kept, self.stretch.t1)[...] = 0",
    ),
    "chunks that depend on the leaves": (_sides_ragged, "ends // chunk * chunk, ", ""),
    "the state before the last": (
        _sides_ragged,
        "self.states[step + 1, row]",
        "self.states[step, row]",
    ),
    "ends without a loss": (_sides_ragged, "mine[step, row] += dz", "dz"),
    "an error crosses a start": (
        _sides_ragged,
        "da[layout.restarts[: self.rows, 2] < self.parts.behind] = 0",
        "pass",
    ),
    "the error of other slots": (
        _sides_ragged,
        "da[len(da) - self.rows :]",
        "da[: self.rows]",
    ),
    "dx of one direction": (_sides_ragged, "array[where] + rows", "rows"),
    "leaves in the wrong order": (
        _sides_ragged,
        "self.leaves.count - 1 - i if d else i",
        "i",
    ),
    "errors of the other direction": (
        _sides_ragged,
        "None if dz is None else dz[..., : dz.shape[-1] // 2]",
        "None if dz is None else dz[..., dz.shape[-1] // 2 :]",
    ),
    "cells of another leaf": (
        _sides_ragged,
        "self.form.offsets[stretch.t0] : self.form.offsets[stretch.t1]",
        ": self.form.offsets[stretch.t1] - self.form.offsets[stretch.t0]",
    ),
    "measures that are not turned back": (
        _sides,
        "getattr(flow, name)[::-1]",
        "getattr(flow, name)",
    ),
    "the starts of another direction": (
        _layers_both,
        "events[cell % 2]",
        "events[0]",
    ),
    "an error is not carried on": (
        _errors_both,
        "Segment(sums.steps, da is not None, da, first)",
        "Segment(sums.steps, False, None, first)",
    ),
}


@BITS
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    lengths = [600, 599, 280, 301, 350]
    cases = [Alone(seed, layers, lengths) for seed, layers in ((2, 2), (4, 3))]

    def check():
        for case in cases:
            grads = [case.run(**budget)[2] for budget in ({}, {"checkpoint": 1})]
            case.check(checkpoint=1)
            for name, grad in grads[0].params.items():
                same_bits(grads[1].params[name], grad)

    check_finds(monkeypatch, BUGS[bug], check)


@BITS
@pytest.mark.parametrize("shape", [(0, 3), (7, 0)])
def test_without_steps_or_sequences(shape):
    rnn, x, z0, dz, dz_last = plain(T=shape[0], B=shape[1], **BOTH)
    for budget in ({}, {"memory": "1MB"}):
        lengths = np.zeros(shape[1], int)
        tape = rnn.forward(x, z0, lengths=lengths, **budget)[1]
        grads = rnn.backward(tape, dz, dz_last=dz_last)
        same_bits(tape.z_last, z0)
        same_bits(grads.z0, dz_last)
        assert not any(grad.any() for grad in grads.params.values())


@BITS
def test_each_cell_has_a_tape_where_all_states_are_kept():
    rnn, x, z0, *_ = plain(T=30, B=3, dropout=0.4, **BOTH)
    lengths = [30, 7, 22]
    z, tape = rnn.forward(x, z0, lengths=lengths, training=True, seed=1)
    assert len(tape.tapes) == rnn.stack.cells
    assert len(tape.masks) == 2
    for cell, one in enumerate(tape.tapes):
        same_bits(one.z_last, tape.z_last[cell])
    same_bits(z[..., :5], tape.tapes[4].z.reshape(30, 3, 5))


@BITS
def test_a_tape_can_be_pickled():
    rnn, x, z0, dz, dz_last = plain(T=30, B=3, dropout=0.4, **BOTH)
    tape = rnn.forward(x, z0, lengths=[30, 7, 22], training=True, seed=1)[1]
    other = pickle.loads(pickle.dumps(tape))
    for one, same in zip(tape.tapes, other.tapes, strict=True):
        same_bits(one.z, same.z)
    grads, again = (rnn.backward(t, dz, dz_last=dz_last) for t in (tape, other))
    for name, grad in grads.params.items():
        same_bits(grad, again.params[name])


@BITS
@pytest.mark.parametrize("listed", [False, True])
def test_a_network_reads_the_last_states_within_a_budget(listed):
    rng = np.random.default_rng(8)
    net = Network(
        3, 6, 2, num_layers=2, bidirectional=True, readout="last",
        loss="squared_error", seed=1,
    )  # fmt: skip
    lengths = [500, 20, 333]
    x = [rng.standard_normal((n, 3), np.float32) for n in lengths]
    target = rng.standard_normal((3, 2), np.float32)
    options = {}
    if not listed:
        x, options["lengths"] = pad(x)
    kept, found = (
        net.loss_and_gradients(x, target, **options, **budget)
        for budget in ({}, {"checkpoint": 1})
    )
    assert kept[0] == found[0]
    for name, grad in kept[1].params.items():
        same_bits(found[1].params[name], grad)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_schedule_tells_what_it_costs(layers, monkeypatch):
    rnn, x, z0, dz, _ = plain(layers, 1000, 3, **BOTH)
    lengths = [1000, 400, 590]
    kernels = Counted(_backend.kernels)
    kernels.counts = cells_of
    monkeypatch.setattr(_backend, "kernels", kernels)
    tape = rnn.forward(x, z0, lengths=lengths, checkpoint=1)[1]
    rnn.backward(tape, dz)
    schedule, all_cells = tape.schedule, 2 * layers * sum(lengths)
    assert schedule.slots == schedule.leaves + 1 > 2
    # Steps of which each has as many cells as another, but for where slots have ended.
    turns = (layers + 1) / schedule.leaves
    again = 1 + schedule.extra_steps / len(x)
    assert again - turns <= kernels.steps / all_cells <= again
    extra = 1 + schedule.extra_back_steps / len(x)
    assert extra - 0.01 <= kernels.back / all_cells <= extra + 0.01


def cells_of(x):
    return x.shape[0] * x.shape[1]


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("lengths", [[6000, 5000, 100, 900], [6000, 5990, 5980, 5500]])
def test_it_takes_no_more_memory_than_it_may(lengths, dropout):
    case = plain(3, 6000, 4, 24, 24, np.float32, dropout=dropout, **BOTH)
    check_memory(case, lengths=lengths)


def check_least(rnn, x, z0, dz, **options):
    """Assert that a step takes no more than the schedule tells of the least budget and
    of a large one; return the least.
    """

    def step(**budget):
        tape = rnn.forward(x, z0, **options, **budget)[1]
        rnn.backward(tape, dz, dz_last=tape.z_last, need_x_grad=False)
        return tape.schedule.peak_bytes

    least = least_of(step)
    for memory in (least, 10**9):
        step(memory=memory)
        told, most = peak(lambda memory=memory: step(memory=memory))
        assert most <= told <= memory
    return least


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize("lengths", [None, [3000, 2900, 50, 1500]])
@pytest.mark.parametrize(
    ("layers", "H", "both"),
    [(1, 12, False), (1, 40, False), (2, 12, False), (2, 12, True), (2, 40, True)],
)
def test_rows_that_start_anew_are_counted(layers, H, both, lengths):
    rnn, x, z0, dz, _ = plain(layers, 3000, 4, 1, H, np.float32, bidirectional=both)
    least = check_least(rnn, x, z0, dz, lengths=lengths)
    flags = np.random.default_rng(0).random((3000, 4)) < 0.8
    assert check_least(rnn, x, z0, dz, lengths=lengths, resets=flags) > least


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize("resets", [False, True])
def test_many_short_sequences_are_counted(resets):
    rnn, x, z0, dz, _ = plain(2, 300, 900, 1, 16, np.float32, **BOTH)
    lengths, options = [300] + [2] * 899, {}
    if resets:
        flags = np.random.default_rng(0).random((300, 900)) < 0.5
        options = {"resets": flags, "reset_state": z0}
    check_least(rnn, x, z0, dz, lengths=lengths, **options)
