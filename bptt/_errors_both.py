"""The errors of layers in both directions whose states are not all kept: the mirror of
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
from bptt._dropout import drop_back
from bptt._inputs import as_flow, as_rows, as_steps, with_records
from bptt._layers import as_dz
from bptt._layers_both import LayersBoth, Stretch
from bptt._parts import Flow, Segment
from bptt._runs import Sums, as_recorded, asked, flow_of
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
    recorded of its error, in its own order of time.

    Parameters
    ----------
    run : LayersBoth
    dz : ndarray of shape (T, B, 2 H), or (T, 2 H) of one sequence, or function, or None
        On the states of the last layer. A function ``dz(start, z)`` is as in
        `bptt.backward`, and ``dz.again(start, z)`` what is called where it has been
        asked of all steps, from leaves of other borders.
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
    leaves = run.schedule.leaves
    if form.T and form.B:
        for number, walk in enumerate(_zigzag.passes_back(run.layers, leaves)):
            for i in range(leaves - 1, -1, -1):
                errors.back(i, walk, first=number == 0)
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
        for cell, (W, V, b, leaves) in enumerate(run.cells):
            last = None
            if dz_last is not None:
                last = as_rows("dz_last", dz_last[cell], form.S, H, dtype, form.batched)
            self.sums.append(Sums(W, V, b, run.activation, form, leaves, last))
            flow = clip
            if record:
                flow = with_records(clip or Flow(), run.activation, form.shape, H)
            self.flows.append(flow)

    def back(self, i: int, walk: _zigzag.Pass, *, first: bool) -> None:
        """Run the cells of a pass back over leaf i, in the pass's own order of time."""
        run, L = self.run, self.run.layers
        own = run.cells[0].leaves.bounds(i)
        stretch = Stretch.of(walk.direction, *own, run.form.T)
        again = _zigzag.run_again(L, walk.needed)
        run.run(stretch, {*again, 2 * L - 2, 2 * L - 1} if callable(self.dz) else again)
        error = self._dz(stretch, first)
        # Forward went up through the layers, so now from the last one down.
        for k in range(L - 1, min(walk.needed) // 2 - 1, -1):
            error = self._layer(k, i, stretch, walk, error)
            if error is not None and run.masks:
                drop_back(error, run.mask(k - 1, stretch), run.dropout)

    def _dz(self, stretch: Stretch, first: bool) -> Array | None:
        run, dz = self.run, self.dz
        if not callable(dz):
            return None if dz is None else dz[stretch.t0 : stretch.t1]
        z = run.room(run.layers - 1, stretch)[1:-1]
        ask = dz if first else dz.again
        return asked(ask, stretch.t0, z, run.form.batched, z.dtype)

    def _layer(
        self, k: int, i: int, stretch: Stretch, walk: _zigzag.Pass, error: Array | None
    ) -> Array | None:
        """Run a layer back over leaf i; return the error of the layer below."""
        directions = [d for d in (0, 1) if 2 * k + d in walk.needed]
        found = any(2 * k + d in walk.found for d in directions)
        # Without sums over time only its width matters.
        x = self.run.inputs(k, stretch, dropped=found)
        down = []
        for d in directions:
            down.append(self._below(k, d, stretch, walk))
            self._cell(k, d, i, stretch, walk, x, error, down[-1])
        if k > 0:
            if len(down) == 2 and down[0] is not None:
                down[0] += down[1]
            return down[0]
        if self.dx is not None:
            for d, part in zip(directions, down, strict=True):
                if d != self._first_direction():
                    self.dx[stretch.t0 : stretch.t1] += part
        return None

    def _cell(
        self,
        k: int,
        d: int,
        i: int,
        stretch: Stretch,
        walk: _zigzag.Pass,
        x: Array,
        error: Array | None,
        dx: Array | None,
    ) -> None:
        """Run a cell back over leaf i, in its own order of time."""
        run, cell, own = self.run, 2 * k + d, stretch.own(d)
        way, H = slice(None, None, -1 if d else 1), run.z.shape[-1]
        dz = None
        if error is not None:
            dz = as_steps(error[way, :, d * H : (d + 1) * H], back=bool(d))
        x, dx = x[way], None if dx is None else dx[way]
        states = run.states(k, d, stretch)
        if cell not in walk.found:
            self._again(cell, own, x, states, dz, dx)
            return
        self._taps(cell, own, x, states, dz)
        sums, leaves = self.sums[cell], run.cells[cell].leaves
        sums.back(
            i, x, states, dz, dx, leaves.layout(i), flow_of(self.flows[cell], leaves, i)
        )
        self.da[cell, run.border(own[0])] = sums.totals.da_next

    def _below(
        self, k: int, d: int, stretch: Stretch, walk: _zigzag.Pass
    ) -> Array | None:
        """Return room for the error that a cell sends down; None where nobody needs it.

        Of the first layer it is dx, and the direction that comes second is added to it.
        """
        x = self.run.inputs(k, stretch, dropped=False)
        if k > 0:
            needed = k > min(walk.needed) // 2
            return np.empty(x.shape, self.run.z.dtype) if needed else None
        if self.dx is None:
            return None
        if d == self._first_direction():
            return self.dx[stretch.t0 : stretch.t1]
        return np.empty(x.shape, self.run.z.dtype)

    def _first_direction(self) -> int:
        """Return which direction of the first layer is found first."""
        once = self.run.schedule.leaves == 1
        return 0 if once else (self.run.layers - 1) % 2

    def _taps(
        self,
        cell: int,
        own: tuple[int, int],
        x: Array,
        states: Array,
        dz: Array | None,
    ) -> None:
        """Find da at borders within a leaf, where leaves of the other direction begin.

        Nobody asks the first layer for it.
        """
        run, (u0, u1) = self.run, own
        if cell < 2:
            return
        for u in map(int, run.borders[run.border(u0) + 1 : run.border(u1)]):
            part = None if dz is None else dz[u - u0 :]
            self._again(cell, (u, u1), x[u - u0 :], states[u - u0 :], part, None)

    def _again(
        self,
        cell: int,
        own: tuple[int, int],
        x: Array,
        states: Array,
        dz: Array | None,
        dx: Array | None,
    ) -> None:
        """Run a cell back over its own steps without sums, from da behind them."""
        run, (u0, u1), sums = self.run, own, self.sums[cell]
        W, V, _, _ = run.cells[cell]
        behind = self.da[cell, run.border(u1)] if u1 < run.form.T else None
        before = self.da[cell, run.border(u0)]
        _backend.kernels.backward(
            x, W, V, states, run.activation, dz,
            sums.dz_last if behind is None else None, None, None, None,
            np.empty_like(before), dx, run.cells[cell].layout(u0, u1),
            Segment(sums.steps, behind is not None, behind, before), self.clip,
        )  # fmt: skip
