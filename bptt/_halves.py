"""Rows that end early or start anew, in two halves at once.

Each half is a call of the kernels of its own, which does not ask what the other does.
Where all rows begin and end together the kernels see to that themselves.

(a) The last row of a step ends last. Counted from it, rows belong to the halves
    0 1 1 0 0 1 1 0 ...: the halves take about as long, and a row is in the same one in
    every part of a run.
(b) A half has places for its cells, those of the whole layout. Where that has states
    one after another, behind those that its first step starts from, a half finds them
    there by places too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import _backend
from bptt._forms import Form, Ragged
from bptt._parts import Flow, Half, Layout, Segment
from bptt.activations import Activation

Array = NDArray[Any]


def forward(
    x: Any,
    W: Array,
    V: Array,
    b: Array | None,
    z: Array,
    activation: Activation,
    layout: Layout | None,
) -> None:
    """Do what `kernels.forward` does."""
    kernels = _backend.kernels
    if layout is None or not _is_cut(layout, V):
        kernels.forward(x, W, V, b, z, activation, layout)
        return
    parts = [_Part(layout, half, z) for half in halves_of(layout)]
    kernels.forward_both(
        *((part.inputs(x), W, V, b, part.z, activation, part.layout) for part in parts),
        apart=True,
    )


def backward(
    x: Any,
    W: Array,
    V: Array,
    z: Array,
    activation: Activation,
    dz: Any,
    dz_last: Array | None,
    dW: Array,
    dV: Array,
    db: Array | None,
    dz0: Array,
    dx: Array | None,
    layout: Layout | None,
    segment: Segment,
    flow: Flow | None,
) -> None:
    """Do what `kernels.backward` does."""
    kernels = _backend.kernels
    if layout is None or layout.offsets is None or segment.beside is None:
        kernels.backward(
            x, W, V, z, activation, dz, dz_last, dW, dV, db, dz0, dx,
            layout, segment, flow,
        )  # fmt: skip
        return
    parts = [_Part(layout, half, z) for half in halves_of(layout) if len(half.rows)]
    calls = []
    # Where one row is left it is in the first half.
    for part, sums in zip(parts, ((dW, dV, db), segment.beside), strict=False):
        part.begin(V, segment, flow)
        # Without ends it would be that of the last step.
        last = dz_last if part.layout.ends is not None else None
        calls.append(
            (part.inputs(x), W, V, part.z, activation, dz, last, *sums, part.dz0, dx,
             part.layout, part.segment, part.flow)
        )  # fmt: skip
    if len(calls) == 2:
        kernels.backward_both(*calls, apart=True)
    else:
        kernels.backward(*calls[0])
    for part in parts:
        part.end(dz0, layout, segment, flow)


def halved(layout: Layout, V: Array) -> Layout:
    """Return a layout that knows its halves, where it is cut."""
    return layout._replace(halves=halves_of(layout)) if _is_cut(layout, V) else layout


def sizes(form: Form, H: int) -> dict[str, int]:
    """Return what halves add to the `Sizes` of a run."""
    if not _backend.kernels.halves(form.B, H):
        return {}
    # A number for each cell of a half, and one for its place.
    places = 16 if isinstance(form, Ragged) else 0
    return {"halves": 2, "places": places}


def halves_of(layout: Layout) -> tuple[Half, Half]:
    """Return the halves of a layout with offsets."""
    return layout.halves or (_half(layout, 0), _half(layout, 1))


def _is_cut(layout: Layout, V: Array) -> bool:
    if layout.offsets is None or len(layout.offsets) < 2:
        return False
    cut: bool = _backend.kernels.halves(layout.rows(0), len(V))
    return cut


def _half(layout: Layout, h: int) -> Half:
    assert layout.offsets is not None
    offsets = np.empty_like(layout.offsets)
    cells = np.empty(layout.offsets[-1], np.intp)
    T = _backend.kernels.halve(layout.offsets, h, offsets, cells)
    offsets, cells = offsets[: T + 1].copy(), cells[: offsets[T]].copy()
    return Half(
        offsets,
        cells,
        cells[: offsets[1]] if T else cells,
        cells if layout.place is None else layout.place[cells],
        None if layout.sequence is None else layout.sequence[cells],
    )


class _Part:
    """What a half is called with, and what comes of it.

    Attributes
    ----------
    half : Half
    rows : int
        Those of step 0, of both halves.
    layout : Layout
    z : ndarray
        Without the states that step 0 starts from.
    restarts : ndarray of int
        The numbers of those of the whole layout that are its own.
    dz0, segment, flow
        As `kernels.backward` takes them.
    """

    dz0: Array
    segment: Segment
    flow: Flow | None = None

    def __init__(self, whole: Layout, half: Half, z: Array) -> None:
        self.half, self.rows = half, whole.rows(0)
        starts, first, z_place = whole.starts, whole.first, None
        if first is None:
            B, H = whole.rows(0), z.shape[-1]
            before = np.empty((0, H), z.dtype) if starts is None else starts
            starts = np.concatenate([before, z[:B].reshape(B, H)])
            first, z = np.arange(len(before), len(starts)), z[B:]
            z_place = half.cells
        self.z = z
        self.restarts, restarts = self._own(whole.restarts)
        self.layout = Layout(
            half.offsets,
            restarts=restarts,
            starts=starts,
            ends=self._own(whole.ends)[1],
            place=half.place,
            sequence=half.sequence,
            first=first[half.rows],
            z_place=z_place,
        )

    def _own(self, events: Array | None) -> tuple[Array, Array | None]:
        """Return the numbers of a half's events, and these with its own row numbers."""
        if events is None:
            return np.empty(0, np.intp), None
        row = np.full(self.rows, -1)
        row[self.half.rows] = np.arange(len(self.half.rows))
        own = np.flatnonzero(row[events[:, 1]] >= 0)
        step, at, index = events[own].T
        return own, np.stack([step, row[at], index], axis=1) if len(own) else None

    def inputs(self, x: Any) -> Any:
        """Return x as the half takes it: token ids are one for each cell."""
        return x if isinstance(x, list) or x.ndim == 3 else x[self.half.cells]

    def begin(self, V: Array, segment: Segment, flow: Flow | None) -> None:
        """Make room for what `kernels.backward` returns."""
        rows, H = len(self.half.rows), len(V)
        self.dz0 = np.empty((rows, H), V.dtype)
        da_next = segment.da_next
        if da_next is not None:
            da_next = da_next[self._among_last(len(da_next))]
        self.segment = segment._replace(
            da_next=da_next, da_first=np.empty_like(self.dz0)
        )
        self.layout = self.layout._replace(
            da_starts=np.empty((len(self.restarts), H), V.dtype)
        )
        self.flow = flow
        if flow is not None and flow.dead is not None:
            cells = len(self.half.cells), 1
            self.flow = flow._replace(
                norms=np.empty(cells), saturated=np.empty(cells, np.int32),
                dead=np.zeros(H, np.int64),
            )  # fmt: skip

    def _among_last(self, rows: int) -> Array:
        """Return which of the last rows of step 0 are a half's own."""
        first = self.rows - rows
        own: Array = self.half.rows[self.half.rows >= first] - first
        return own

    def end(
        self, dz0: Array, whole: Layout, segment: Segment, flow: Flow | None
    ) -> None:
        """Put what came of it where it belongs."""
        half = self.half
        dz0[half.rows] = self.dz0
        if segment.da_first is not None:
            segment.da_first[half.rows] = self.segment.da_first
        if whole.da_starts is not None:
            whole.da_starts[self.restarts] = self.layout.da_starts
        if flow is not None and flow.dead is not None:
            assert self.flow is not None
            assert flow.norms is not None
            assert flow.saturated is not None
            flow.norms[half.cells] = self.flow.norms
            flow.saturated[half.cells] = self.flow.saturated
            flow.dead[...] += self.flow.dead
