"""What is measured of gradients on their way back through time.

Errors are carried as ``e * 2**exponent``, with an exponent for each sequence, so that
none is lost to underflow, or beside a larger one. The kernels carry them for as many
steps as they stay in range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt import _backend
from bptt._parts import Flow
from bptt.flow._path import Loss, Path, Stretch
from bptt.flow.jacobians import LARGE, SMALL, rescale

Array = NDArray[Any]

LOG2 = math.log10(2)

# Steps from which gradients are sent back alone, to see how they fare.
_ANCHORS = 8

# Steps that are sent back at once, at most.
_AHEAD = 256


class Sent(NamedTuple):
    """Errors of steps start + 1 to end, counted within a stretch.

    Attributes
    ----------
    start, end : int
    log10_norm : ndarray of shape (end - start, R)
        Of e[t].
    da : ndarray of shape (end - start, R, H), or None
        e[t] sigma'(a[t]), to be multiplied by ``2**exponent``.
    exponent : ndarray of int of shape (R,)
    """

    start: int
    end: int
    log10_norm: Array
    da: Array | None
    exponent: Array


class Sender:
    """Carries rows of errors back through stretches of time.

    Attributes
    ----------
    e : ndarray of shape (R, H)
        What came to the step before; to be multiplied by ``2**exponent``.
    exponent : ndarray of int of shape (R,)
    """

    def __init__(self, path: Path, rows: int, need_da: bool) -> None:
        V = path.tape.V.astype(np.float64)
        self.V, self.activation = V, path.tape.activation
        # dx = da W^T, so that with the identity for W it is da.
        self.W = np.eye(len(V)) if need_da else np.zeros((1, len(V)))
        self.need_da = need_da
        self.e = np.zeros((rows, len(V)))
        self.exponent = np.zeros(rows, np.int64)
        self._ahead = _AHEAD

    def log10_norm(self) -> Array:
        log: Array = np.log10(lengths(self.e)) + self.exponent * LOG2
        return log

    def send(self, rows: slice, z: Array, dz: Array | None) -> Iterator[Sent]:
        """Send some rows back through z (n + 1, R, H), with dz (n, R, H).

        In as many parts as their scales need, the last one first.
        """
        e, exponent = self.e[rows], self.exponent[rows]
        end = len(z) - 1
        while end > 0:
            start = max(0, end - self._ahead)
            given = None
            if dz is not None:
                _add(e, exponent, dz[end - 1])
                more = np.flatnonzero(dz[start : end - 1].any(axis=(1, 2)))
                if len(more) and (exponent < 0).any():
                    start += int(more[-1]) + 1  # that loss would have to be scaled up
                elif len(more):
                    up = np.minimum(exponent, 2000)[:, np.newaxis]
                    given = np.ldexp(dz[start:end], -up)
                    given[-1] = 0
            norms, da, before = self._through(e, z[start : end + 1], given)
            good = _in_range(norms)
            self._ahead = min(_AHEAD, 2 * good)
            if good < len(norms):
                given = None if given is None else given[-good:]
                start = end - good
                norms, da, before = self._through(e, z[start : end + 1], given)
            log = np.log10(norms) + exponent * LOG2
            yield Sent(start, end, log, da, exponent)
            e[...] = before
            rescale(e, exponent)
            end = start

    def _through(
        self, e: Array, z: Array, dz: Array | None
    ) -> tuple[Array, Array | None, Array]:
        """Return norms of e[t], da[t] and what comes to the step before."""
        n, (R, H) = len(z) - 1, e.shape
        x = z[:-1] if self.need_da else np.zeros((n, R), np.intp)
        x.flags.writeable = False
        before, da = np.empty((R, H)), np.empty((n, R, H)) if self.need_da else None
        flow = Flow(
            norms=np.empty((n, R)),
            saturated=np.empty((n, R), np.int32),
            dead=np.zeros(H, np.int64),
        )
        _backend.kernels.backward(
            x, self.W, self.V, z, self.activation, dz, e,
            np.empty(self.W.shape), np.empty(self.V.shape), None, before, da,
            None, None, flow,
        )  # fmt: skip
        assert flow.norms is not None
        return flow.norms, da, before


class Norms:
    """log10 of ||dL/dz[t]|| of each sequence, and of each step's part in dV.

    Attributes
    ----------
    norm : ndarray of shape (T + 1, B)
        A column for each row of the path; minus infinity past its end.
    dV : ndarray of shape (T,)
    """

    def __init__(self, path: Path, loss: Loss) -> None:
        self.loss = loss
        self.norm = np.full((path.T + 1, path.B), -np.inf)
        self.dV = np.empty(path.T)
        self._sender = Sender(path, path.B, need_da=True)

    def add(self, stretch: Stretch) -> None:
        """Send e back through a stretch."""
        t0, z, n = stretch.t0, stretch.z, stretch.z.shape[1]
        for sent in self._sender.send(slice(n), z, self.loss.between(t0, stretch.t1)):
            first, last = t0 + sent.start, t0 + sent.end
            self.norm[first + 1 : last + 1, :n] = sent.log10_norm
            assert sent.da is not None
            before = z[sent.start : sent.end]
            self.dV[first:last] = _outer_norms(before, sent.da, sent.exponent)
        self._sender.e[stretch.cut] = 0
        if t0 == 0:
            # Of sequences without a step the loss is that of their initial state.
            _add(self._sender.e, self._sender.exponent, self.loss.at(0))
            self.norm[0] = self._sender.log10_norm()


class Decay:
    """log10 of what is left of gradients of single steps, each sent back alone."""

    def __init__(self, path: Path, loss: Loss) -> None:
        # The latest go furthest; the others are spread evenly.
        steps = loss.steps
        chosen = np.linspace(len(steps) - 1, 0, min(_ANCHORS, len(steps)))
        self.anchors = steps[np.unique(chosen.round().astype(int))]
        self.loss, self.path = loss, path
        A = len(self.anchors)
        # The rows of the latest anchor first: those that are under way are the first.
        self._sender = Sender(path, A * path.B, need_da=False)
        # Of where there is nothing to follow, or no more, minus infinity.
        self._start = np.full((A, path.B), -np.inf)
        gaps = self.anchors[-1] + 1
        self._total, self._count = np.zeros(gaps), np.zeros(gaps, np.int64)
        self._gone = np.zeros(gaps, bool)
        self._longest = 0

    def add(self, stretch: Stretch) -> None:
        """Send what is under way back through a stretch; an anchor begins one."""
        t0, t1, n = stretch.t0, stretch.t1, stretch.z.shape[1]
        A, B = self._start.shape
        under_way = A - int(np.searchsorted(self.anchors, t1))
        if under_way == 0:
            return
        rows, start = slice(under_way * B), self._start[:under_way]
        if self.anchors[A - under_way] == t1:
            new = self._sender.e[rows][-B:]
            new[:n] = self.loss.at(t1)
            start[-1] = np.log10(lengths(new))
        z = np.zeros((t1 - t0 + 1, under_way, B, self.path.H))
        z[:, :, :n] = stretch.z[:, np.newaxis]
        flat = z.reshape(t1 - t0 + 1, under_way * B, -1)
        for sent in self._sender.send(rows, flat, None):
            self._look(t0 + sent.end, sent.log10_norm[::-1], start)
        self._sender.e[rows].reshape(under_way, B, -1)[:, stretch.cut] = 0
        start[:, stretch.cut] = -np.inf
        if t0 == 0:
            self._look(0, self._sender.log10_norm()[np.newaxis, rows], start)

    def _look(self, t: int, log10_norm: Array, start: Array) -> None:
        """Count steps t, t - 1, ..."""
        k = len(log10_norm)
        change = log10_norm.reshape(k, *start.shape) - start
        # One that is 0 would make the mean minus infinity; only if all are, it is.
        followed = start != -np.inf
        gone = followed & (change == -np.inf)
        there = followed & ~gone
        gaps = self.anchors[::-1][: len(start)] - t + np.arange(k)[:, np.newaxis]
        np.add.at(self._total, gaps, np.where(there, change, 0).sum(axis=2))
        np.add.at(self._count, gaps, there.sum(axis=2))
        np.logical_or.at(self._gone, gaps, gone.any(axis=2))
        reached = gaps[-1, followed.any(axis=1)]
        self._longest = max(self._longest, int(reached.max(initial=0)))

    def mean(self) -> Array:
        """Return the mean for each gap that some sequence has."""
        some = self._count > 0
        mean = np.where(self._gone, -np.inf, np.nan)
        np.divide(self._total, self._count, where=some, out=mean)
        return mean[: self._longest + 1]


def log10_root_of_squares(logs: Array) -> Array:
    """Return log10 of the root of the sum of squares, along the last axis, of logs."""
    largest = logs.max(axis=-1)
    scale = np.where(np.isfinite(largest), largest, 0.0)
    squares = np.power(100.0, logs - scale[..., np.newaxis]).sum(axis=-1)
    total: Array = np.where(
        np.isfinite(largest), scale + np.log10(squares) / 2, largest
    )
    return total


def lengths(e: Array) -> Array:
    """Return the Euclidean norm of each row, of squares that cannot underflow."""
    largest = np.abs(e).max(axis=-1, keepdims=True, initial=0)
    largest = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    scaled = e / largest
    norm: Array = np.sqrt(np.einsum("...h,...h->...", scaled, scaled))
    return norm * largest[..., 0]


def _in_range(norms: Array) -> int:
    """Return how many steps, at least one, went by without a norm out of range.

    From the last to the first. A norm of 0 is taken for one where it came out of a
    number far from underflow.
    """
    before, now = norms[:0:-1], norms[-2::-1]
    lost = np.where(now == 0, (before != 0) & (before < SMALL), ~_fits(now))
    lost &= np.isfinite(before)
    steps = np.flatnonzero(lost.any(axis=1))
    return 1 + int(steps[0]) if len(steps) else len(norms)


def _fits(norms: Array) -> Array:
    fits: Array = (norms >= SMALL) & (norms <= LARGE)
    return fits


def _add(e: Array, exponent: Array, g: Array) -> None:
    """Make e 2^exponent + g of it, with the larger one's scale."""
    if not exponent.any():
        e += g
        return
    there = g.any(axis=-1)
    small = there & ((exponent <= 0) | ~e.any(axis=-1))
    large = there & ~small
    down = np.maximum(exponent[small], -2000)[:, np.newaxis]
    e[small] = np.ldexp(e[small], down) + g[small]
    exponent[small] = 0
    up = np.minimum(exponent[large], 2000)[:, np.newaxis]
    e[large] += np.ldexp(g[large], -up)


def _outer_norms(z: Array, da: Array, exponent: Array) -> Array:
    """Return log10 ||z[t]^T da[t]||_F of each step, of z and da (k, R, H).

    By the matrix that is smaller: (R, R) or (H, H).
    """
    scale = 0
    if exponent.any():
        scale = int(exponent[da.any(axis=(0, 2))].max(initial=-(2**31)))
        da = np.ldexp(da, np.maximum(exponent - scale, -5000)[:, np.newaxis])
    largest = np.abs(da).max(axis=(1, 2), keepdims=True)
    largest = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    da = da / largest
    if da.shape[1] < da.shape[2]:
        square = ((z @ z.swapaxes(1, 2)) * (da @ da.swapaxes(1, 2))).sum(axis=(1, 2))
        square = np.maximum(0, square)
    else:
        square = np.square(z.swapaxes(1, 2) @ da).sum(axis=(1, 2))
    log: Array = np.log10(np.sqrt(square) * largest[:, 0, 0]) + scale * LOG2
    return log
