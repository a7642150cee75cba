"""Token ids: checked block by block, and kept in few bytes within a budget."""

from functools import partial

import numpy as np
import pytest
from few_states import least_of, peak

import bptt
from bptt._ids import BLOCK, INTP, addresses, as_ids

I, H, T = 16, 64, 100_000
LENGTHS = np.array([0, 9000, 20_000, 1, 9000])
ENDS = np.cumsum(LENGTHS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("kept", [np.dtype(np.uint8), INTP])
@pytest.mark.parametrize("shape", [(3 * BLOCK + 7,), (BLOCK, 3), (2, BLOCK + 1)])
def test_ids_of_many_blocks(shape, kept, dtype, rng):
    array = rng.integers(0, I, shape[::-1]).astype(dtype).T
    ids = as_ids("x", array, I, kept)
    assert ids.dtype == kept
    assert ids.flags.c_contiguous
    assert not ids.flags.writeable
    np.testing.assert_array_equal(ids, array)
    place = rng.permutation(array.size)[: BLOCK + 5]
    for laid in (array, array.copy("C")):
        placed = as_ids("x", laid, I, kept, place)
        np.testing.assert_array_equal(placed[:, 0], array.reshape(-1)[place])
    array[(-1,) * len(shape)] = I
    with pytest.raises(ValueError, match=f"from 0 to I - 1 = 15, got {I}"):
        as_ids("x", array, I, kept)


@pytest.mark.parametrize("wrong", [256, -256, 2**32])
def test_an_id_is_not_taken_for_its_lowest_byte(wrong):
    ids = np.array([1, wrong, 2])
    with pytest.raises(ValueError, match=f"got {wrong}"):
        bptt.forward(ids, np.ones((I, H)), np.eye(H), memory="1MB")
    with pytest.raises(ValueError, match=f"got {wrong}"):
        bptt.forward([ids], np.ones((I, H)), np.eye(H))


def test_features_and_addresses_are_no_copy():
    for x in (np.ones((2, 3, 4)), np.zeros((2, 3), np.intp), [np.ones((2, 3))]):
        assert addresses(x) is x
    assert not addresses(np.zeros((2, 3), np.uint8)).flags.writeable


def forms(rng, dtype):
    """Yield the forms that ids may come in, with the options of forward."""

    def ids(*shape):
        return rng.integers(0, I, shape).astype(dtype)

    padded = ids(len(LENGTHS), LENGTHS.max()).T
    values = ids(LENGTHS.sum())
    yield "array", ids(T), {}
    yield "padded", padded, {"lengths": LENGTHS}
    yield "values", values, {"offsets": np.concatenate([[0], ENDS])}
    yield "list", [a.copy() for a in np.split(values, ENDS[:-1])], {}


def layers(rng, num_layers, bidirectional):
    """Return the forward and backward of layers, or for 0 of the functions alone."""
    if num_layers:
        rnn = bptt.RNN(I, H, num_layers, bidirectional=bidirectional, seed=rng)
        forward, back = rnn.forward, rnn.backward
    else:
        W, V = rng.standard_normal((I, H)) / 4, rng.standard_normal((H, H)) / 4
        forward, back = partial(bptt.forward, W=W, V=V), bptt.backward

    def backward(tape):
        return back(tape, dz_last=np.ones_like(tape.z_last))

    return forward, backward


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ((0, False), np.uint8),
        ((0, False), np.int64),
        ((2, False), np.uint8),
        ((2, True), np.int64),
    ],
)
def test_ids_count_in_the_budget(kind, dtype, rng):
    forward, backward = layers(rng, *kind)
    for form, x, options in forms(rng, dtype):
        if form == "list" and kind[0]:
            continue  # layers make one array of it, beside the budget

        def step(memory, x=x, options=options):
            _, tape = forward(x, memory=memory, **options)
            backward(tape)
            return tape

        least = least_of(step)
        step(2 * least)  # what is made once, as modules
        memory = int(1.1 * least)
        tape, most = peak(lambda step=step, memory=memory: step(memory))
        assert tape.schedule.peak_bytes <= memory
        assert most <= memory


@pytest.mark.parametrize("kind", [(0, False), (2, False)])
@pytest.mark.parametrize("batched", [True, False])
def test_a_budget_that_cannot_hold_the_ids_is_refused(batched, kind, rng):
    forward, _ = layers(rng, *kind)
    ids = rng.integers(0, I, (2 * T, 1)[: 1 + batched])
    half = least_of(partial(forward, ids[:T]))
    whole = least_of(partial(forward, ids))
    assert whole == half + T
    with pytest.raises(ValueError, match=f"memory must be at least {whole} bytes"):
        forward(ids, memory=whole - 1)


@pytest.mark.parametrize(("rows", "size"), [(256, 1), (257, 2), (65_537, 4)])
def test_ids_take_the_fewest_bytes(rows, size, rng):
    ids = rng.integers(0, I, (2 * T, 1), np.uint8)
    W, V = np.ones((rows, 2)), np.eye(2)
    half, whole = (least_of(partial(bptt.forward, x, W, V)) for x in (ids[:T], ids))
    assert whole == half + size * T
    tape = bptt.forward(ids[:100], W, V, checkpoint=50)[1]
    assert tape.x.nbytes == 100 * size


@pytest.mark.parametrize("kind", [(0, False), (2, False), (1, True), (2, True)])
def test_ids_that_change_after_forward_do_no_harm(kind, rng):
    forward, backward = layers(rng, *kind)
    for _, x, options in list(forms(rng, np.uint8)):
        expected = backward(forward(x, **options)[1])
        _, tape = forward(x, checkpoint=5000, **options)
        for array in x if isinstance(x, list) else [x]:
            array[...] = 255
        same(backward(tape), expected)


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, dict):
            same([one[name] for name in other], other.values())
        elif other is not None:
            np.testing.assert_array_equal(one, other)
