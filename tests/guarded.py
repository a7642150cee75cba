"""Run kernels on arrays between unreadable pages, and print how many shapes passed.

A program of its own, for a read or write out of bounds ends it:

    python guarded.py SEED COUNT
    python guarded.py fault BYTES        read that far past an end, or before a start
"""

import ctypes
import mmap
import sys

import numpy as np
from proof import ACTIVATIONS, random_case, run_backward, run_forward
from tangent_proof import random_tangent, tangents

from bptt._backend import kernels

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)


class Guard:
    """Copies of arrays that end, or begin, exactly at a page that cannot be touched."""

    def __init__(self, at_end):
        self.at_end = at_end
        self.maps = []

    def __call__(self, array):
        pages = max(1, -(-array.nbytes // PAGE))
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        view = np.frombuffer(memory, np.uint8)
        start = view.ctypes.data
        for page in (start, start + (pages + 1) * PAGE):
            if libc.mprotect(ctypes.c_void_p(page), PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.maps.append(memory)
        offset = PAGE + (pages * PAGE - array.nbytes if self.at_end else 0)
        inside = view[offset : offset + array.nbytes].view(array.dtype)
        inside = inside.reshape(array.shape)
        inside[...] = array
        return inside


class Guarded:
    """The kernels, with every array they are given moved between guards."""

    def __init__(self, at_end):
        self.at_end = at_end

    def _call(self, function, arguments):
        guard = Guard(self.at_end)
        moved = [guard(a) if isinstance(a, np.ndarray) else a for a in arguments]
        function(*moved)
        for original, copy in zip(arguments, moved, strict=True):
            if isinstance(original, np.ndarray):
                original[...] = copy

    def forward(self, *arguments):
        self._call(kernels.forward, arguments)

    def backward(self, *arguments):
        self._call(kernels.backward, arguments)

    def jvp(self, *arguments):
        self._call(kernels.jvp, arguments)

    def lyapunov(self, *arguments):
        self._call(kernels.lyapunov, arguments)


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


def fault(distance):
    array = Guard(at_end=distance > 0)(np.zeros(3))
    start = array.ctypes.data + (array.nbytes - 1 if distance > 0 else 0)
    print(ctypes.c_char.from_address(start).value, flush=True)
    print(ctypes.c_char.from_address(start + distance).value)


if __name__ == "__main__":
    if sys.argv[1] == "fault":
        fault(int(sys.argv[2]))
    else:
        main(*map(int, sys.argv[1:]))
