"""`out`: the memory of earlier calls, with lengths, offsets and resets that change."""

import numpy as np
import pytest
from ragged import same_bits

import bptt
from bptt import _backend, _reference
from bptt._aligned import zeros
from bptt._forms import Ragged

T, S, I, H = 9, 5, 3, 17


class Calls:
    """Random calls of one shape, each in a form of its own, all written to be wrong in
    the padding.
    """

    def __init__(self, seed):
        self.rng = rng = np.random.default_rng(seed)
        self.dtype = (np.float32, np.float64)[seed % 2]
        self.layer = [
            self.array(I, H), self.array(H, H) / H, self.array(H) if seed % 3 else None,
        ]  # fmt: skip
        self.ids = seed % 4 == 3
        self.need_x_grad = bool(rng.integers(5))

    def array(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def options(self, kind):
        """Return options of forward, and the first axes of x."""
        rng = self.rng
        if kind == "values":
            cuts = np.sort(rng.integers(0, T * S + 1, S - 1))
            options, axes = {"offsets": np.array([0, *cuts, T * S])}, (T * S,)
        else:
            axes = (T, S)
            full = kind == "full" or rng.random() < 0.2
            lengths = np.full(S, T) if full else rng.integers(0, T + 1, S)
            options = {} if kind == "plain" else {"lengths": lengths}
        if kind != "plain" and rng.random() < 0.5:
            options["resets"] = rng.random(axes) < 0.1
        return options, axes

    def call(self, kind):
        """Return a call with what it uses, of two `out`s, as (z, gradients, tape)."""
        options, axes = self.options(kind)
        x = self.rng.integers(0, I, axes) if self.ids else self.array(*axes, I)
        z0, dz, dz_last = self.array(S, H), self.array(*axes, H), self.array(S, H)

        def call(out=None, grads_out=None):
            z, tape = bptt.forward(x, *self.layer, z0, out=out, **options)
            z = z.copy()  # of a tape that may be used again
            grads = bptt.backward(
                tape, dz, dz_last=dz_last, need_x_grad=self.need_x_grad, out=grads_out
            )
            return z, grads, tape

        return call


def check(calls, kinds):
    """Assert that calls with the memory of earlier ones give what they do without."""
    tapes, grads = [], None
    for kind in kinds:
        call = calls.call(kind)
        expected_z, expected, _ = call()
        # The tapes of a loop share memory: any of them is as good as the last one.
        tape = tapes[calls.rng.integers(len(tapes))] if tapes else None
        z, new, tape = call(tape, grads)
        assert grads is None or new is grads
        grads = new
        same_bits(z, expected_z)
        for one, other in zip(new, expected, strict=True):
            same_bits(one, other)
        tapes.append(tape)
    return tapes


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("kind", ["padded", "values"])
def test_a_loop_with_out_has_the_bits_of_one_without(kind, seed):
    check(Calls(seed), [kind] * 6)


@pytest.mark.parametrize("seed", range(20))
def test_padding_may_come_and_go(seed):
    calls, tape, grads = Calls(seed), None, None
    for kind in ("full", "padded", "full", "padded", "padded"):
        call = calls.call(kind)
        expected_z, expected, _ = call()
        z, grads, tape = call(tape, grads)
        same_bits(z, expected_z)
        for one, other in zip(grads, expected, strict=True):
            same_bits(one, other)


@pytest.mark.parametrize("kind", ["padded", "values"])
def test_the_memory_is_that_of_the_earlier_call(kind):
    calls = Calls(1)
    (_, first, tape), again = calls.call(kind)(), calls.call(kind)
    _, second, new = again(tape, first)
    assert second is first
    assert np.shares_memory(new.z, tape.z)
    assert not new.z.flags.writeable


def test_a_padded_batch_leaves_the_states_of_a_plain_tape():
    calls = Calls(1)
    _, _, plain = calls.call("plain")()
    call = calls.call("padded")
    z, _, tape = call(plain)
    same_bits(z, call()[0])
    assert not np.shares_memory(tape.z, plain.z)


def test_initial_states_may_stand_in_the_memory_that_is_used_again():
    calls = Calls(1)
    x = calls.array(2000, S, I)
    # One slot for the last four, from the last to the first: each starts from where the
    # one before it in the slot has been stored.
    lengths = np.array([2000, 300, 400, 500, 700])
    for lengths_before in (lengths, np.full(S, 2000)):
        z, tape = bptt.forward(x, *calls.layer, lengths=lengths_before)
        z0 = z.reshape(-1, H)[1 : S + 1]
        expected, _ = bptt.forward(x, *calls.layer, z0.copy(), lengths=lengths)
        again, _ = bptt.forward(x, *calls.layer, z0, lengths=lengths, out=tape)
        same_bits(again, expected)


def test_resets_may_come_and_go():
    calls = Calls(1)
    x, flags = calls.array(T, S, I), calls.rng.random((T, S)) < 0.2
    expected, plain = bptt.forward(x, *calls.layer)
    expected = expected.copy()
    with_resets, _ = bptt.forward(x, *calls.layer, resets=flags)
    z, tape = bptt.forward(x, *calls.layer, resets=flags, out=plain)
    same_bits(z, with_resets)
    assert np.shares_memory(z, plain.z)
    same_bits(bptt.forward(x, *calls.layer, out=tape)[0], expected)


def test_one_sequence_with_resets():
    calls = Calls(1)
    x, dz, flags = calls.array(T, I), calls.array(T, H), np.arange(T) % 4 == 2
    _, tape = bptt.forward(x, *calls.layer, resets=flags)
    expected = bptt.backward(tape, dz)
    grads = bptt.backward(tape, 2 * dz)
    again = bptt.backward(tape, dz, out=grads)
    assert again is grads
    for one, other in zip(again, expected, strict=True):
        same_bits(one, other)


def test_gradients_of_a_run_that_keeps_few_states_may_be_overwritten():
    calls = Calls(1)
    x, dz = calls.array(T, S, I), calls.array(T, S, H)
    lengths = calls.rng.integers(0, T, S)
    _, tape = bptt.forward(x, *calls.layer, lengths=lengths, checkpoint=1)
    expected = bptt.backward(tape, dz)
    grads = bptt.backward(tape, 2 * dz)
    grads.x[...] = np.nan
    again = bptt.backward(tape, dz, out=grads)
    for one, other in zip(again, expected, strict=True):
        same_bits(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_padding_that_is_not_cleared_is_noticed(seed, monkeypatch):
    monkeypatch.setattr(Ragged, "clear", lambda *_: None)
    with pytest.raises(AssertionError):
        check(Calls(seed), ["padded"] * 6)


@pytest.mark.parametrize("seed", range(4))
def test_lengths_of_each_tape_alone_are_not_enough(seed, monkeypatch):
    """What is written is one number for all tapes that share memory."""
    clear = Ragged.clear

    def forgetful(form, rows, written=None):
        clear(form, rows, written if written is None else written.copy() // 2)

    monkeypatch.setattr(Ragged, "clear", forgetful)
    with pytest.raises(AssertionError):
        check(Calls(seed), ["padded"] * 6)


@pytest.mark.parametrize("seed", range(20))
def test_padding_is_cleared_as_in_the_reference(seed):
    rng = np.random.default_rng(seed)
    T, S, K = (int(n) for n in rng.integers(1, (300, 40, 70)))
    dtype = (np.float32, np.float64)[seed % 2]
    lengths, written = rng.integers(0, T + 1, (2, S))
    written[rng.integers(S)] = np.iinfo(np.intp).max
    rows = rng.standard_normal((T, S, K)).astype(dtype)
    expected = rows.copy()
    _reference.clear(expected, lengths, written)
    for n in (1, 2, 3):
        cleared = rows.copy()
        with bptt.threads(n):
            _backend.kernels.clear(cleared, lengths, written)
        same_bits(cleared, expected)


def test_padded_results_begin_with_a_cache_line():
    x, lengths = np.ones((7, 3, 2)), [7, 0, 5]
    z, tape = bptt.forward(x, np.ones((2, 8)), np.eye(8), lengths=lengths)
    dx = bptt.backward(tape, np.ones_like(z)).x
    assert z.ctypes.data % 64 == dx.ctypes.data % 64 == 0
    assert zeros((0, 3), np.dtype(float)).shape == (0, 3)
