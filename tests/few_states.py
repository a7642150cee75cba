"""What layers that keep few of their states are compared with: those that keep all."""

import inspect
import sys
import tracemalloc
import types

import numpy as np
import pytest
from proof import ACTIVATIONS
from ragged import same_bits

import bptt
from bptt import RNN

FORMS = ["one", "array", "padded", "list", "values"]


class Case:
    """Layers with a random batch in one of the forms, and a loss on their states."""

    def __init__(self, seed, forms=FORMS, **options):
        rng = self.rng = np.random.default_rng([seed, 11])
        self.form = forms[seed % len(forms)]
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
            **options,
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
        self.dz = [self.array(n, self.rnn.stack.width) for n in self.lengths]
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
        return least_of(self.forward)


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


def check_budgets(case):
    """Assert that a case has the bits of stored states within any budget."""
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
    L, width = rnn.stack.cells, rnn.stack.width
    shapes = (L, B, H), (T, B, width), (L, B, H)
    arrays = [x] + [rng.standard_normal(shape) for shape in shapes]
    return rnn, *[a if a.dtype.kind == "i" else a.astype(dtype) for a in arrays]


def check_plain(rnn, x, z0, dz, dz_last, back=None, **options):
    kept, found = {}, {}
    for into, budget in ((kept, {}), (found, {"checkpoint": 1})):
        tape = rnn.forward(x, z0, seed=1, **options, **budget)[1]
        grads = rnn.backward(tape, dz, dz_last=dz_last, **(back or {}))
        into |= grads.params | {"z0": grads.z0, "x": grads.x, "last": tape.z_last}
        into["schedule"] = tape.schedule
    assert kept.pop("schedule") is None
    schedule = found.pop("schedule")
    for name, value in kept.items():
        same_bits(found[name], value)
    return schedule


def least_of(call):
    """Return the smallest budget that there may be, as the refusal of a byte says."""
    with pytest.raises(ValueError, match=r"^memory must be at least \d+") as low:
        call(memory=1)
    return int(str(low.value).split()[5])


def peak(call):
    """Return what a call returns, and the most bytes of arrays at any time in it."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_memory(case, **options):
    """Assert that a step on many steps of time takes no more than its budget, and can
    do with a sixth of what it takes where all states are kept.
    """
    rnn, x, z0, dz, _ = case
    dz[...] = 0

    def step(**budget):
        _, tape = rnn.forward(x, z0, training=True, seed=0, **options, **budget)
        rnn.backward(tape, dz, dz_last=tape.z_last, need_x_grad=False)
        return tape

    tape, stored = peak(step)
    assert stored > rnn.stack.num_layers * dz.nbytes
    least = least_of(step)
    for memory in (least, int(1.2 * least)):
        tape, most = peak(lambda memory=memory: step(memory=memory))
        assert tape.schedule.peak_bytes <= memory
        assert most <= memory
        assert memory < stored / 6


def plant(monkeypatch, module, old, new):
    """Change one place of the text of a module, for all of the package."""
    source, name = inspect.getsource(module), "module_with_a_bug"
    assert source.count(old) == 1, f"{old!r} must stand once"
    other = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, other)
    exec(compile(source.replace(old, new), "planted", "exec"), other.__dict__)
    users = [m for n, m in sys.modules.items() if n.startswith("bptt.")]
    for user in users:
        for key, value in list(vars(user).items()):
            if value is module:
                monkeypatch.setattr(user, key, other)
            elif getattr(value, "__module__", None) == module.__name__:
                monkeypatch.setattr(user, key, vars(other)[key])


def check_finds(
    monkeypatch, bug, check, errors=(AssertionError, IndexError, ValueError)
):
    """Assert that a check passes, and fails where a mistake is planted."""
    check()
    plant(monkeypatch, *bug)
    # What a mistake leaves unwritten may be no number.
    with np.errstate(all="ignore"), pytest.raises(errors):
        check()
