"""Batches of sequences of their own lengths, for the tests."""

import numpy as np
from tolerances import normwise_bound

import bptt


class Batch:
    """Random sequences of different lengths, and the weights of a layer."""

    def __init__(self, rng, lengths, I, H, activation, dtype, ids=False):
        def array(*shape, scale=1.0):
            return (scale * rng.standard_normal(shape)).astype(dtype)

        self.lengths, self.activation = lengths, activation
        S = len(lengths)
        self.W = array(I, H, scale=0.6 / np.sqrt(I))
        self.V = array(H, H, scale=0.9 / H)
        self.b, self.z0 = array(H, scale=0.3), array(S, H, scale=0.5)
        self.dz = [array(n, H) for n in lengths]
        self.dz_last = array(S, H)
        self.resets = [rng.random(n) < 0.1 for n in lengths]
        self.x = [rng.integers(0, I, n) if ids else array(n, I) for n in lengths]

    def run(self, x, dz, dz_last, z0=None, back=None, **options):
        z, tape = bptt.forward(
            x,
            self.W,
            self.V,
            self.b,
            self.z0 if z0 is None else z0,
            activation=self.activation,
            **options,
        )
        grads = bptt.backward(tape, dz, dz_last=dz_last, **(back or {}))
        return z, tape, grads

    def pad(self, items, fill):
        """Return sequences side by side, (T, B, ...), with something after the ends."""
        T = max(map(len, items))
        padded = np.full((T, len(items), *items[0].shape[1:]), fill, items[0].dtype)
        for i, item in enumerate(items):
            padded[: len(item), i] = item
        return padded


def some_lengths(rng):
    lengths = rng.integers(0, rng.choice([4, 30, 200]), rng.integers(1, 20))
    lengths[rng.integers(len(lengths))] = rng.integers(1, 300)
    return [int(n) for n in lengths]


def same_bits(one, other):
    if isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            same_bits(a, b)
    elif one is None:
        assert other is None
    else:
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        one, other = (np.ascontiguousarray(a).view(np.uint8) for a in (one, other))
        np.testing.assert_array_equal(one, other)


def close(actual, desired, terms):
    """Assert that sums of so many terms agree in the Euclidean norm."""
    dtype = actual.dtype
    error = np.linalg.norm(np.float64(actual) - np.float64(desired))
    assert error <= normwise_bound(terms, dtype) * np.linalg.norm(desired)
