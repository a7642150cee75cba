"""Ragged batches, resets, recomputed states: each against what it stands for."""

import itertools

import numpy as np
import pytest
from proof import ACTIVATIONS
from ragged import Batch, close, same_bits, some_lengths

import bptt
from bptt import _backend
from bptt.activations import Activation

COMPILED = _backend.backend == "compiled"
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def one_by_one(batch, resets, reset_state=None):
    """Return states, last states and gradients of a loop over single sequences.

    A sequence with resets is cut at each of them.
    """
    state = batch.z0 if reset_state is None else reset_state
    states, ends, dz0s, dxs = [], [], [], []
    sums = [np.zeros_like(a, np.float64) for a in (batch.W, batch.V, batch.b)]
    for i, n in enumerate(batch.lengths):
        cuts = [0, *(np.flatnonzero(batch.resets[i][1:]) + 1 if resets else []), n]
        z, dx, end = [], [], batch.z0[i]
        dz0 = np.zeros(len(batch.V))
        for t0, t1 in itertools.pairwise(cuts):
            anew = t0 > 0 or (reset_state is not None and t1 and batch.resets[i][0])
            z_i, tape = bptt.forward(
                batch.x[i][t0:t1],
                batch.W,
                batch.V,
                batch.b,
                state[i] if anew else batch.z0[i],
                activation=batch.activation,
            )
            grads = bptt.backward(
                tape,
                batch.dz[i][t0:t1],
                dz_last=batch.dz_last[i] * (t1 == n),
            )
            for total, grad in zip(sums, grads[:3], strict=True):
                total += grad
            dz0 += grads.z0 if reset_state is None or not anew else 0
            z.append(z_i)
            dx.append(grads.x)
            end = tape.z_last
        states.append(np.concatenate(z))
        ends.append(end)
        dz0s.append(dz0)
        dxs.append(None if grads.x is None else np.concatenate(dx))
    return states, np.array(ends), (*sums, np.array(dz0s), dxs)


@DTYPES
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_a_list_is_a_loop_over_its_sequences(seed, resets, dtype, rng):
    rng = np.random.default_rng([seed, resets])
    batch = Batch(
        rng,
        some_lengths(rng),
        int(rng.integers(1, 9)),
        int(rng.choice([1, 5, 16, 33, 70])),
        ACTIVATIONS[seed % len(ACTIVATIONS)],
        dtype,
        ids=seed % 3 == 0,
    )
    options = {"resets": batch.resets} if resets else {}
    z, tape, grads = batch.run(batch.x, batch.dz, batch.dz_last, **options)
    states, ends, expected = one_by_one(batch, resets)
    terms = sum(batch.lengths) + len(batch.V) + len(batch.W)
    if COMPILED:
        same_bits(z, states)
        same_bits(tape.z_last, ends)
    for i in range(len(z)):
        close(z[i], states[i], terms)
    for grad, wanted in zip(grads[:4], expected[:4], strict=True):
        close(grad, wanted, terms)
    if grads.x is None:
        assert expected[4][0] is None
    else:
        for grad, wanted in zip(grads.x, expected[4], strict=True):
            close(grad, wanted, terms)


class Foreign:
    """An array of another library, as a tensor or a data frame is."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("lengths", [[5, 5], [4, 0, 3]])
def test_arrays_of_another_library_are_sequences_too(lengths, ids, rng):
    batch = Batch(rng, lengths, 5, 4, ACTIVATIONS[0], np.float64, ids=ids)
    z, tape, grads = batch.run(batch.x, batch.dz, batch.dz_last)
    x, dz = [*map(Foreign, batch.x)], [*map(Foreign, batch.dz)]
    z_f, tape_f, grads_f = batch.run(x, dz, batch.dz_last)
    for leaf, other in zip(
        (z, tape.z_last, *grads), (z_f, tape_f.z_last, *grads_f), strict=True
    ):
        same_bits(leaf, other)
    network = bptt.Network(5, 4, 2, loss="squared_error", seed=0, dtype=np.float64)
    target = [np.ones((n, 2)) for n in lengths]
    loss, _ = network.loss_and_gradients(x, [*map(Foreign, target)])
    assert loss == network.loss_and_gradients(batch.x, target)[0]


@DTYPES
@pytest.mark.parametrize("form", ["list", "array"])
@pytest.mark.parametrize("seed", range(12))
def test_resets_may_have_a_state_of_their_own(seed, form, dtype, rng):
    rng = np.random.default_rng(seed)
    lengths = some_lengths(rng) if form == "list" else [90] * int(rng.integers(1, 9))
    batch = Batch(rng, lengths, 3, 9, ACTIVATIONS[seed], dtype, ids=seed % 3 == 0)
    for flags in batch.resets[::2]:
        flags[:1] = True  # where one begins, which counts
    state = rng.standard_normal(batch.z0.shape).astype(dtype)
    if seed % 2:
        state[...] = state[0]
    states, ends, expected = one_by_one(batch, True, state)
    options = {"resets": batch.resets, "reset_state": state[0] if seed % 2 else state}
    x, dz = batch.x, batch.dz
    if form == "array":
        x, dz = np.stack(x, axis=1), np.stack(dz, axis=1)
        options["resets"] = np.stack(batch.resets, axis=1)
    z, tape, grads = batch.run(x, dz, batch.dz_last, **options)
    dx = grads.x
    if form == "array":
        z, dx = z.swapaxes(0, 1), None if dx is None else dx.swapaxes(0, 1)
    terms = sum(lengths) + len(batch.V) + len(batch.W)
    for i in range(len(lengths)):
        close(z[i], states[i], terms)
        if dx is not None:
            close(dx[i], expected[4][i], terms)
    close(tape.z_last, ends, terms)
    for grad, wanted in zip(grads[:4], expected[:4], strict=True):
        close(grad, wanted, terms)
    if COMPILED:
        again = batch.run(x, dz, batch.dz_last, **options, checkpoint=1)[2]
        for leaf, other in zip(grads, again, strict=True):
            same_bits(leaf, other)


@DTYPES
@pytest.mark.parametrize("seed", range(12))
def test_list_padded_and_values_are_the_same(seed, dtype):
    rng = np.random.default_rng(seed)
    tanh = Activation("tanh")
    batch = Batch(rng, some_lengths(rng), 3, 9, tanh, dtype, ids=seed % 3 == 0)
    z, tape, grads = batch.run(batch.x, batch.dz, batch.dz_last, resets=batch.resets)
    # What stands in the padding must not matter.
    fill = -7 if seed % 3 == 0 else np.nan
    z_padded, padded, padded_grads = batch.run(
        batch.pad(batch.x, fill),
        batch.pad(batch.dz, np.nan),
        batch.dz_last,
        lengths=batch.lengths,
        resets=batch.pad(batch.resets, True),
    )
    z_values, values, values_grads = batch.run(
        np.concatenate(batch.x),
        np.concatenate(batch.dz),
        batch.dz_last,
        offsets=np.concatenate([[0], np.cumsum(batch.lengths)]),
        resets=np.concatenate(batch.resets),
    )
    same_bits(batch.pad(z, 0), z_padded)
    same_bits(np.concatenate(z), z_values)
    for other in (padded_grads, values_grads):
        for name in ("W", "V", "b", "z0"):
            same_bits(getattr(grads, name), getattr(other, name))
    if grads.x is not None:
        same_bits(batch.pad(grads.x, 0), padded_grads.x)
        same_bits(np.concatenate(grads.x), values_grads.x)
    same_bits(tape.z_last, padded.z_last)
    same_bits(tape.z_last, values.z_last)


def random_run(rng, seed):
    """Return a batch, its arguments and the form's options."""
    dtype = [np.float32, np.float64][seed % 2]
    activation = ACTIVATIONS[seed % len(ACTIVATIONS)]
    I, H = int(rng.integers(1, 9)), int(rng.choice([1, 4, 16, 33]))
    if rng.integers(2):
        T, S = int(rng.integers(1, 3000)), 1
    else:
        T, S = int(rng.integers(1, 400)), int(rng.integers(2, 9))
    lengths = (
        [T] * S if rng.integers(2) else [int(n) for n in rng.integers(0, T + 1, S)]
    )
    batch = Batch(rng, lengths, I, H, activation, dtype, ids=bool(rng.integers(2)))
    options = {"lengths": lengths}
    if rng.integers(2):
        options["resets"] = batch.pad(batch.resets, False)
    dz = batch.pad(batch.dz, 1) if rng.integers(2) else None
    dz_last = batch.dz_last if dz is None or rng.integers(2) else None
    return batch, (batch.pad(batch.x, 0), dz, dz_last), options


@pytest.mark.skipif(not COMPILED, reason="NumPy orders its sums by the shape")
@pytest.mark.parametrize("seed", range(300))
def test_recomputed_gradients_have_the_bits_of_stored_ones(seed):
    rng = np.random.default_rng(seed)
    batch, arguments, options = random_run(rng, seed)
    back = {"record": True}
    if rng.integers(2):
        back["clip_error"] = 1.0
    if rng.integers(2):
        back["clip_error_value"] = 0.3
    _, stored, (grads, flow) = batch.run(*arguments, back=back, **options)
    if max(batch.lengths) == 0:
        return
    if rng.integers(2):
        budget = {"checkpoint": int(rng.integers(1, 2 * max(batch.lengths)))}
    else:
        with pytest.raises(ValueError, match="memory must be at least") as least:
            batch.run(*arguments, memory=1, **options)
        least = int(str(least.value).split()[5])
        budget = {"memory": int(least * rng.choice([1, 1.02, 1.1, 4]))}
    z_last, tape, (again, flow_again) = batch.run(
        *arguments, back=back, **options, **budget
    )
    same_bits(z_last, np.ascontiguousarray(stored.z_last))
    for _ in range(2):
        for leaf, other in zip(grads, again, strict=True):
            same_bits(leaf, other)
        for leaf, other in zip(flow, flow_again, strict=True):
            same_bits(leaf, other)
        # Once more from the same tape.
        again, flow_again = bptt.backward(
            tape, arguments[1], dz_last=arguments[2], **back
        )


def test_a_way_back_that_was_interrupted_can_be_walked_again(rng, monkeypatch):
    batch = Batch(rng, [650], 3, 5, Activation("tanh"), np.float64)
    layer = batch.x[0], batch.W, batch.V, batch.b
    tape = bptt.forward(*layer, checkpoint=1)[1]
    expected = bptt.backward(tape, batch.dz[0])
    walk = _backend.kernels.forward

    def forward(*arguments):
        walk(*arguments)
        raise KeyboardInterrupt

    tape = bptt.forward(*layer, checkpoint=1)[1]
    with monkeypatch.context() as patch:
        patch.setattr(_backend.kernels, "forward", forward)
        with pytest.raises(KeyboardInterrupt):
            bptt.backward(tape, batch.dz[0])
    for leaf, other in zip(expected, bptt.backward(tape, batch.dz[0]), strict=True):
        same_bits(leaf, other)
