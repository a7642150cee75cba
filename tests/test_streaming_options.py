"""Streams that start anew and clip the error, against the same sequence in memory."""

import numpy as np
import pytest
from proof import ACTIVATIONS, random_case
from tolerances import normwise_bound

import bptt
from bptt import _backend, streaming
from bptt._forms import Rectangle

COMPILED = _backend.backend == "compiled"
T, B, I, H = 700 if COMPILED else 100, 3, 4, 9  # the reference is slow


def make(rng, activation, dtype=np.float64, batched=True, ids=False):
    """Return a case, its layer, and resets in the form of x."""
    case = random_case(rng, T, B if batched else 1, I, H, activation, dtype, ids=ids)
    x, z0, dz = case.x, case.z0, case.dz
    flags = rng.random(x.shape[:2]) < 0.02
    flags[0, 0] = True  # of no effect
    if not batched:
        x, z0, dz, flags = x[:, 0], z0[0], dz[:, 0], flags[:, 0]
    return x, dz, (case.W, case.V, case.b, z0), flags


def chunks_of(x, itemsize=None):
    """Return x in chunks of any length, or in whole time chunks of a type."""
    if itemsize is None:
        return np.split(x, [7, 7, 20, 21, 500])
    rows = x.shape[1] if x.ndim + (x.dtype.kind in "iu") == 3 else 1
    unit = _backend.kernels.chunk_steps(T, rows, I, H, itemsize)
    return np.split(x, np.arange(unit, T, unit))


def in_memory(x, dz, layer, activation, resets, clip):
    z, tape = bptt.forward(x, *layer, activation=activation, resets=resets)
    grads, flow = bptt.backward(tape, dz, **clip, record=True)
    return [*grads, tape.z_last, z, *flow]


def streamed(source, x, dz, layer, activation, resets, clip, **options):
    """Return the same from a stream, its parts put together again."""
    seen, dxs, flows = {}, {}, {}

    def loss(start, z):
        seen[start, len(z)] = z
        return 0.0, dz[start : start + len(z)]

    def keep_dx(start, gradient):
        dxs[start, len(gradient)] = gradient

    def keep_flow(start, flow):
        flows[start, len(flow.norms)] = flow

    result = streaming.gradients(
        source,
        loss,
        *layer,
        activation=activation,
        resets=resets,
        **clip,
        dx=keep_dx,
        record=keep_flow,
        **options,
    )

    def joined(parts):
        return np.concatenate([parts[key] for key in sorted(parts)])

    norms = joined({key: flow.norms for key, flow in flows.items()})
    saturated = joined({key: flow.saturated for key, flow in flows.items()})
    dead = sum(flow.dead for flow in flows.values())
    grads = result.grads._replace(x=joined(dxs) if dxs else None)
    return [*grads, result.z_last, joined(seen), norms, saturated, dead]


def check(actual, desired, bits):
    for one, other in zip(actual, desired, strict=True):
        if other is None:
            assert one is None
            continue
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        if bits:
            np.testing.assert_array_equal(one, other)
        else:
            terms = T * B + H + I
            bound = normwise_bound(terms, other.dtype) if other.dtype.kind == "f" else 0
            assert np.linalg.norm(one - other) <= bound * np.linalg.norm(other)


CLIPS = [{}, {"clip_error": 1.5}, {"clip_error": 2.0, "clip_error_value": 0.7}]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("number", range(len(ACTIVATIONS)))
def test_a_stream_has_the_bits_of_memory(number, batched, dtype, rng, tmp_path):
    activation = ACTIVATIONS[number]
    x, dz, layer, flags = make(rng, activation, dtype, batched, ids=number % 3 == 0)
    for n, clip in enumerate(CLIPS):
        resets = flags if (n + number) % 3 else None
        case = (x, dz, layer, activation, resets, clip)
        desired = in_memory(*case)
        if n:
            plain = in_memory(*case[:-1], {})
            assert (plain[0] != desired[0]).any()  # something is clipped
        file = np.memmap(tmp_path / f"x{n}", x.dtype, "w+", shape=x.shape)
        file[...] = x
        check(streamed(file, *case, steps=1), desired, bits=COMPILED)
        whole = chunks_of(x, np.dtype(dtype).itemsize)
        actual = streamed(lambda parts=whole: iter(parts), *case)
        check(actual, desired, bits=COMPILED)
        check(streamed(chunks_of(x), *case), desired, bits=False)


@pytest.mark.parametrize("batched", [False, True])
def test_resets_may_be_a_function_or_a_row_for_all(batched, rng):
    x, dz, layer, flags = make(rng, ACTIVATIONS[2], batched=batched)
    every = flags[:, 0] if batched else flags

    def resets(start, part):
        np.testing.assert_array_equal(part, x[start : start + len(part)])
        return every[start : start + len(part)]

    parts = chunks_of(x, x.itemsize)
    desired = in_memory(x, dz, layer, ACTIVATIONS[2], every, {})
    for given in (every, resets):
        actual = streamed(parts, x, dz, layer, ACTIVATIONS[2], given, {})
        check(actual, desired, bits=COMPILED)
    last = streaming.forward(
        iter(parts), *layer, activation=ACTIVATIONS[2], resets=resets
    )
    check([last], [desired[5]], bits=COMPILED)


@pytest.mark.parametrize("batched", [False, True])
def test_resets_may_have_a_state_of_their_own(batched, rng):
    x, dz, layer, flags = make(rng, ACTIVATIONS[2], batched=batched)
    state = rng.standard_normal(layer[3].shape)
    z, tape = bptt.forward(
        x, *layer, activation=ACTIVATIONS[2], resets=flags, reset_state=state
    )
    grads, flow = bptt.backward(tape, dz, record=True)
    desired = [*grads, tape.z_last, z, *flow]
    case = x, dz, layer, ACTIVATIONS[2], flags, {}
    for parts, bits in ((chunks_of(x, 8), COMPILED), (chunks_of(x), False)):
        actual = streamed(parts, *case, reset_state=state)
        check(actual, desired, bits)
        with pytest.raises(AssertionError):
            check(streamed(parts, *case), desired, bits=False)


def border_forgotten(monkeypatch):
    right = Rectangle.layout
    monkeypatch.setattr(
        Rectangle, "layout", lambda self, flags, first, **apart: right(self, flags)
    )


def start_of_the_chunk(monkeypatch):
    right = streaming._Layer.layout

    def layout(self, start, x):
        found = right(self, start, x)
        return found and found._replace(starts=self.state)

    monkeypatch.setattr(streaming._Layer, "layout", layout)


def starts_without_gradient(monkeypatch):
    monkeypatch.setattr(streaming, "add_starts", lambda dz0, V, layout: None)


def forgotten_on_the_way_back(monkeypatch):
    monkeypatch.setattr(streaming, "with_room", lambda layout, H, dtype: None)


def without_clipping(monkeypatch):
    right = streaming.as_flow
    monkeypatch.setattr(streaming, "as_flow", lambda a, b, c: right(None, None, c))


@pytest.mark.parametrize(
    "bug",
    [
        border_forgotten,
        start_of_the_chunk,
        starts_without_gradient,
        forgotten_on_the_way_back,
        without_clipping,
    ],
)
def test_a_planted_bug_is_found(bug, rng, monkeypatch):
    x, dz, layer, flags = make(rng, ACTIVATIONS[2])
    flags[21] = True  # where a chunk begins
    case = (x, dz, layer, ACTIVATIONS[2], flags, {"clip_error": 1.5})
    parts = chunks_of(x)
    desired = in_memory(*case)
    check(streamed(parts, *case), desired, bits=False)
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        check(streamed(parts, *case), desired, bits=False)


ROW = np.ones((5, 4))
FLAGS = np.zeros(10, bool)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resets": FLAGS[:7]}, "resets must have as many steps as the source, 10 or more, got 7"),
        ({"resets": np.zeros(11, bool)}, "resets must have as many steps as the source, 10, got 11"),
        ({"resets": np.zeros((10, 2), bool)}, "resets must have shape (T,) = (10,), got (10, 2)"),
        ({"resets": np.zeros(10)}, "resets must have dtype bool, got float64"),
        ({"resets": True}, "resets must have shape (T, B) or (T,), got ()"),
        ({"resets": lambda start, x: FLAGS[:4]}, "resets(start, x) must have shape (T,) = (5,), got (4,)"),
        ({"reset_state": np.zeros(3)}, "reset_state needs resets, got None"),
        ({"resets": FLAGS, "reset_state": np.zeros(4)}, "reset_state must have shape (H,) = (3,), got (4,)"),
        ({"clip_error": 0.0}, "clip_error must be positive, got 0.0"),
        ({"clip_error_value": -1.0}, "clip_error_value must be positive, got -1.0"),
    ],
)  # fmt: skip
def test_a_wrong_call_says_what_is_wrong(options, message):
    with pytest.raises((TypeError, ValueError)) as raised:
        streaming.gradients(
            [ROW, ROW], lambda start, z: (0.0, z), np.ones((4, 3)), np.eye(3), **options
        )
    assert str(raised.value) == message
