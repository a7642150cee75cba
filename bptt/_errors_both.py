"""The errors of layers in both directions on their way back: the mirror of
`_layers_both.py`.

(a) Where the errors of a cell are found its sums over time are added to, once, leaf by
    leaf in the order of a run whose states are all kept.
(b) Where they are only run again, for those of the layers below, there are no sums: a
    call of the kernels without dW and dV.
(c) A leaf's error is that of both directions of the layer above, added up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import _backend, _zigzag
from bptt._asked import asked
from bptt._dropout import drop_back
from bptt._inputs import as_flow, as_rows, with_records
from bptt._layers import as_dz
from bptt._layers_both import LayersBoth
from bptt._leaves import with_room
from bptt._parts import Flow, Segment
from bptt._runs import Sums, as_recorded
from bptt._sides import Side, Stretch
from bptt._tape import ErrorFlow, Gradients

Array = NDArray[Any]


def backward(
    run: LayersBoth,
    dz: Any,
    dz_last: Array | None,
    *,
    need_x_grad: bool = True,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
    record: bool = False,
) -> tuple[list[Gradients], list[ErrorFlow | None]]:
    """Return the gradients of each cell, x with those of the first, and what was
    recorded of its error, in the order of time of x.

    Parameters
    ----------
    run : LayersBoth
    dz : ndarray in the form of x, or function, or None
        On the states of the last layer, 2 H of each step. A function ``dz(start, z)``
        is as in `bptt.backward`, and ``dz.again(start, z)`` what is called where it has
        been asked of all steps, from leaves of other borders.
    dz_last : ndarray of shape (L, B, H) or (L, H), or None
    need_x_grad, clip_error, clip_error_value, record
        As in `bptt.backward`.
    """
    form, (I, H), dtype = run.form, run.cells[0].W.shape, run.z.dtype
    errors = _Errors(
        run,
        as_dz(dz, form, 2 * H, dtype),
        dz_last,
        as_flow(clip_error, clip_error_value, record=False),
        form.empty(I, dtype) if need_x_grad and run.x.ndim == 3 else None,
        record=record,
    )
    leaves = run.leaves
    if form.T and form.B:
        for number, walk in enumerate(_zigzag.passes_back(run.layers, leaves)):
            for i in range(leaves - 1, -1, -1):
                stretch = run.ground.leaf(i, walk.direction)
                errors.back(stretch, walk, first=number == 0)
    shaped = None if errors.dx is None else form.shaped(errors.dx)
    grads = [
        one.gradients(None if cell else shaped) for cell, one in enumerate(errors.sums)
    ]
    return grads, [as_recorded(flow, form) for flow in errors.flows]


class _Errors:
    """The errors on their way back, and the sums of each cell.

    Parameters
    ----------
    run : LayersBoth
    dz, dz_last
        As in `backward`.
    clip : Flow or None
        What is done with the error wherever it is run.
    dx : ndarray of shape (T, B, I), or None
        OUT
    record : bool
    """

    def __init__(
        self,
        run: LayersBoth,
        dz: Any,
        dz_last: Array | None,
        clip: Flow | None,
        dx: Array | None,
        *,
        record: bool,
    ) -> None:
        self.run, self.dz, self.clip, self.dx = run, dz, clip, dx
        form, dtype, H = run.form, run.z.dtype, run.z.shape[-1]
        self.da = np.empty_like(run.z)
        self.sums, self.flows = [], []
        for cell, (W, V, b, leaves, _) in enumerate(run.cells):
            last = None
            if dz_last is not None:
                last = as_rows("dz_last", dz_last[cell], form.S, H, dtype, form.batched)
            self.sums.append(Sums(W, V, b, run.activation, form, leaves, last))
            flow = clip
            if record:
                flow = with_records(clip or Flow(), run.activation, form.shape, H)
            self.flows.append(flow)

    def back(self, stretch: Stretch, walk: _zigzag.Pass, *, first: bool) -> None:
        """Run the cells of a pass back over a leaf of its direction."""
        run, L = self.run, self.run.layers
        again = _zigzag.run_again(L, walk.needed)
        run.run(stretch, {*again, 2 * L - 2, 2 * L - 1} if callable(self.dz) else again)
        error = self._dz(stretch, first)
        # Forward went up through the layers, so now from the last one down.
        for k in range(L - 1, min(walk.needed) // 2 - 1, -1):
            error = self._layer(k, stretch, walk, error)
            if error is not None and run.masks:
                drop_back(error, run.mask(k - 1, stretch), run.dropout)

    def _dz(self, stretch: Stretch, first: bool) -> Array | None:
        run, dz = self.run, self.dz
        if not callable(dz):
            return None if dz is None else run.ground.rows(stretch, dz)
        z = run.states(run.layers - 1, stretch)
        ask = dz if first else dz.again
        return asked(ask, run.form, (stretch.t0, stretch.t1), z, z.dtype)

    def _layer(
        self, k: int, stretch: Stretch, walk: _zigzag.Pass, error: Array | None
    ) -> Array | None:
        """Run a layer back over a leaf; return the error of the layer below."""
        run, dtype = self.run, self.run.z.dtype
        cells = [cell for cell in (2 * k, 2 * k + 1) if cell in walk.needed]
        # Without sums over time only its width matters.
        x = run.inputs(k, stretch, dropped=not walk.found.isdisjoint(cells))
        wanted = k > min(walk.needed) // 2 or (k == 0 and self.dx is not None)
        down = [np.empty(x.shape, dtype) if wanted else None for _ in cells]

        def back(i: int) -> None:
            found = cells[i] in walk.found
            self._cell(cells[i], stretch, x, error, down[i], found=found)

        run.each(back, cells, x)
        if k == 0:
            self._add_to_dx(stretch, cells, down)
            return None
        below = down[0]
        for other in down[1:]:
            if below is not None and other is not None:
                below += other
        return below

    def _add_to_dx(
        self, stretch: Stretch, cells: list[int], down: list[Array | None]
    ) -> None:
        for cell, part in zip(cells, down, strict=True):
            if self.dx is not None and part is not None:
                first = cell == self._first_cell()
                self.run.ground.add(stretch, self.dx, part, first)

    def _first_cell(self) -> int:
        """Return which direction of the first layer is found first."""
        once = self.run.leaves == 1
        return 0 if once else (self.run.layers - 1) % 2

    def _cell(
        self,
        cell: int,
        stretch: Stretch,
        x: Array,
        error: Array | None,
        dx: Array | None,
        *,
        found: bool,
    ) -> None:
        """Run a cell back over a leaf, from da behind it."""
        run, sums = self.run, self.sums[cell]
        sides = run.sides(cell, stretch)
        da = sums.totals.da_next if found else sides[-1].behind(self.da[cell])
        for side in reversed(sides):
            side.begin(run.z[cell])
            da = side.da_next(da)
            if found:
                if cell > 1:  # nobody asks the first layer
                    self._find_taps(cell, side, x, error, da)
                da = self._find(cell, side, x, error, dx, da)
            else:
                da = self._again(cell, side, x, error, dx, da)
        assert da is not None
        self._keep(cell, sides[0], da)

    def _keep(self, cell: int, side: Side, da: Array) -> None:
        """Keep da of the first step of a side, of those rows that have one before."""
        before = side.before(self.da[cell])
        before[...] = da[len(da) - len(before) :]

    def _find(
        self,
        cell: int,
        side: Side,
        x: Array,
        error: Array | None,
        dx: Array | None,
        da: Array | None,
    ) -> Array:
        """Run a side back, and add to the sums; return da of its first step."""
        run, sums, all_steps = self.run, self.sums[cell], self.flows[cell]
        sums.totals.da_next, flow = da, side.flow(all_steps)
        layout = with_room(side.layout, run.z.shape[-1], run.z.dtype)
        sums.back(
            side.number, side.turned(x), side.states, side.errors(error, sums.dz_last),
            side.turned(dx), layout, flow,
        )  # fmt: skip
        side.measured(flow, all_steps)
        assert sums.totals.da_next is not None
        sums.totals.da_next = side.da_first(sums.totals.da_next, layout)
        return sums.totals.da_next

    def _find_taps(
        self, cell: int, side: Side, x: Array, error: Array | None, da: Array | None
    ) -> None:
        """Find da where leaves of the other direction begin within a side."""
        for tap in self.run.ground.taps(side):
            self._keep(cell, tap, self._again(cell, tap, x, error, None, da))

    def _again(
        self,
        cell: int,
        side: Side,
        x: Array,
        error: Array | None,
        dx: Array | None,
        da: Array | None,
    ) -> Array:
        """Run a side back without sums, from da behind it."""
        run, sums, (W, V) = self.run, self.sums[cell], self.run.cells[cell][:2]
        layout = with_room(side.layout, len(V), V.dtype)
        layout, last = sums.at_ends(layout, end=side.ends)
        first = np.empty((side.rows, len(V)), V.dtype)
        _backend.kernels.backward(
            side.turned(x), W, V, side.states, run.activation,
            side.errors(error, sums.dz_last), last,
            None, None, None, np.empty_like(first), side.turned(dx), layout,
            Segment(sums.steps, da is not None, da, first), self.clip,
        )  # fmt: skip
        return side.da_first(first, layout)
