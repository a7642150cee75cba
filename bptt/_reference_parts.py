"""The recurrence in NumPy where a call is not a plain one: see `_parts.py`.

The specification of `_kernels_parts.pxi`: one step after the other, in the order and
with the step numbers of `_reference.py`, which calls this where a part is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt._parts import Flow, Layout, Segment
from bptt.activations import Activation

Array = NDArray[Any]


class Steps:
    """Each step's rows in arrays of cells, and where its rows start anew."""

    def __init__(self, z: Array, layout: Layout) -> None:
        if layout.offsets is None:
            self.B = z.shape[1]
            ends = len(z) + (layout.first is not None)
            self.offsets: Array = np.arange(ends) * self.B
        else:
            self.B, self.offsets = layout.rows(0), layout.offsets
        self.T = len(self.offsets) - 1
        self.z = z
        self.layout = layout

    def cells(self, t: int) -> slice:
        """Return the rows of step t = 1..T in an array of one entry per cell."""
        return slice(self.offsets[t - 1], self.offsets[t])

    def places(self, t: int, array: Array) -> tuple[Array, Array]:
        """Return where step t = 1..T stands in an array of x, dz or dx, (M, B, ..)."""
        cells = np.arange(self.offsets[t - 1], self.offsets[t])
        if self.layout.place is not None and array.ndim == 3:
            cells = self.layout.place[cells]
        row, column = np.divmod(cells, array.shape[1])
        return row, column

    @staticmethod
    def joined(arrays: Any) -> Any:
        """Return a list of arrays (T, K) as one, (M, 1, K), and all else as it is."""
        if not isinstance(arrays, list):
            return arrays
        return np.concatenate(arrays)[:, np.newaxis]

    def ended(self, t: int) -> int:
        return int(self.B - (self.offsets[t] - self.offsets[t - 1]))

    def at(self, events: Array | None, t: int) -> list[tuple[int, int, int]]:
        """Return the number, row and index of the events of step t = 1..T."""
        if events is None:
            return []
        found = np.flatnonzero(events[:, 0] == t - 1)
        ended = self.ended(t)
        return [(int(e), events[e, 1] - ended, events[e, 2]) for e in found]

    def rows_of_z(self, cells: Array) -> tuple[Array, Array]:
        """Return where states stand in z, which may begin with the initial ones."""
        if self.layout.first is None:
            cells = cells + self.B
        elif self.layout.place is not None:
            cells = self.layout.place[cells]
        row, column = np.divmod(cells, self.z.shape[1])
        return row, column

    def state(self, t: int) -> Array:
        """Return z[t] of step t = 1..T."""
        cells = np.arange(self.offsets[t - 1], self.offsets[t])
        state: Array = self.z[self.rows_of_z(cells)]
        return state

    def put_state(self, t: int, state: Array) -> None:
        cells = np.arange(self.offsets[t - 1], self.offsets[t])
        self.z[self.rows_of_z(cells)] = state

    def state_before(self, t: int) -> Array:
        """Return z[t-1] as step t finds it: with starts in their place."""
        rows = self.offsets[t] - self.offsets[t - 1]
        cells = np.arange(self.offsets[t - 1] - rows, self.offsets[t - 1])
        before = self.z[self.rows_of_z(cells)]
        first = self.layout.first
        if first is not None and t == 1:
            assert self.layout.starts is not None
            before = self.layout.starts[first]
        for _, row, start in self.at(self.layout.restarts, t):
            assert self.layout.starts is not None
            before[row] = self.layout.starts[start]
        return before


def forward(
    x: Any,
    W: Array,
    V: Array,
    b: Array | None,
    z: Array,
    activation: Activation,
    layout: Layout,
) -> None:
    """Run the layer: z[t] = sigma(x[t] W + z[t-1] V + b)."""
    steps = Steps(z, layout)
    x = steps.joined(x)
    for t in range(1, steps.T + 1):
        # 1. z[t] <- x[t] W + b
        x_t = x[steps.places(t, x)]
        a = W[x_t] if x_t.ndim == 1 else x_t @ W
        if b is not None:
            a = a + b
        # 2. z[t] <- sigma(z[t] + z[t-1] V)
        steps.put_state(t, activation.sigma(a + steps.state_before(t) @ V))


def backward(
    x: Any,
    W: Array,
    V: Array,
    z: Array,
    activation: Activation,
    dz: Any,
    dz_last: Array | None,
    dW: Array | None,
    dV: Array | None,
    db: Array | None,
    dz0: Array,
    dx: Array | None,
    layout: Layout,
    segment: Segment,
    flow: Flow | None,
) -> None:
    """Run the layer backwards: all gradients, from dz and dz_last."""
    steps = Steps(z, layout)
    x, dz = steps.joined(x), steps.joined(dz)
    if not segment.add:
        for total in (dW, dV, db):
            if total is not None:
                total[...] = 0

    da = np.zeros_like(z[0], shape=(0, len(V)))
    if segment.da_next is not None:
        da = segment.da_next
    for t in range(steps.T, 0, -1):
        # 2. e[t] = dz[t] + da[t+1] V^T and da[t] = e[t] sigma'(z[t])
        z_t, now = steps.state(t), steps.cells(t)
        e = np.zeros_like(z_t)
        e[len(e) - len(da) :] = da @ V.T
        if dz is not None:
            e += dz[steps.places(t, dz)]
        if layout.ends is not None:
            for _, row, n in steps.at(None if dz_last is None else layout.ends, t):
                assert dz_last is not None
                e[row] += dz_last[n]
        elif dz_last is not None and t == steps.T:
            e += dz_last
        slope = activation.dsigma(z_t)
        if flow is not None:
            e = treat(e, slope, flow, now)
        da = e * slope
        x_t = x[steps.places(t, x)]
        if dV is not None:
            dV += steps.state_before(t).T @ da
        # 1. forward was x[t] W + b, so now
        if db is not None:
            db += da.sum(axis=0)
        if dW is None:
            pass
        elif x_t.ndim == 1:
            np.add.at(dW, x_t, da)
        else:
            dW += x_t.T @ da
        if dx is not None:
            dx[steps.places(t, dx)] = da @ W.T
        # The error of a row that starts anew goes into its start, and no further.
        for e_number, row, _ in steps.at(layout.restarts, t):
            if layout.da_starts is not None:
                layout.da_starts[e_number] = da[row]
            da[row] = 0
    if segment.da_first is not None:
        segment.da_first[...] = da
    if steps.T:
        dz0[...] = da @ V.T
    else:
        dz0[...] = 0 if dz_last is None else dz_last


def treat(e: Array, slope: Array, flow: Flow, cells: slice) -> Array:
    """Return the error after clipping, and measure it as it was before."""
    # In float64 and of entries over the largest: squares would leave the range.
    largest = np.abs(e).max(axis=1, keepdims=True).astype(np.float64)
    largest[~(largest > 0)] = 1
    norms = largest * np.sqrt(((e / largest) ** 2).sum(axis=1, keepdims=True))
    norms[np.isinf(largest)] = np.inf
    norms[np.isnan(e).any(axis=1)] = np.nan
    if flow.norms is not None:
        assert flow.saturated is not None
        assert flow.dead is not None
        flow.norms.flat[cells] = norms[:, 0]
        saturated = (np.abs(slope) < flow.threshold).sum(axis=1)
        flow.saturated.flat[cells] = saturated
        flow.dead[...] += (slope == 0).sum(axis=0)
    # Twice the root: the factor of a huge error may be no normal number.
    root = np.where(norms > flow.clip_norm, np.sqrt(flow.clip_norm) / np.sqrt(norms), 1)
    e = (e * root * root).astype(e.dtype)
    return np.clip(e, -flow.clip_value, flow.clip_value)
