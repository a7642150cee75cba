"""Streams against the same sequence in memory, and what happens when they change."""

import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from proof import random_case
from tolerances import normwise_bound

import bptt
from bptt import _backend, streaming, truncation
from bptt._sources import CHUNK_BYTES, Slices
from bptt.activations import Activation
from bptt.streaming import StreamChangedError

TANH = Activation("tanh")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Chunks:
    """Chunks by index, and a note of which were read."""

    def __init__(self, chunks):
        self.chunks, self.read = chunks, []

    def __len__(self):
        return len(self.chunks)

    def __getitem__(self, i):
        self.read.append(i)
        return self.chunks[i]


def loss_of(case):
    def loss(start, z):
        dz = case.dz[start : start + len(z)].reshape(z.shape)
        return float((dz * z).sum()), dz

    return loss


def in_memory(case):
    z, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    return float((case.dz * z).sum()), bptt.backward(tape, case.dz), tape.z_last


def check(case, result, bits=False):
    loss, grads, z_last = in_memory(case)
    terms = len(case.x) * case.x.shape[1] + len(case.V) + len(case.W)
    bound = normwise_bound(terms, case.W.dtype)
    size = np.abs(case.dz).sum()  # of a loss of states within +-1
    assert abs(result.loss - loss) <= bound * size
    for name in ("W", "V", "b", "z0"):
        actual, desired = getattr(result.grads, name), getattr(grads, name)
        assert np.linalg.norm(actual - desired) <= bound * np.linalg.norm(desired)
        if bits and _backend.backend == "compiled":
            np.testing.assert_array_equal(actual, desired)
    if _backend.backend == "compiled":
        np.testing.assert_array_equal(result.z_last, z_last)


def cut(x, lengths=(7, 0, 13, 1, 29, 50)):
    return np.split(x, np.cumsum(lengths)[:-1])


@DTYPES
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("B", [1, 3])
def test_chunks_of_any_length(B, ids, dtype, rng):
    case = random_case(rng, 100, B, 4, 9, TANH, dtype, ids=ids, dz="dz")
    layer = (case.W, case.V, case.b, case.z0)
    chunks = cut(case.x)
    source = Chunks(chunks)
    check(case, streaming.gradients(source, loss_of(case), *layer))
    assert source.read == [*range(6), *range(5, -1, -1)]
    check(case, streaming.gradients(lambda: iter(chunks), loss_of(case), *layer))
    check(case, streaming.gradients(iter(chunks), loss_of(case), *layer, keep=True))


@DTYPES
def test_a_memmap_has_the_bits_of_memory(dtype, rng, tmp_path):
    case = random_case(rng, 3000, 2, 4, 9, TANH, dtype, dz="dz")
    file = np.memmap(tmp_path / "x", dtype, "w+", shape=case.x.shape)
    file[...] = case.x
    layer = (case.W, case.V, case.b, case.z0)
    for steps in (None, 1, 400):
        result = streaming.gradients(file, loss_of(case), *layer, steps=steps)
        check(case, result, bits=True)


def test_the_gradient_of_x_comes_chunk_by_chunk(rng):
    case = random_case(rng, 100, 2, 4, 9, TANH, dz="dz")
    dx = np.full_like(case.x, np.nan)

    def keep(start, gradient):
        dx[start : start + len(gradient)] = gradient

    layer = (case.W, case.V, case.b, case.z0)
    streaming.gradients(cut(case.x), loss_of(case), *layer, dx=keep)
    _, expected, _ = in_memory(case)
    bound = normwise_bound(len(case.V), case.W.dtype)
    assert np.linalg.norm(dx - expected.x) <= bound * np.linalg.norm(expected.x)


def test_one_sequence_and_a_loss_on_its_last_state(rng):
    case = random_case(rng, 100, 1, 4, 9, TANH)
    x, z0, last = case.x[:, 0], case.z0[0], case.dz_last[0]
    z, tape = bptt.forward(x, case.W, case.V, case.b, z0)
    expected = bptt.backward(tape, dz_last=last)

    def loss(start, z):
        return (z[-1] @ last, last) if start + len(z) == 100 else (0.0, None)

    result = streaming.gradients(cut(x), loss, case.W, case.V, case.b, z0)
    bound = normwise_bound(200, case.W.dtype)
    for name in ("W", "V", "b", "z0"):
        actual, desired = getattr(result.grads, name), getattr(expected, name)
        assert actual.shape == desired.shape
        assert np.linalg.norm(actual - desired) <= bound * np.linalg.norm(desired)
    assert result.z_last.shape == (9,)
    assert result.loss == pytest.approx(z[-1] @ last)


def test_forward_reads_an_iterator_once(rng):
    case = random_case(rng, 100, 2, 4, 9, TANH)
    z, _ = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    seen = []
    last = streaming.forward(
        iter(cut(case.x)), case.W, case.V, case.b, case.z0,
        each=lambda start, z: seen.append((start, z)),
    )  # fmt: skip
    assert [start for start, _ in seen] == [0, 7, 7, 20, 21, 50]
    if _backend.backend == "compiled":
        np.testing.assert_array_equal(np.concatenate([z for _, z in seen]), z)
        np.testing.assert_array_equal(last, z[-1])


@pytest.mark.parametrize("change", ["value", "length", "missing"])
@pytest.mark.parametrize("by_index", [True, False])
def test_a_source_that_changes_is_found(change, by_index, rng):
    case = random_case(rng, 100, 2, 4, 9, TANH, dz="dz")
    first, second = cut(case.x), cut(case.x)
    second[4] = second[4].copy()
    if change == "value":
        second[4][-1, 0, 0] += 1e-9
    elif change == "length":
        second[4] = second[4][1:]
    else:
        del second[4:]
    readings = iter([first, *[second] * 9])
    if by_index:
        if change == "missing":
            second.append(second.pop()[:0])

        class Changing(Chunks):
            def __getitem__(self, i):
                self.read.append(i)
                return (first if len(self.read) <= 6 else second)[i % len(second)]

        source = Changing(first)
    else:

        def source():
            return iter(next(readings))

    with pytest.raises(StreamChangedError, match=r"source must give the same chunks"):
        streaming.gradients(source, loss_of(case), case.W, case.V, case.b, case.z0)


def test_nothing_is_left_behind(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    case = random_case(rng, 100, 2, 4, 9, TANH, dz="dz")

    def loss(start, z):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streaming.gradients(cut(case.x), loss, case.W, case.V)
    streaming.gradients(cut(case.x), loss_of(case), case.W, case.V)
    assert list(tmp_path.iterdir()) == []


def test_a_long_array_has_no_more_chunks_than_steps_in_one():
    # A state is kept for each chunk, and those of wide ones are large.
    T, B, H = 1_000_000, 32, 512
    layer = SimpleNamespace(I=1, H=H, W=np.ones((1, H), np.float32))
    x = np.broadcast_to(np.float32(0), (T, B, 1))
    assert len(Slices(x, None, layer)) <= T**0.5
    # And a short one is as the caches want it.
    assert Slices(x[:100], None, layer).steps * B * H * 4 <= 2 * CHUNK_BYTES


ROW = np.ones((5, 4))
W, V = np.ones((4, 3)), np.eye(3)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (iter([ROW]), {}, "source must be readable twice, got an iterator; pass a function that returns a new one, or keep=True"),
        (5, {}, "source must be an array, chunks, a function or an iterator, got int"),
        ([], {}, "source must give at least one chunk"),
        ([ROW, ROW[:, None].repeat(2, 1)], {}, "chunk 1: source must give chunks of one B, got no axis B and 2"),
        ([ROW[:, None], ROW], {}, "chunk 1: source must give chunks of one B, got 1 and no axis B"),
        (lambda: None, {}, "source() must return an iterator over chunks, got NoneType"),
        ([ROW, ROW[:, :3]], {}, "chunk 1: x must have shape (T, I) = (T, 4) to fit W, got (5, 3)"),
        ([ROW, None], {}, "chunk 1: x must be an array, got None"),
        (lambda: iter([ROW, ROW, ROW.astype(np.float32)]), {}, "chunk 2: x must have dtype float64 like the other arrays, got float32; pass x.astype(np.float64)"),
        (ROW[:, :3], {}, "x must have shape (T, I) = (T, 4) to fit W, got (5, 3)"),
        ([ROW], {"loss": lambda start, z: (0.0, z[1:])}, "dz must have the shape of z, (5, 3), got (4, 3)"),
        ([ROW], {"steps": 3}, "steps must be None where the source gives chunks"),
        (ROW, {"steps": 0}, "steps must be at least 1, got 0"),
        (ROW, {"z0": np.ones(2)}, "z0 must have shape (H,) = (3,), got (2,)"),
        (ROW[:, :0], {"W": W[:0]}, "W must have I >= 1, got I = 0"),
        (ROW, {"W": W[:, :0], "V": V[:0, :0]}, "W must have H >= 1, got H = 0"),
        (ROW, {"loss": None}, "loss must be a function of start and z, got NoneType"),
        (ROW, {"dx": True}, "dx must be a function of start and a gradient, got bool"),
        (ROW, {"record": True}, "record must be a function of start and a flow, got bool"),
        (ROW, {"loss": lambda start, z: None}, "loss(start, z) must return (value, dz), got NoneType"),
        (ROW, {"loss": lambda start, z: (0.0, z, z)}, "loss(start, z) must return (value, dz), got tuple of 3"),
        (ROW, {"loss": lambda start, z: (z, 0.0)}, "the value of loss(start, z) must be a number, got an array of shape (5, 3)"),
    ],
)  # fmt: skip
def test_a_wrong_call_says_what_is_wrong(source, options, message):
    options = {"loss": lambda start, z: (0.0, z), "W": W, "V": V} | options
    with pytest.raises((TypeError, ValueError)) as raised:
        streaming.gradients(source, **options)
    assert str(raised.value) == message


def test_each_must_be_a_function():
    message = "each must be a function of start and z, got int"
    with pytest.raises(TypeError, match=message):
        streaming.forward(ROW, W, V, each=3)


def test_they_say_that_they_take_one_layer():
    for module in (streaming, truncation):
        assert "take one layer" in " ".join(module.__doc__.split())
    for function in (
        streaming.forward, streaming.gradients,
        truncation.truncated, truncation.randomized,
    ):  # fmt: skip
        assert "one layer" in function.__doc__.split("\n")[0]
