"""Run kernels on arrays between unreadable pages, and print how many shapes passed.

A program of its own, for a read or write out of bounds ends it:

    python guarded.py SEED COUNT
    python guarded.py runs SEED COUNT    batches of all forms, and layers both ways
    python guarded.py fault BYTES        read that far past an end, or before a start
"""

import ctypes
import mmap
import sys

import numpy as np
from proof import ACTIVATIONS, random_case, run_backward, run_forward
from ragged import Batch, same_bits, some_lengths
from tangent_proof import random_tangent, tangents

import bptt
from bptt import _backend
from bptt._backend import kernels
from bptt._threads import threads

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)


class Guard:
    """Copies of arrays that end, or begin, exactly at a page that cannot be touched.

    Their strides are kept, with NaN between rows that lie apart.
    """

    def __init__(self, at_end):
        self.at_end = at_end
        self.maps = []

    def __call__(self, array):
        steps = [s * (n - 1) for s, n in zip(array.strides, array.shape, strict=True)]
        steps = steps if array.size else [-array.itemsize]
        before = -sum(step for step in steps if step < 0)
        size = before + sum(step for step in steps if step > 0) + array.itemsize
        size, before = (size, before) if array.size else (0, 0)
        pages = max(1, -(-size // PAGE))
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        view = np.frombuffer(memory, np.uint8)
        start = view.ctypes.data
        for page in (start, start + (pages + 1) * PAGE):
            if libc.mprotect(ctypes.c_void_p(page), PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.maps.append(memory)
        offset = PAGE + (pages * PAGE - size if self.at_end else 0)
        room = view[offset : offset + size]
        room[...] = 0xFF
        strides = array.strides if array.size else None
        inside = np.ndarray(array.shape, array.dtype, view, offset + before, strides)
        inside[...] = array
        inside.flags.writeable = array.flags.writeable
        return inside


class Guarded:
    """The kernels, with every array they are given moved between guards."""

    def __init__(self, at_end=True):
        self.at_end = at_end

    def __getattr__(self, name):
        function = getattr(kernels, name)
        plain = "config", "supported_isas", "chunk_steps", "side_by_side", "halves"
        if name in plain:
            return function
        return lambda *arguments, **options: self._call(function, arguments, options)

    def _call(self, function, arguments, options):
        guard, pairs, known = Guard(self.at_end), [], {}

        def moved(value):
            if isinstance(value, np.ndarray):
                # Halves of a batch write to the same arrays.
                which = value.ctypes.data, value.shape, value.strides
                if which not in known:
                    known[which] = guard(value)
                    pairs.append((value, known[which]))
                return known[which]
            if isinstance(value, list):
                return [moved(item) for item in value]
            if hasattr(value, "_fields"):  # Layout, Segment, Flow
                return type(value)(*map(moved, value))
            if isinstance(value, tuple):  # the arguments of one run of two
                return tuple(map(moved, value))
            return value

        result = function(*map(moved, arguments), **options)
        for original, copy in pairs:
            if original.flags.writeable:
                original[...] = copy
            else:
                np.testing.assert_array_equal(original, copy)
        return result


def main(seed, count):
    rng = np.random.default_rng(seed)
    for number in range(count):
        T, B, I, H = (int(rng.integers(1, high)) for high in (9, 20, 70, 70))
        if number % 25 == 0:
            H += 256
        case = random_case(
            rng,
            T,
            B if number % 3 else 1,
            I,
            H,
            ACTIVATIONS[number % len(ACTIVATIONS)],
            [np.float32, np.float64][number % 2],
            ids=number % 5 == 0,
            b=number % 4 > 0,
            dz=["dz", "dz_last", "both"][number % 3],
        )
        guarded = Guarded(at_end=number % 7 < 4)
        z = run_forward(guarded, case)
        np.testing.assert_array_equal(z, run_forward(kernels, case))
        expected = run_backward(kernels, case, z)
        for name, grad in run_backward(guarded, case, z).items():
            np.testing.assert_array_equal(grad, expected[name])
        direction = random_tangent(rng, case)
        np.testing.assert_array_equal(
            tangents(guarded, case, z, *direction),
            tangents(kernels, case, z, *direction),
        )
        frames = []
        for module in (guarded, kernels):
            Q = np.array(np.eye(H)[np.newaxis, : 1 + H // 9].repeat(z.shape[1], 0))
            Q, logs = Q.astype(z.dtype), np.zeros(Q.shape[:2])
            module.lyapunov(case.V, z, case.activation, Q, logs)
            frames += [Q, logs]
        np.testing.assert_array_equal(frames[0], frames[2])
        np.testing.assert_array_equal(frames[1], frames[3])
    print(count, "shapes")


def a_run(number):
    """Return all results of one of the forms that a batch comes in."""
    rng = np.random.default_rng(number)
    dtype = [np.float32, np.float64][number % 2]
    I, H = (int(rng.integers(1, 70)) for _ in range(2))
    H += 256 * (number % 25 == 0)
    activation = ACTIVATIONS[number % len(ACTIVATIONS)]
    ids = number % 3 == 0
    batch = Batch(rng, some_lengths(rng), I, H, activation, dtype, ids=ids)
    x, dz, resets, options = batch.x, batch.dz, batch.resets, {}
    form = ["list", "padded", "values"][int(rng.integers(3))]
    if form == "padded":
        x, resets = batch.pad(x, 0), batch.pad(resets, True)
        dz, options = batch.pad(dz, np.nan), {"lengths": batch.lengths}
    elif form == "values":
        x, dz, resets = map(np.concatenate, (x, dz, resets))
        options["offsets"] = np.concatenate([[0], np.cumsum(batch.lengths)])
    if rng.integers(2):
        options["resets"] = resets
        if rng.integers(2):
            options["reset_state"] = batch.z0[::-1]
    if rng.integers(3) == 0:
        options["checkpoint"] = 1
    back = {"record": True} if rng.integers(2) else {"clip_error": 0.5}
    with threads(int(rng.integers(1, 4))):
        z, tape, grads = batch.run(x, dz, batch.dz_last, back=back, **options)
        # Both directions of a layer share an array, one of them backwards in it.
        T, B = int(rng.integers(1, 40)), int(rng.choice([1, 2, 7]))
        both = bptt.RNN(
            I, H, 2, bidirectional=True, activation=activation, seed=1, dtype=dtype
        )
        x = rng.standard_normal((T, B, I)).astype(dtype)
        states, stack = both.forward(rng.integers(0, I, (T, B)) if ids else x)
        wide = rng.standard_normal((T, B, 3 * H)).astype(dtype)
        stacked = both.backward(stack, wide[..., H:], **back)
    return [z, tape.z_last, grads, states, stacked]


def leaves(value):
    """Return all arrays of nested results."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in leaves(item)]
    return [] if value is None else [value]


def runs(seed, count):
    for number in range(seed, seed + count):
        _backend.kernels = kernels
        expected = leaves(a_run(number))
        _backend.kernels = Guarded(at_end=number % 7 < 4)
        same_bits(leaves(a_run(number)), expected)
    print(count, "runs")


def fault(distance):
    array = Guard(at_end=distance > 0)(np.zeros(3))
    start = array.ctypes.data + (array.nbytes - 1 if distance > 0 else 0)
    print(ctypes.c_char.from_address(start).value, flush=True)
    print(ctypes.c_char.from_address(start + distance).value)


if __name__ == "__main__":
    if sys.argv[1] == "fault":
        fault(int(sys.argv[2]))
    elif sys.argv[1] == "runs":
        runs(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))
