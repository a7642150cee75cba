"""The public forward and backward: shapes, inputs of every kind, ownership."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from proof import random_case
from tolerances import sum_bound

import bptt
from bptt.activations import Activation

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
TANH = Activation("tanh")


def make(rng, dtype=np.float64, **options):
    return random_case(rng, 5, 3, 4, 6, TANH, dtype, **options)


def run(case):
    z, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    return z, bptt.backward(tape, case.dz, dz_last=case.dz_last)


def assert_same(result, expected):
    np.testing.assert_array_equal(result[0], expected[0])
    for leaf, other in zip(result[1], expected[1], strict=True):
        assert (leaf is None) == (other is None)
        if leaf is not None:
            np.testing.assert_array_equal(leaf, other)
            assert leaf.dtype == other.dtype


@DTYPES
def test_shapes_and_types(dtype, rng):
    z, grads = run(make(rng, dtype))
    assert z.shape == (5, 3, 6)
    shapes = [leaf.shape for leaf in grads]
    assert shapes == [(4, 6), (6, 6), (6,), (3, 6), (5, 3, 4)]
    assert {leaf.dtype for leaf in (z, *grads)} == {np.dtype(dtype)}


@DTYPES
def test_one_sequence_needs_no_batch_axis(dtype, rng):
    case = random_case(rng, 5, 1, 4, 6, TANH, dtype)
    z, grads = run(case)
    z1, tape = bptt.forward(case.x[:, 0], case.W, case.V, case.b, case.z0[0])
    grads1 = bptt.backward(tape, case.dz[:, 0], dz_last=case.dz_last[0])
    np.testing.assert_array_equal(z1, z[:, 0])
    assert grads1.x.shape == (5, 4)
    assert grads1.z0.shape == (6,)
    assert_same(
        (z1, grads1), (z[:, 0], grads._replace(z0=grads.z0[0], x=grads.x[:, 0]))
    )


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.uint64, ">i4"])
def test_token_ids_are_one_hot_rows(kind, rng):
    case = make(rng, ids=True)
    one_hot = np.eye(4)[case.x]
    z, tape = bptt.forward(case.x.astype(kind), case.W, case.V, case.b, case.z0)
    grads = bptt.backward(tape, case.dz)
    expected_z, tape = bptt.forward(one_hot, case.W, case.V, case.b, case.z0)
    expected = bptt.backward(tape, case.dz)
    np.testing.assert_allclose(z, expected_z, **sum_bound(z))
    np.testing.assert_allclose(grads.W, expected.W, **sum_bound(grads.W))
    np.testing.assert_allclose(grads.V, expected.V, **sum_bound(grads.V))
    assert grads.x is None
    z1, _ = bptt.forward(case.x[:, 1].astype(kind), case.W, case.V, case.b, case.z0[1])
    np.testing.assert_allclose(z1, z[:, 1], **sum_bound(z1))


def strided(array):
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1] + 1), np.nan, array.dtype)
    wide[..., 1::2] = array
    return wide[..., 1::2]


def misaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned or array.size == 0
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "strided": strided,
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "Fortran-ordered": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "misaligned": misaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
    "a list": lambda a: a.tolist(),
    "a subclass": lambda a: a.view(type("Mine", (np.ndarray,), {})),
}


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_result_and_is_not_written_to(layout, dtype, rng):
    if layout == "a list" and dtype == np.float32:
        dtype = np.float64  # what NumPy makes of a list
    case = make(rng, dtype)
    expected = run(case)
    names = ("x", "W", "V", "b", "z0", "dz", "dz_last")
    laid = {name: LAYOUTS[layout](getattr(case, name)) for name in names}
    before = copy.deepcopy(laid)
    assert_same(run(replace(case, **laid)), expected)
    for name in names:
        np.testing.assert_array_equal(laid[name], before[name])
    # The kernels trust the tape, of which nothing was looked at again: now it is.
    replace(bptt.forward(*(laid[name] for name in names[:5]))[1])


def test_an_expanded_gradient_is_read_as_it_looks(rng):
    case = make(rng)
    _, tape = bptt.forward(case.x, case.W, case.V)
    expanded = np.broadcast_to(np.float64(0.7), case.dz.shape)
    full = np.full(case.dz.shape, 0.7)
    assert_same((0, bptt.backward(tape, expanded)), (0, bptt.backward(tape, full)))


def test_arrays_that_fit_are_not_copied(rng):
    case = make(rng)
    _, tape = bptt.forward(case.x, case.W, case.V, case.b)
    for name in ("x", "W", "V", "b"):
        assert np.shares_memory(getattr(tape, name), getattr(case, name))


def test_states_cannot_be_overwritten_by_mistake(rng):
    case = make(rng)
    z, _ = bptt.forward(case.x, case.W, case.V)
    with pytest.raises(ValueError, match="read-only"):
        z += 1


def test_a_tape_serves_more_than_once(rng):
    case = make(rng)
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    both = bptt.backward(tape, case.dz, dz_last=case.dz_last)
    one, two = bptt.backward(tape, case.dz), bptt.backward(tape, dz_last=case.dz_last)
    for total, a, b in zip(both, one, two, strict=True):
        np.testing.assert_allclose(total, a + b, **sum_bound(total))


@DTYPES
def test_no_steps(dtype, rng):
    case = random_case(rng, 0, 3, 4, 6, TANH, dtype)
    z, grads = run(case)
    assert z.shape == (0, 3, 6)
    assert grads.x.shape == (0, 3, 4)
    for leaf in (grads.W, grads.V, grads.b):
        assert not leaf.any()
    # The last state is the initial one, so the loss on it is a loss on z0.
    np.testing.assert_array_equal(grads.z0, case.dz_last)
    _, tape = bptt.forward(case.x, case.W, case.V, case.b)
    assert not bptt.backward(tape, case.dz).z0.any()
    # What is done to an error is done to none.
    options = {"clip_error": 0.1, "record": True}
    clipped, flow = bptt.backward(tape, dz_last=case.dz_last, **options)
    for leaf, other in zip(clipped, grads, strict=True):
        assert leaf is other is None or (leaf == other).all()
    assert flow.norms.shape == (0, 3)


@DTYPES
@pytest.mark.parametrize("ids", [False, True])
def test_no_sequences(dtype, ids, rng):
    case = random_case(rng, 5, 0, 4, 6, TANH, dtype, ids=ids)
    z, grads = run(case)
    assert z.shape == (5, 0, 6)
    assert grads.z0.shape == (0, 6)
    for leaf in (grads.W, grads.V, grads.b):
        assert not leaf.any()


def test_gradient_of_x_only_where_wanted(rng):
    case = make(rng)
    _, tape = bptt.forward(case.x, case.W, case.V)
    assert bptt.backward(tape, case.dz, need_x_grad=False).x is None
    assert bptt.backward(tape, case.dz).b is None


def test_gradients_unpack_and_print(rng):
    grads = run(make(rng))[1]
    W, *_, x = grads
    assert W is grads.W
    assert x is grads.x
    assert repr(grads).startswith("Gradients(W=array(")


def test_a_tape_prints_its_sizes_and_pickles(rng):
    case = make(rng, np.float32)
    _, tape = bptt.forward(case.x, case.W, case.V, activation="relu")
    assert repr(tape) == "Tape(T=5, B=3, I=4, H=6, float32, relu)"
    loaded = pickle.loads(pickle.dumps(tape))
    assert_same((0, bptt.backward(loaded, case.dz)), (0, bptt.backward(tape, case.dz)))


@DTYPES
@pytest.mark.parametrize("batched", [True, False])
def test_out_is_overwritten_and_returned(batched, dtype, rng):
    first, second = (random_case(rng, 5, 1, 4, 6, TANH, dtype) for _ in range(2))
    if not batched:
        first, second = (
            replace(c, x=c.x[:, 0], z0=c.z0[0], dz=c.dz[:, 0], dz_last=c.dz_last[0])
            for c in (first, second)
        )
    expected = run(second)
    z, tape = bptt.forward(first.x, first.W, first.V, first.b, first.z0)
    grads = bptt.backward(tape, first.dz, dz_last=first.dz_last)
    new_z, new_tape = bptt.forward(
        second.x, second.W, second.V, second.b, second.z0, out=tape
    )
    new = bptt.backward(new_tape, second.dz, dz_last=second.dz_last, out=grads)
    assert new is grads
    assert np.shares_memory(new_z, z)
    assert not new_z.flags.writeable
    assert_same((new_z, new), expected)


def test_out_may_lack_the_gradient_of_x(rng):
    case = make(rng)
    _, tape = bptt.forward(case.x, case.W, case.V)
    grads = bptt.backward(tape, case.dz, need_x_grad=False)
    again = bptt.backward(tape, case.dz, need_x_grad=False, out=grads)
    assert again is grads
    assert again.x is None


def test_weights_of_any_strides_are_read_in_place(rng):
    case = make(rng)
    W, V = strided(case.W), case.V.T.copy().T
    _, tape = bptt.forward(case.x, W, V)
    assert np.shares_memory(tape.W, W)
    assert np.shares_memory(tape.V, V)


def test_ids_that_change_after_forward_do_no_harm(rng):
    case = make(rng, ids=True)
    _, tape = bptt.forward(case.x, case.W, case.V)
    expected = bptt.backward(tape, case.dz)
    case.x[...] = 10**9
    assert_same((0, bptt.backward(tape, case.dz)), (0, expected))
    with pytest.raises(ValueError, match="read-only"):
        tape.x[...] = 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda x: x[:-1], "z must have shape (T + 1, B, H) = (5, 3, 6), got (6"),
        ("x", lambda x: x[0, 0], "x must have shape (T, B, I), or (T, B) of token ids"),
        ("x", lambda x: x[..., 0], "x must have shape (T, B, I), or (T, B) of token"),
        ("x", lambda x: x[None], "x must have shape (T, B, I), or (T, B) of token ids"),
        ("x", np.float32, "x must have dtype float64, got float32"),
        ("W", lambda W: W[:-1], "x must have shape (T, B, I) = (5, 3, 3), got (5"),
        ("W", lambda W: W[0], "W must have shape (I, H), got (6,)"),
        ("W", np.float32, "x must have dtype float32, got float64"),
        ("V", lambda V: V[:-1], "V must have shape (H, H) = (6, 6), got (5, 6)"),
        ("V", np.float32, "V must have dtype float64, got float32"),
        ("b", lambda b: b[:-1], "b must have shape (H,) = (6,), got (5,)"),
        ("b", np.float32, "b must have dtype float64, got float32"),
        ("z", lambda z: z[:-1], "z must have shape (T + 1, B, H) = (6, 3, 6), got (5"),
        ("z", lambda z: z[0], "z must have shape (T + 1, B, H) = (6, 3, 6), got (3, 6"),
        ("z", np.float32, "z must have dtype float64, got float32"),
    ],
)  # fmt: skip
def test_a_tape_of_parts_that_do_not_fit_is_refused(name, change, message, rng):
    case = make(rng)
    _, tape = bptt.forward(case.x, case.W, case.V, case.b)
    with pytest.raises((TypeError, ValueError)) as caught:
        replace(tape, **{name: change(getattr(tape, name))})
    assert str(caught.value).startswith(message)


def test_a_tape_of_ids_that_anyone_can_change_is_refused(rng):
    case = make(rng, ids=True)
    _, tape = bptt.forward(case.x, case.W, case.V)
    with pytest.raises(ValueError, match="x of token ids must be read-only, got"):
        replace(tape, x=tape.x.copy())
    with pytest.raises(TypeError, match="x must have dtype int64, got int32"):
        replace(tape, x=tape.x.astype(np.int32))
