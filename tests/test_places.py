"""Arrays that do not stand step after step: places, strides, and time turned round."""

from dataclasses import replace

import numpy as np
import pytest
from proof import ACTIVATIONS, random_case
from tolerances import normwise_bound

import bptt
from bptt import _backend, _reference
from bptt._forms import Ragged
from bptt._parts import Layout
from bptt._threads import threads

kernels = _backend.kernels
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
COMPILED = pytest.mark.skipif(
    kernels is _reference, reason="NumPy orders its sums by the shape"
)


def a_case(seed, dtype):
    """Return sizes and a case of random, distinct arrays, one in three of token ids."""
    rng = np.random.default_rng(seed)
    T, B = int(rng.integers(1, 150)), int(rng.choice([1, 1, 2, 7, 33]))
    H = 530 if seed % 8 == 0 else int(rng.integers(1, 70))
    activation = ACTIVATIONS[seed % len(ACTIVATIONS)]
    case = random_case(
        rng, T, B, int(rng.integers(1, 9)), H, activation, dtype, ids=seed % 3 == 0
    )
    return rng, case


def run(case, x, z, dz, dx, layout=None):
    """Run both ways; return W, V, b and z0 of the gradients."""
    leaves = [np.full_like(a, np.nan) for a in (case.W, case.V, case.b, case.dz_last)]
    kernels.forward(x, case.W, case.V, case.b, z, case.activation, layout)
    kernels.backward(
        x, case.W, case.V, z, case.activation, dz, case.dz_last, *leaves, dx, layout
    )
    return leaves


def plain(case):
    """Return z, the gradients and dx of a run on arrays of their own."""
    T, B = case.x.shape[:2]
    z = np.empty((T + 1, B, len(case.V)), case.W.dtype)
    z[0] = case.z0
    dx = None if case.x.ndim == 2 else np.empty_like(case.x)
    return z, run(case, case.x, z, case.dz, dx), dx


def same(actual, desired):
    actual, desired = np.ascontiguousarray(actual), np.ascontiguousarray(desired)
    np.testing.assert_array_equal(actual.view(np.uint8), desired.view(np.uint8))


def close(actual, desired, terms):
    error = np.linalg.norm(np.float64(actual) - np.float64(desired))
    bound = normwise_bound(terms, desired.dtype)
    assert error <= bound * np.linalg.norm(desired)


class Wide:
    """Arrays between columns of others, which are nobody's business."""

    def __init__(self, rng, backwards):
        self.rng, self.backwards, self.all = rng, backwards, []

    def __call__(self, array):
        whole = self.rng.standard_normal((*array.shape[:2], 3 * array.shape[2]))
        whole = whole.astype(array.dtype)
        mine = slice(array.shape[2], 2 * array.shape[2])
        view = whole[::-1, :, mine] if self.backwards else whole[..., mine]
        view[...] = array
        others = np.delete(whole, np.r_[mine], axis=2)
        self.all.append((whole, mine, others))
        return view

    def check(self):
        for whole, mine, others in self.all:
            same(np.delete(whole, np.r_[mine], axis=2), others)


@COMPILED
@DTYPES
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_rows_may_lie_apart_and_time_run_back_in_memory(seed, backwards, dtype):
    rng, case = a_case(seed, dtype)
    wide = Wide(rng, backwards)
    z, desired, dx = plain(case)
    x = case.x
    if x.ndim == 2 and backwards:
        x = np.ascontiguousarray(x[::-1])[::-1]
    results = []
    for n in (1, 2, 3):
        with threads(n):
            own = wide(np.full_like(z, np.nan))
            own[0] = case.z0
            own_x = x if x.ndim == 2 else wide(x)
            own_dx = None if dx is None else wide(np.full_like(dx, np.nan))
            leaves = run(case, own_x, own, wide(case.dz), own_dx)
            same(own, z)
            if dx is not None:
                same(own_dx, dx)
            results.append(leaves)
    for leaves in results:
        for actual, wanted in zip(leaves, desired, strict=True):
            same(actual, wanted)
    wide.check()


def placed(module, case, form, layout, place):
    """Return what a module makes of a ragged case whose rows stand somewhere else."""
    N, H = form.cells, len(case.V)
    rows = int(place.max(initial=0)) + 3
    layout = layout._replace(place=place, first=form.first)

    def scattered(array):
        whole = np.full((rows, *array.shape[1:]), np.nan, array.dtype)
        whole[place] = array
        return whole

    x = case.x if case.x.ndim == 2 else scattered(case.x)
    z = np.full((rows, 1, H), np.nan, case.W.dtype)
    dx = None if case.x.ndim == 2 else np.full((rows, 1, case.x.shape[2]), np.nan)
    dx = None if dx is None else dx.astype(z.dtype)
    starts = layout.starts
    layout = layout._replace(
        da_starts=None
        if layout.restarts is None
        else np.empty((len(layout.restarts), H), z.dtype)
    )
    leaves = [np.full_like(a, np.nan) for a in (case.W, case.V, case.b)]
    leaves.append(np.full((form.B, H), np.nan, z.dtype))
    module.forward(x, case.W, case.V, case.b, z, case.activation, layout)
    module.backward(
        x, case.W, case.V, z, case.activation, scattered(case.dz), starts, *leaves, dx,
        layout,
    )  # fmt: skip
    unused = np.setdiff1d(np.arange(rows), place)
    assert np.isnan(z[unused]).all()
    assert dx is None or np.isnan(dx[unused]).all()
    assert len(place) == N
    return [z[place], *leaves, *([] if dx is None else [dx[place]])]


@COMPILED
@DTYPES
@pytest.mark.parametrize("seed", range(30))
def test_cells_may_stand_anywhere(seed, dtype):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, rng.choice([4, 60, 300]), rng.integers(1, 20))
    lengths[0] = max(1, lengths[0])
    form = Ragged("values", lengths)
    H = 530 if seed % 10 == 0 else int(rng.integers(1, 70))
    case = random_case(
        rng, form.cells, 1, int(rng.integers(1, 9)), H,
        ACTIVATIONS[seed % len(ACTIVATIONS)], dtype, ids=seed % 3 == 0,
    )  # fmt: skip
    starts = (0.5 * rng.standard_normal((form.S, H))).astype(dtype)
    layout = form.layout(rng.random(form.cells) < 0.1)._replace(starts=starts)
    place = rng.permutation(form.cells + 5)[: form.cells]
    desired = placed(_reference, case, form, layout, place)
    with threads(int(rng.integers(1, 4))):
        actual = placed(kernels, case, form, layout, place)
    terms = form.cells + case.W.size + H
    for one, other in zip(actual, desired, strict=True):
        close(one, other, terms)


def test_the_same_rows_elsewhere_have_the_same_bits(rng):
    form = Ragged("values", np.array([40, 7, 300, 0, 12]))
    case = random_case(rng, form.cells, 1, 3, 20, ACTIVATIONS[0], np.float32)
    starts = rng.standard_normal((form.S, 20)).astype(np.float32)
    layout = form.layout(None)._replace(starts=starts)
    one, other = (
        placed(kernels, case, form, layout, place)
        for place in (np.arange(form.cells), rng.permutation(form.cells))
    )
    for a, b in zip(one, other, strict=True):
        same(a, b)


@COMPILED
def test_strides_that_do_not_fit_are_refused(rng):
    case = random_case(rng, 6, 4, 3, 5, ACTIVATIONS[0], np.float32)
    z = np.zeros((7, 4, 5), np.float32)
    batch_major = np.ascontiguousarray(case.x.swapaxes(0, 1)).swapaxes(0, 1)
    sparse = np.zeros((6, 8), np.intp)[:, ::2]
    one_step, one_row = (
        np.broadcast_to(part, case.x.shape) for part in (case.x[:1], case.x[:, :1])
    )
    for x in (
        case.x[::-1], np.asfortranarray(case.x), batch_major, one_step, one_row, sparse,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="kernels"):
            kernels.forward(x, case.W, case.V, None, z, case.activation)


def crossed(array):
    """Return an array whose sequences stand one after another, each with its steps."""
    return np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1)


@pytest.mark.parametrize(
    ("B", "name", "change"),
    [
        (4, "x", crossed),
        (4, "x", np.asfortranarray),
        (4, "x", lambda x: x[::-1]),
        (4, "x", lambda x: np.broadcast_to(x[:, :1], x.shape)),
        (1, "x", lambda x: np.broadcast_to(x[:1], x.shape)),
        (4, "ids", crossed),
        (4, "ids", lambda x: x[::-1]),
        (1, "ids", lambda x: np.repeat(x, 2, axis=0)[::2]),
        (4, "z", crossed),
        (4, "z", lambda z: z[::-1]),
        (4, "z", lambda z: np.repeat(z, 2, axis=2)[..., ::2]),
    ],
)
def test_a_tape_with_steps_that_nobody_can_walk_through_is_refused(
    B, name, change, rng
):
    case = random_case(rng, 6, B, 3, 5, ACTIVATIONS[0], np.float32, ids=name == "ids")
    parts = {"x": case.x, "W": case.W, "V": case.V, "b": case.b}
    parts["z"] = rng.standard_normal((7, B, 5)).astype(np.float32)
    parts["x"].flags.writeable = False
    rest = {"activation": case.activation, "batched": True}
    bptt.Tape(**parts, **rest)
    name = "x" if name == "ids" else name
    changed = change(parts[name])
    changed.flags.writeable = False
    with pytest.raises(ValueError, match="in memory one") as caught:
        bptt.Tape(**{**parts, name: changed}, **rest)
    # A z that runs backwards is well, and x does not go with it.
    named = "x" if changed.strides[0] < 0 else name
    message = str(caught.value)
    assert message.startswith(f"{named} must have its steps in memory one ")
    assert str(parts["x"].strides if named != name else changed.strides) in message
    # What the message says to do.
    remedy = message.partition("pass ")[2]
    parts[name] = changed
    parts[named] = eval(remedy, {"np": np, **parts})
    parts[named].flags.writeable = False
    bptt.backward(bptt.Tape(**parts, **rest), case.dz)


def test_a_tape_with_weights_apart_by_parts_of_an_entry_is_refused(rng):
    case = random_case(rng, 6, 1, 3, 5, ACTIVATIONS[0], np.float32)
    _, tape = bptt.forward(case.x, case.W, case.V)
    rows = np.zeros(5, [("V", np.float32, 5), ("more", np.int8)])
    with pytest.raises(ValueError, match="V must have strides in whole entries of 4"):
        replace(tape, V=rows["V"])
    assert bptt.forward(case.x, case.W, rows["V"])[1].V.flags.c_contiguous


def test_a_layout_without_offsets_has_places_for_all_cells(rng):
    """Rows of a rectangle may be permuted as well: place alone, no offsets."""
    case = random_case(rng, 9, 4, 3, 5, ACTIVATIONS[0], np.float64)
    order = rng.permutation(36)
    scattered = np.empty((36, 1, 3))
    scattered[order, 0] = case.x.reshape(36, 3)
    z, again = (np.zeros((10, 4, 5)) for _ in range(2))
    z[0] = again[0] = case.z0
    kernels.forward(case.x, case.W, case.V, case.b, z, case.activation)
    kernels.forward(
        scattered, case.W, case.V, case.b, again, case.activation, Layout(place=order)
    )
    same(again, z)
