"""The contenders that are C and C++: oneDNN's RNN primitive, and the machine's peak."""

import ctypes
import os

import numpy as np

from bench.native import UnbuiltError, build
from bptt.bench.cases import ACTIVATIONS, GRADIENTS
from bptt.bench.contenders import UnableError


def _load(source):
    try:
        return ctypes.CDLL(str(build(source)))
    except (UnbuiltError, OSError) as reason:
        raise UnableError(str(reason)) from reason


def _pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


class OneDNN:
    """oneDNN's vanilla RNN: forward_training and backward."""

    def __init__(self, task, inputs):
        if task.dtype != "float32":
            raise UnableError(f"oneDNN's RNN has no {task.dtype}")
        self.task = task
        self.library = library = _load("onednn_rnn.cpp")
        library.rnn_new.restype = library.rnn_result.restype = ctypes.c_void_p
        library.rnn_error.restype = library.rnn_version.restype = ctypes.c_char_p
        for function in (library.rnn_step, library.rnn_result, library.rnn_free):
            function.argtypes = [ctypes.c_void_p]
        self.version = library.rnn_version().decode()
        i = inputs
        self.grads = [np.empty_like(a) for a in (i.W, i.V, i.b, i.z0, i.x)]
        self.handle = library.rnn_new(
            *map(ctypes.c_ssize_t, task.shape),
            ACTIVATIONS.index(task.activation),
            int(task.forward_only),
            *map(_pointer, (i.x, i.W, i.V, i.b, i.z0, i.dz, *self.grads)),
        )
        if not self.handle:
            raise UnableError(library.rnn_error().decode())

    def __del__(self):
        if getattr(self, "handle", None):
            self.library.rnn_free(self.handle)

    def step(self):
        """Take one step; the gradients of W, V and b are added to what is there."""
        if self.library.rnn_step(self.handle):
            raise RuntimeError(self.library.rnn_error().decode())

    def result(self):
        """Return the states or the gradients, right after the first step only."""
        z = self.library.rnn_result(self.handle)
        if self.task.forward_only:
            T, B, _, H = self.task.shape
            floats = ctypes.cast(z, ctypes.POINTER(ctypes.c_float))
            return {"z": np.ctypeslib.as_array(floats, (T, B, H))}
        return dict(zip(GRADIENTS, self.grads, strict=True))


class Peak:
    """Multiply-adds from registers, on all threads at once: what a step can reach."""

    rounds = 1 << 22  # some milliseconds, against which starting a thread is nothing

    def __init__(self, task, inputs):
        library = _load("peak.c")
        library.peak_fma.restype = library.peak_read.restype = ctypes.c_double
        library.peak_isa.restype = ctypes.c_char_p
        self.fma, self.read = library.peak_fma, library.peak_read
        self.version = library.peak_isa().decode()
        self.threads = int(os.environ["OMP_NUM_THREADS"])
        self.wide = task.dtype == "float64"
        self.sink = ctypes.c_double()

    def step(self):
        """Run the same number of multiply-adds on each thread."""
        self.flops = self.fma(
            self.threads,
            int(self.wide),
            ctypes.c_ssize_t(self.rounds),
            ctypes.byref(self.sink),
        )
        if not self.flops:
            raise RuntimeError(f"{self.threads} threads could not be started")

    def work(self):
        """Return the flops of a step."""
        return self.flops

    def result(self):
        """Return None: there is nothing to check."""


class Bandwidth(Peak):
    """Reading an array that fits no cache."""

    size = 256 << 20

    def __init__(self, task, inputs):
        super().__init__(task, inputs)
        self.array = np.ones(self.size, np.uint8)

    def step(self):
        """Read the array once, each thread a share."""
        self.bytes = self.read(
            self.threads,
            _pointer(self.array),
            ctypes.c_ssize_t(self.size),
            ctypes.byref(self.sink),
        )

    def work(self):
        """Return the bytes read."""
        return self.bytes
