"""Segments, layouts and flows of the kernels: against the reference and one call."""

import inspect
import itertools
import types

import numpy as np
import pytest
from proof import ACTIVATIONS, random_case
from tolerances import normwise_bound

from bptt import _backend, _reference, _reference_parts, _threads
from bptt._forms import Ragged
from bptt._parts import Flow, Layout, Segment
from bptt.activations import Activation

kernels = _backend.kernels
TANH = Activation("tanh")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
COMPILED = pytest.mark.skipif(
    kernels is _reference, reason="NumPy orders its sums by the shape"
)


def outputs(case, B):
    """Return places for W, V, b, z0 and x that hold what must not matter."""
    dx = None if case.x.ndim == 2 else np.full_like(case.x, np.nan)
    arrays = [np.full_like(a, np.nan) for a in (case.W, case.V, case.b)]
    return [*arrays, np.full((B, len(case.V)), np.nan, case.W.dtype), dx]


def cells_of(rng, lengths, I, H, activation, dtype, ids):
    """Return a ragged batch in cells, with restarts in it, and its layout."""
    form = Ragged("values", np.array(lengths))
    case = random_case(rng, form.cells, 1, I, H, activation, dtype, ids=ids)
    starts, dz_last = (
        (0.5 * rng.standard_normal((form.S, H))).astype(dtype) for _ in range(2)
    )
    layout = form.layout(rng.random(form.cells) < 0.1)._replace(starts=starts)
    return form, case, layout, dz_last


def events(layout, H, dtype):
    count = 0 if layout.restarts is None else len(layout.restarts)
    return np.full((count, H), np.nan, dtype)


def a_flow(N, H, clip_norm, clip_value):
    norms, saturated = np.full((N, 1), np.nan), np.full((N, 1), -1, np.int32)
    return Flow(clip_norm, clip_value, 0.05, norms, saturated, np.zeros(H, np.int64))


def close(actual, desired, terms, dtype=None):
    error = np.linalg.norm(np.float64(actual) - np.float64(desired))
    bound = normwise_bound(terms, dtype or actual.dtype)
    assert error <= bound * np.linalg.norm(desired)


def random_lengths(rng):
    lengths = rng.integers(0, rng.choice([4, 30, 200]), rng.integers(1, 20))
    lengths[0] = max(1, lengths[0])
    return lengths


def check_layout(reference, seed, dtype):
    """Assert that the kernels do with a layout and a flow what a reference does."""
    rng = np.random.default_rng(seed)
    lengths, I = random_lengths(rng), int(rng.integers(1, 9))
    H = 520 if seed % 10 == 0 else int(rng.integers(1, 70))
    activation = ACTIVATIONS[seed % len(ACTIVATIONS)]
    form, case, layout, dz_last = cells_of(
        rng, lengths, I, H, activation, dtype, seed % 3 == 0
    )
    if seed % 2:
        layout = layout._replace(ends=None)
        dz_last = None
    results = []
    z = None
    for module in (reference, kernels):
        own = np.full((form.B + form.cells, 1, H), np.nan, dtype)
        own[: form.B, 0] = layout.starts[form.first]
        module.forward(case.x, case.W, case.V, case.b, own, activation, layout)
        z = own if z is None else z
        leaves = outputs(case, form.B)
        da = events(layout, H, dtype)
        flow = a_flow(form.cells, H, 2.0, 0.5) if seed % 4 > 1 else None
        segment = Segment(kernels.chunk_steps(form.T, form.B, I, H, dtype().itemsize))
        module.backward(
            case.x, case.W, case.V, z, activation, case.dz, dz_last, *leaves,
            layout._replace(da_starts=da), segment, flow,
        )  # fmt: skip
        results.append([own, *(a for a in leaves if a is not None), da])
        if flow is not None:
            results[-1] += [flow.norms, flow.saturated, flow.dead]
    # Of a state's error each later one has a part, so that terms add up.
    terms = form.cells + I + H
    for desired, actual in zip(*results, strict=True):
        close(actual, desired, terms, dtype)


@COMPILED
@DTYPES
@pytest.mark.parametrize("seed", range(40))
def test_a_layout_is_that_of_the_reference(seed, dtype):
    check_layout(_reference, seed, dtype)


@DTYPES
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", range(24))
def test_sums_over_time_may_be_left_out(seed, threads, dtype):
    rng = np.random.default_rng([seed, 3])
    I, H = int(rng.integers(1, 9)), (520, 3, 40)[seed % 3]
    activation = ACTIVATIONS[seed % len(ACTIVATIONS)]
    if seed % 4:
        # Rows for each thread by itself, columns, a pipeline; several chunks.
        T, B = ((70, 24), (900, 3), (900, 1))[seed % 4 - 1]
        case = random_case(rng, T, B, I, H, activation, dtype, ids=seed % 5 == 0)
        layout, z = None, np.zeros((T + 1, B, H), dtype)
    else:
        form, case, layout, _ = cells_of(
            rng, random_lengths(rng), I, H, activation, dtype, seed % 5 == 0
        )
        T, B, layout = form.T, form.B, layout._replace(ends=None)
        z = np.zeros((B + form.cells, 1, H), dtype)
        z[:B, 0] = layout.starts[form.first]
    steps = kernels.chunk_steps(T, B, I, H, dtype().itemsize)
    flow = Flow(2.0, 0.5) if seed % 2 else None
    found = []
    with _threads.threads(threads):
        kernels.forward(case.x, case.W, case.V, case.b, z, activation, layout)
        for sums in (True, False):
            *of_parameters, dz0, dx = outputs(case, B)
            if not sums:
                of_parameters = None, None, None
            da = np.full((B, H), np.nan, dtype)
            kernels.backward(
                case.x, case.W, case.V, z, activation, case.dz, None, *of_parameters,
                dz0, dx, layout, Segment(steps, da_first=da), flow,
            )  # fmt: skip
            found.append([dz0, da] if dx is None else [dz0, da, dx])
    for with_sums, without in zip(*found, strict=True):
        assert np.isfinite(without).all()
        np.testing.assert_array_equal(without, with_sums)


SOURCE = inspect.getsource(_reference_parts)
BUGS = {
    "a start is not put in its place": ("before[row] = self", "self"),
    "another sequence's start": ("starts[start]", "starts[start - 1]"),
    "a gradient crosses a restart": ("            da[row] = 0\n", ""),
    "the start has no gradient": ("da_starts[e_number] = da[row]", "da_starts"),
    "rows end from the last on": (
        "e[len(e) - len(da) :] = da @ V.T",
        "e[: len(da)] = da @ V.T",
    ),
    "an end has no loss": ("e[row] += dz_last[n]", "e[row] += 0"),
    "clipped by value alone": ("(e * root * root)", "(e)"),
    "clipped by norm alone": ("np.clip(e, -flow.clip_value, flow.clip_value)", "e"),
    "the norm after clipping": ("norms = largest * np", "norms = 0.5 * largest * np"),
    "dead units forgotten": ("flow.dead[...] +=", "flow.dead[...] = 0 *"),
}


@COMPILED
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug):
    old, new = BUGS[bug]
    assert SOURCE.count(old) == 1, f"{old!r} must stand once in the reference"
    wrong = types.ModuleType("reference_with_a_bug")
    exec(compile(SOURCE.replace(old, new), "planted", "exec"), wrong.__dict__)

    def check():
        with np.errstate(all="ignore"):
            for seed in (2, 3, 4, 6, 7, 15, 18, 27, 30):
                check_layout(wrong, seed, np.float64)

    with pytest.raises(AssertionError):
        check()


def some_cuts(rng, chunks):
    return sorted({0, chunks, *map(int, rng.integers(0, chunks + 1, 3))})


@COMPILED
@DTYPES
@pytest.mark.parametrize("seed", range(60))
def test_segments_have_the_bits_of_one_call(seed, dtype):
    rng = np.random.default_rng(seed)
    T, B = (int(rng.integers(1, high)) for high in (700, 6))
    I, H = (int(rng.integers(1, high)) for high in (9, 70))
    case = random_case(rng, T, B, I, H, TANH, dtype, ids=bool(rng.integers(2)))
    z = np.empty((T + 1, B, H), dtype)
    z[0] = case.z0
    layer = (case.W, case.V)
    kernels.forward(case.x, *layer, case.b, z, TANH)
    whole = outputs(case, B)
    kernels.backward(case.x, *layer, z, TANH, case.dz, case.dz_last, *whole)
    parts = outputs(case, B)
    steps = kernels.chunk_steps(T, B, I, H, case.W.itemsize)
    cuts = some_cuts(rng, -(-T // steps))
    carry = None
    for first, end in reversed(list(itertools.pairwise(cuts))):
        t0, t1 = first * steps, min(T, end * steps)
        da_first = np.full((B, H), np.nan, dtype)
        kernels.backward(
            case.x[t0:t1], *layer, z[t0 : t1 + 1], TANH, case.dz[t0:t1],
            case.dz_last if t1 == T else None, *parts[:4],
            None if parts[4] is None else parts[4][t0:t1],
            None, Segment(steps, t1 < T, carry, da_first),
        )  # fmt: skip
        carry = da_first
    for part, expected in zip(parts, whole, strict=True):
        if part is not None:
            assert part.tobytes() == expected.tobytes(), cuts


@DTYPES
@pytest.mark.parametrize("module", [_reference, kernels], ids=["reference", "kernels"])
def test_segments_are_one_call_within_rounding(module, dtype, rng):
    T, B, I, H, steps = 50, 3, 4, 6, 10
    case = random_case(rng, T, B, I, H, TANH, dtype)
    z = np.empty((T + 1, B, H), dtype)
    z[0] = case.z0
    module.forward(case.x, case.W, case.V, case.b, z, TANH)
    whole, parts, carry = outputs(case, B), outputs(case, B), None
    module.backward(case.x, case.W, case.V, z, TANH, case.dz, case.dz_last, *whole)
    for t0, t1 in ((40, 50), (20, 40), (0, 20)):
        da_first = np.full((B, H), np.nan, dtype)
        module.backward(
            case.x[t0:t1], case.W, case.V, z[t0 : t1 + 1], TANH, case.dz[t0:t1],
            case.dz_last if t1 == T else None, *parts[:4], parts[4][t0:t1],
            None, Segment(steps, t1 < T, carry, da_first),
        )  # fmt: skip
        carry = da_first
    for part, expected in zip(parts, whole, strict=True):
        close(part, expected, T * B + I + H)


@pytest.mark.parametrize("clip", [1e-3, np.inf])
@pytest.mark.parametrize("module", [_reference, kernels], ids=["reference", "kernels"])
def test_norms_neither_overflow_nor_vanish(module, clip):
    # One step, so that e is dz itself; the identity, so that da is e.
    identity = Activation("identity")
    for dtype in (np.float32, np.float64):
        info = np.finfo(dtype)
        for H in (3, 40):
            rows = [info.max / 16, info.tiny * 16, 1.0, np.inf, np.nan, 0.0]
            B = len(rows)
            dz = np.multiply.outer(rows, np.linspace(0.5, 1, H)).astype(dtype)[None]
            # A sum of squares out of range where those of its parts are not, and one
            # of which a part is lost.
            dz = np.concatenate([dz, np.full((1, 2, H), 1, dtype)], axis=1)
            dz[0, B] *= np.sqrt(info.max / (H - 4 if H > 4 else 2))
            dz[0, B + 1, H // 2 :] *= info.tiny
            B += 2
            W, V = np.ones((1, H), dtype), np.zeros((H, H), dtype)
            x, z = np.ones((1, B, 1), dtype), np.zeros((2, B, H), dtype)
            dW, dV, dz0 = np.empty_like(W), np.empty_like(V), np.empty((B, H), dtype)
            first = np.empty((B, H), dtype)
            flow = a_flow(B, H, clip, np.inf)._replace(
                norms=np.empty((1, B)), saturated=np.empty((1, B), np.int32)
            )
            module.backward(
                x, W, V, z, identity, dz, None, dW, dV, None, dz0, None,
                None, Segment(1, False, None, first), flow,
            )  # fmt: skip
            length = np.linalg.norm(np.linspace(0.5, 1, H))
            expected = np.abs(np.array(rows, np.float64)) * length
            mixed = [dz[0, -2, 0] * np.sqrt(np.float64(H)), np.sqrt(H // 2)]
            expected = np.append(expected, mixed)
            bound = normwise_bound(H, dtype)
            np.testing.assert_allclose(flow.norms[0], expected, rtol=bound)
            if clip == np.inf:
                np.testing.assert_array_equal(first, dz[0])
                continue
            clipped = np.linalg.norm(np.float64(first[[0, 2]]), axis=1)
            np.testing.assert_allclose(clipped, clip, rtol=bound)
            np.testing.assert_array_equal(first[1], dz[0, 1])
            assert np.isnan(first[4]).all()
            assert (first[5] == 0).all()


# A single row, one whose columns are shared, rows one by one, in tiles, and wide ones.
SIZES = [
    (300, 1, 5, 48), (40, 1, 3, 150), (300, 3, 4, 21), (60, 30, 7, 70), (9, 5, 4, 520),
]  # fmt: skip


@COMPILED
@DTYPES
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["tanh", "relu", "softsign"])
def test_a_record_changes_no_bit_and_is_the_same_for_any_threads(
    size, name, dtype, rng
):
    T, B, _, H = size
    activation = Activation(name)
    case = random_case(rng, *size, activation, dtype)
    z = np.empty((T + 1, B, H), dtype)
    z[0] = case.z0
    layer = (case.x, case.W, case.V, z, activation, case.dz, case.dz_last)
    plain = outputs(case, B)
    kernels.forward(*layer[:3], case.b, z, activation)
    kernels.backward(*layer, *plain)
    measured = []
    for threads in (1, 2, 3):
        leaves, flow = outputs(case, B), a_flow(T * B, H, np.inf, np.inf)
        with _threads.threads(threads):
            kernels.backward(*layer, *leaves, None, None, flow)
        for leaf, expected in zip(leaves, plain, strict=True):
            assert leaf.tobytes() == expected.tobytes(), threads
        measured.append([flow.norms, flow.saturated, flow.dead])
    for one, *others in zip(*measured, strict=True):
        assert all(other.tobytes() == one.tobytes() for other in others)
    # A bound that nothing reaches lets the error take the other way.
    flow = a_flow(T * B, H, 1e30, np.inf)
    kernels.backward(*layer, *outputs(case, B), None, None, flow)
    assert flow.norms.tobytes() == measured[0][0].tobytes()
    np.testing.assert_array_equal(flow.saturated, measured[0][1])


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_counts_are_those_of_the_derivative(activation, dtype, rng):
    T, B, H = 40, 3, 21
    case = random_case(rng, T, B, 4, H, activation, dtype)
    case.W[...] *= 8  # far into the flat parts
    z = np.empty((T + 1, B, H), dtype)
    z[0] = case.z0
    _reference.forward(case.x, case.W, case.V, case.b, z, activation)
    flow = a_flow(T * B, H, np.inf, np.inf)._replace(
        norms=np.empty((T, B)), saturated=np.empty((T, B), np.int32)
    )
    kernels.backward(
        case.x, case.W, case.V, z, activation, case.dz, case.dz_last,
        *outputs(case, B), None, None, flow,
    )  # fmt: skip
    slope = np.abs(activation.dsigma(z[1:]))
    np.testing.assert_array_equal(flow.saturated, (slope < 0.05).sum(axis=2))
    np.testing.assert_array_equal(flow.dead, (slope == 0).sum(axis=(0, 1)))


def test_a_part_of_a_layout_counts_from_its_own_first_step():
    layout = Layout(
        offsets=np.array([0, 3, 5, 7, 8]),
        restarts=np.array([[1, 2, 0], [2, 1, 4], [3, 2, 5]]),
        ends=np.array([[0, 0, 1], [2, 1, 4], [3, 2, 5]]),
    )
    part = layout.between(2, 4)
    assert part.offsets.tolist() == [0, 2, 3]
    assert part.restarts.tolist() == [[0, 0, 4], [1, 1, 5]]
    assert part.ends.tolist() == [[0, 0, 4], [1, 1, 5]]
    assert layout.between(1, 2).ends is None
