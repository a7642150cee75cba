"""Layers that keep few of their states: the bits of those that keep all, in less."""

import inspect
import sys
import tracemalloc
import types

import numpy as np
import pytest
from proof import ACTIVATIONS
from ragged import same_bits

import bptt
from bptt import RNN, _backend, _layers, _stack

COMPILED = _backend.backend == "compiled"
BITS = pytest.mark.skipif(not COMPILED, reason="NumPy orders its sums by the shape")
FORMS = ["one", "array", "padded", "list", "values"]


class Case:
    """Layers with a random batch in one of the forms, and a loss on their states."""

    def __init__(self, seed, form=None):
        rng = self.rng = np.random.default_rng([seed, 11])
        self.form = FORMS[seed % len(FORMS)] if form is None else form
        self.dtype = (np.float32, np.float64)[rng.integers(2)]
        I, H = (int(n) for n in rng.choice([1, 4, 17, 33], 2))
        self.rnn = RNN(
            I,
            H,
            int(rng.integers(2, 5)),
            dropout=float(rng.choice([0, 0.4])),
            batch_first=bool(rng.integers(2)),
            activation=ACTIVATIONS[seed % len(ACTIVATIONS)],
            bias=bool(rng.integers(2)),
            seed=rng,
            dtype=self.dtype,
        )
        for p in self.rnn.params.values():
            p[...] = rng.normal(0, 0.6 / np.sqrt(len(p)), p.shape)
        S = 1 if self.form == "one" else int(rng.integers(1, 7))
        longest = int(rng.choice([3, 400, 900]))
        self.lengths = [longest] * S
        if self.form not in ("one", "array"):
            self.lengths = [int(n) for n in rng.integers(0, longest + 1, S)]
            self.lengths[rng.integers(S)] = longest
        ids = rng.integers(3) == 0
        self.x = [
            rng.integers(0, I, n) if ids else self.array(n, I) for n in self.lengths
        ]
        self.dz = [self.array(n, H) for n in self.lengths]
        L = self.rnn.stack.cells
        self.z0, self.dz_last, self.again = (self.array(L, S, H) for _ in range(3))
        self.resets = [rng.random(n) < 0.02 for n in self.lengths]
        self.seed = int(rng.integers(100))
        if self.form == "one":
            self.z0, self.dz_last, self.again = (
                a[:, 0] for a in (self.z0, self.dz_last, self.again)
            )
        self.options = {"training": True}
        if rng.integers(2):
            self.options["resets"] = self.shaped(self.resets)
            if rng.integers(2):
                self.options["reset_state"] = self.again
        if self.form == "padded":
            self.options["lengths"] = self.lengths
        elif self.form == "values":
            self.options["offsets"] = np.concatenate([[0], np.cumsum(self.lengths)])
        self.losses = {"dz": self.shaped(self.dz), "dz_last": self.dz_last}
        if rng.integers(3) == 0:
            del self.losses[("dz", "dz_last")[rng.integers(2)]]
        self.back = {"record": True, "need_x_grad": bool(rng.integers(4))}
        if rng.integers(2):
            self.back["clip_error"] = 1.0
        if rng.integers(2):
            self.back["clip_error_value"] = 0.3

    def array(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def shaped(self, items):
        """Return sequences in the form of the batch."""
        if self.form == "list":
            return items
        if self.form == "one":
            return items[0]
        if self.form == "values":
            return np.concatenate(items)
        padded = bptt.data.pad(items)[0]
        return padded.swapaxes(0, 1) if self.rnn.batch_first else padded

    def forward(self, **budget):
        """Return z, the tape, and where a generator of the dropout is afterwards."""
        generator = np.random.default_rng(self.seed)
        z, tape = self.rnn.forward(
            self.shaped(self.x), self.z0, seed=generator, **self.options, **budget
        )
        return z, tape, generator.random()

    def backward(self, tape):
        """Return all that comes of the way back, by name."""
        grads, flows = self.rnn.backward(tape, **self.losses, **self.back)
        found = grads.params | {"z0": grads.z0, "x": grads.x}
        for cell, flow in enumerate(flows):
            found |= {f"{name}{cell}": value for name, value in flow._asdict().items()}
        return found

    def least(self):
        """Return the smallest budget that there may be."""
        with pytest.raises(ValueError, match=r"^memory must be at least \d+") as low:
            self.forward(memory=1)
        return int(str(low.value).split()[5])


def check_bits(case, stored, expected, **budget):
    z, tape, drawn = case.forward(**budget)
    assert drawn == stored[2]
    assert tape.layers is not None
    same_bits(z, stored[1].z_last)
    same_bits(tape.z_last, stored[1].z_last)
    for _ in range(2):  # once more from the same tape
        found = case.backward(tape)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            same_bits(found[name], value)
    same_bits(tape.z_last, stored[1].z_last)
    return tape.schedule


@BITS
@pytest.mark.parametrize("seed", range(60))
def test_the_gradients_have_the_bits_of_stored_states(seed):
    case = Case(seed)
    stored = case.forward()
    expected = case.backward(stored[1])
    steps = 1 + int(1.5 * max(case.lengths) * case.rng.random() ** 3)
    check_bits(case, stored, expected, checkpoint=steps)
    least = case.least()
    for factor in (1, 1.02, 1.3, 10):
        schedule = check_bits(case, stored, expected, memory=int(least * factor))
        assert schedule.peak_bytes <= int(least * factor)


def plain(layers=3, T=650, B=2, I=5, H=5, dtype=np.float64, ids=False, **options):
    """Return layers, with x, z0, dz and dz_last of a plain batch."""
    rng = np.random.default_rng(4)
    rnn = RNN(I, H, layers, seed=rng, dtype=dtype, **options)
    for p in rnn.params.values():
        p[...] = rng.normal(0, 0.5, p.shape)
    x = rng.integers(0, I, (T, B)) if ids else rng.standard_normal((T, B, I))
    arrays = [x] + [rng.standard_normal((n, B, H)) for n in (layers, T, layers)]
    return rnn, *[a if a.dtype.kind == "i" else a.astype(dtype) for a in arrays]


def check_plain(rnn, x, z0, dz, dz_last, **options):
    kept, found = {}, {}
    for into, budget in ((kept, {}), (found, {"checkpoint": 1})):
        tape = rnn.forward(x, z0, seed=1, **options, **budget)[1]
        grads = rnn.backward(tape, dz, dz_last=dz_last)
        into |= grads.params | {"z0": grads.z0, "x": grads.x, "last": tape.z_last}
        into["schedule"] = tape.schedule
    assert kept.pop("schedule") is None
    schedule = found.pop("schedule")
    for name, value in kept.items():
        same_bits(found[name], value)
    return schedule


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
        "            sums[k].da_next = None\n            sums[k].back(",
    ),
}


@BITS
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    old, new = BUGS[bug]
    source = inspect.getsource(_layers)
    assert source.count(old) == 1, f"{old!r} must stand once"
    module = types.ModuleType("layers_with_a_bug")
    monkeypatch.setitem(sys.modules, "layers_with_a_bug", module)
    exec(compile(source.replace(old, new), "planted", "exec"), module.__dict__)
    cases = [(plain(dropout=0.3), {"training": True}), (plain(**WIDE), {})]
    for case, options in cases:
        check_plain(*case, **options)
    monkeypatch.setattr(_stack, "_layers", module)

    def check():
        for case, options in cases:
            check_plain(*case, **options)

    with pytest.raises(AssertionError):
        check()


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


def peak(call):
    """Return what a call returns, and the most bytes of arrays at any time in it."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("lengths", [None, [6000, 5000, 100, 900]])
def test_it_takes_no_more_memory_than_it_may(lengths, dropout):
    T, B, H, layers = 6000, 4, 24, 4
    rnn, x, z0, *_ = plain(layers, T, B, H, H, np.float32, dropout=dropout)
    target = np.zeros((T, B, H), np.float32)

    def step(**budget):
        _, tape = rnn.forward(x, z0, lengths=lengths, training=True, seed=0, **budget)
        rnn.backward(tape, target, dz_last=tape.z_last, need_x_grad=False)
        return tape

    states = T * B * H * 4
    tape, stored = peak(step)
    assert stored > layers * states
    with pytest.raises(ValueError, match=r"^memory must be at least \d+") as low:
        step(memory=1)
    least = int(str(low.value).split()[5])
    # Where the rows of a ragged batch stand is known beside: two numbers for each.
    places = 16 * sum(lengths or [])
    for memory in (least, int(1.2 * least)):
        tape, most = peak(lambda memory=memory: step(memory=memory))
        assert tape.schedule.peak_bytes <= memory
        assert most <= memory + places
        assert memory + places < stored / 6


def test_a_tape_says_what_it_is():
    rnn, x, *_ = plain(T=9)
    tape = rnn.forward(x, checkpoint=4)[1]
    assert repr(tape) == "StackTape(Layers(L=3, T=9, B=2, I=5, H=5, float64, tanh))"
