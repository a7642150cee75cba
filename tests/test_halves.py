"""Batches that go through time in two halves, whose gradients are summed up apart."""

import inspect
import sys
import types

import numpy as np
import pytest
from proof import ACTIVATIONS, check_against_reference, random_case
from ragged import Batch, close, same_bits

import bptt
from bptt import _backend, _halves, _reference, _runs
from bptt._parts import Layout, Segment

kernels = _backend.kernels
COMPILED = pytest.mark.skipif(
    kernels is _reference, reason="NumPy sums up all rows together"
)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@COMPILED
def test_which_batches_are_halved():
    sizes = (15, 64), (16, 64), (16, 512), (16, 513)
    assert [kernels.halves(*BH) for BH in sizes] == [False, True, True, False]


def run(case, rows=slice(None), z=None, sums=None, segment=None):
    """Run some rows both ways; return z, dz0, dx and the gradients that are sums."""
    x, dz, last = case.x[:, rows], case.dz[:, rows], case.dz_last[rows]
    T, B = x.shape[:2]
    if z is None:
        z = np.empty((T + 1, B, len(case.V)), case.W.dtype)
        z[0] = case.z0[rows]
    if sums is None:
        sums = [np.full_like(a, np.nan) for a in (case.W, case.V, case.b)]
    dz0 = np.empty_like(z[0])
    dx = None if x.ndim == 2 else np.empty_like(x)
    arrays = (np.ascontiguousarray(a) for a in (x, dz, last))
    x, dz, last = arrays
    kernels.forward(x, case.W, case.V, case.b, z, case.activation)
    kernels.backward(
        x, case.W, case.V, z, case.activation, dz, last, *sums, dz0, dx, None, segment
    )
    return z, dz0, dx, sums


@COMPILED
@DTYPES
@pytest.mark.parametrize("seed", range(24))
def test_a_batch_is_its_halves_on_any_number_of_threads(seed, dtype):
    rng = np.random.default_rng(seed)
    # One chunk of time, as of a half by itself, which is not halved again.
    T, B, H = int(rng.integers(1, 9)), int(rng.integers(16, 31)), int(rng.integers(130))
    activation, ids = ACTIVATIONS[seed % len(ACTIVATIONS)], seed % 3 == 0
    case = random_case(rng, T, B, 7, H + 1, activation, dtype, ids=ids)
    rows = slice(0, (B + 1) // 2), slice((B + 1) // 2, B)
    with bptt.threads(1):
        first, second = (run(case, part) for part in rows)
    for threads in (1, 2, 3, 4):
        with bptt.threads(threads):
            z, dz0, dx, sums = run(case)
        for part, half in zip(rows, (first, second), strict=True):
            same_bits([z[:, part], dz0[part]], list(half[:2]))
            if not ids:
                same_bits(dx[:, part], half[2])
        same_bits(sums, [a + b for a, b in zip(first[3], second[3], strict=True)])


@COMPILED
@pytest.mark.parametrize("sizes", [(70, 16, 3, 20), (90, 33, 40, 65)])
@pytest.mark.parametrize("ids", [False, True])
def test_many_chunks(sizes, ids, rng):
    T, B, I, H = sizes
    case = random_case(rng, T, B, I, H, bptt.Activation("tanh"), ids=ids)
    assert kernels.chunk_steps(T, B, I, H, 8) < T
    check_against_reference(kernels, case)


@COMPILED
def test_halves_that_are_carried_apart(rng):
    case = random_case(rng, 6, 20, 4, 9, bptt.Activation("relu"))
    whole = run(case)[3]
    second = [np.zeros_like(a) for a in whole]
    first = run(case, segment=Segment(6, beside=tuple(second)))[3]
    assert second[1].any()
    same_bits([a + b for a, b in zip(first, second, strict=True)], whole)


@COMPILED
@DTYPES
def test_what_is_recorded_and_the_error_that_is_clipped(rng, dtype):
    V = (rng.standard_normal((40, 40)) / 9).astype(dtype)
    x = rng.standard_normal((30, 17, 3)).astype(dtype)
    W, dz = V[:3], rng.standard_normal((30, 17, 40)).astype(dtype)

    def measured(rows, **options):
        _, tape = bptt.forward(x[:, rows], W, V, activation="relu")
        return bptt.backward(tape, dz[:, rows], record=True, **options)

    for options in ({}, {"clip_error": 0.3}, {"clip_error_value": 0.01}):
        with bptt.threads(2):
            grads, flow = measured(slice(None), **options)
        halves = [measured(rows, **options) for rows in (slice(9), slice(9, 17))]
        for rows, (_, half) in zip((slice(9), slice(9, 17)), halves, strict=True):
            same_bits([flow.norms[:, rows], flow.saturated[:, rows]], list(half[:2]))
        same_bits(flow.dead, halves[0][1].dead + halves[1][1].dead)
        close(grads.V, halves[0][0].V + halves[1][0].V, 30 * 17)


# -- Ragged ----------------------------------------------------------------------------


def ragged(seed, dtype=np.float64):
    """Return a batch of so many sequences that their slots are halved."""
    rng = np.random.default_rng(seed)
    top = int(rng.choice([3, 40, 120]))
    lengths = [int(n) for n in rng.integers(0, top + 1, rng.integers(34, 70))]
    activation = ACTIVATIONS[seed % len(ACTIVATIONS)]
    return Batch(rng, lengths, 4, 21, activation, dtype, ids=seed % 3 == 0)


def gradients(batch, options, back):
    _, tape, (grads, flow) = batch.run(
        batch.x, batch.dz, batch.dz_last, back={"record": True, **back}, **options
    )
    found = [grads.W, grads.V, grads.b, grads.z0, flow.norms, flow.saturated]
    return tape, [*found, flow.dead, grads.x]


def options_of(batch, seed):
    resets = {"resets": batch.resets} if seed % 2 else {}
    return resets, {"clip_error": 0.7} if seed % 4 > 1 else {}


@COMPILED
@DTYPES
@pytest.mark.parametrize("seed", range(16))
def test_ragged_bits_depend_on_neither_threads_nor_leaves(seed, dtype):
    batch = ragged(seed, dtype)
    options, back = options_of(batch, seed)
    with bptt.threads(1):
        tape, desired = gradients(batch, options, back)
    if len(set(batch.lengths)) > 4:
        assert tape.layout.halves is not None
    for threads in (2, 3, 4):
        with bptt.threads(threads):
            same_bits(gradients(batch, options, back)[1], desired)
    for steps in (1, 30):
        few = {**options, "checkpoint": steps}
        same_bits(gradients(batch, few, back)[1], desired)


@pytest.mark.parametrize("seed", range(8))
def test_ragged_batches_are_what_their_sequences_are(seed):
    batch = ragged(seed)
    options, back = options_of(batch, seed)
    _, (dW, dV, db, dz0, *_) = gradients(batch, options, back)
    sums = [np.zeros_like(a) for a in (dW, dV, db)]
    for s, x in enumerate(batch.x):
        if not len(x):
            continue
        reset = {"resets": batch.resets[s]} if options else {}
        _, _, grads = batch.run(
            x, batch.dz[s], batch.dz_last[s], batch.z0[s], back=back, **reset
        )
        for total, part in zip(sums, (grads.W, grads.V, grads.b), strict=True):
            total += part
        close(dz0[s], grads.z0, len(x))
    terms = 4 * sum(batch.lengths)
    for total, found in zip(sums, (dW, dV, db), strict=True):
        close(found, total, terms)


@COMPILED
def test_the_cells_of_a_half():
    rng = np.random.default_rng(0)
    for _ in range(100):
        ends = np.sort(rng.integers(1, 9, rng.integers(1, 12)))
        rows = [np.count_nonzero(ends > t) for t in range(ends.max())]
        offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.intp)
        cells = []
        for h in (0, 1):
            found = []
            for module in (kernels, _reference):
                own, mine = np.zeros_like(offsets), np.zeros(offsets[-1], np.intp)
                T = module.halve(offsets, h, own, mine)
                found.append((T, list(own[: T + 1]), list(mine[: own[T]])))
            assert found[0] == found[1]
            cells += found[0][2]
        assert sorted(cells) == list(range(offsets[-1]))


BUGS = {
    "a last state's gradient where none is": (
        "dz_last if part.layout.ends is not None else None",
        "dz_last",
    ),
    "events of another row": ("row[at], index", "row[at] // 2, index"),
    "the error of other rows": ("- first\n", "- first + (1 - first) % 2\n"),
    "token ids of the whole batch": ("else x[self.half.cells]", "else x"),
    "states in another order": ("= half.cells\n", "= half.cells[::-1].copy()\n"),
    "what is dead, of one half": ("flow.dead[...] +=", "flow.dead[...] ="),
    "the sums of the first half twice": (", segment.beside)", ", (dW, dV, db))"),
    "starts that are not behind those of resets": (
        "np.arange(len(before), len(starts))",
        "np.arange(len(starts) - len(before))",
    ),
}


@COMPILED
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    old, new = BUGS[bug]
    source = inspect.getsource(_halves)
    assert source.count(old) == 1, f"{old!r} must stand once"
    module = types.ModuleType("halves_with_a_bug")
    monkeypatch.setitem(sys.modules, "halves_with_a_bug", module)
    exec(compile(source.replace(old, new), "planted", "exec"), module.__dict__)

    def check(halves):
        monkeypatch.setattr(_runs, "_halves", halves)
        for seed in (1, 2, 3):
            batch = ragged(seed)
            options, back = options_of(batch, seed)
            few = {**options, "checkpoint": 1}
            desired = gradients(batch, options, back)[1]
            same_bits(gradients(batch, few, back)[1], desired)
            _, (dW, dV, *_) = gradients(batch, options, back)
            yield dW, dV

    right = list(check(_halves))
    try:
        wrong = list(check(module))
    except (AssertionError, IndexError, ValueError):
        return
    with pytest.raises(AssertionError):
        same_bits([*map(list, wrong)], [*map(list, right)])


class NoneEmpty:
    """The kernels, which are not called with a half that has no rows."""

    def __getattr__(self, name):
        return getattr(kernels, name)

    @staticmethod
    def backward_both(*calls, apart):
        for call in calls:
            assert len(call[12].offsets) > 1
        kernels.backward_both(*calls, apart=apart)


@COMPILED
@pytest.mark.parametrize("rows", [1, 2])
def test_a_leaf_of_few_rows(rows, rng, monkeypatch):
    T, H = 5, 6
    case = random_case(rng, T, rows, 3, H, bptt.Activation("tanh"))
    offsets = np.arange(T + 1, dtype=np.intp) * rows
    x, dz = (a.reshape(T * rows, 1, -1) for a in (case.x, case.dz))
    z = np.empty(((T + 1) * rows, 1, H))
    z[:rows, 0] = case.z0
    layout = Layout(offsets)
    _halves.forward(x, case.W, case.V, case.b, z, case.activation, layout)
    found = []
    monkeypatch.setattr(_backend, "kernels", NoneEmpty())
    for beside in (None, tuple(np.zeros_like(a) for a in (case.W, case.V, case.b))):
        sums = [np.zeros_like(a) for a in (case.W, case.V, case.b)]
        dz0, dx, da_first = np.empty((rows, H)), np.empty_like(x), np.empty((rows, H))
        segment = Segment(T, True, None, da_first, beside)
        _halves.backward(
            x, case.W, case.V, z, case.activation, dz, None, *sums, dz0, dx,
            layout, segment, None,
        )  # fmt: skip
        if beside is not None:
            sums = [a + b for a, b in zip(sums, beside, strict=True)]
        found.append([dz0, dx, da_first, sums])
    same_bits(found[1][:3], found[0][:3])
    for one, other in zip(found[1][3], found[0][3], strict=True):
        close(one, other, T * rows)


def test_a_layout_without_rows_is_not_cut(rng):
    V = rng.standard_normal((3, 3))
    layout = Layout(np.zeros(1, np.intp))
    assert _halves.halved(layout, V) is layout
