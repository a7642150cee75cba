"""How the two directions of a layer stand to each other where a stretch of time is run.

`_layers_both.py` and `_errors_both.py` go through stretches that a ground tells them,
and through the sides of each: what the kernels are given of one direction there. There
are two grounds: `Even`, where all sequences run from the first step to the last, and
`_sides_ragged.Uneven`. What both have:

    leaves_of(d, events, z0, reset_state)   what a cell has of `Leaves`, or alike
    start(kept, d, z0)      put the initial states of a cell into its table
    stretches(d)            all, in the order of time of a direction, to find states
    leaf(i, d)              leaf i of a direction, to find errors
    table(cells, H, dtype)  room for what is kept of each cell at the borders
    room(H, dtype)          room for the states of a layer in a leaf, of both directions
    cells(stretch, room)    those of the stretch, side by side
    rows(stretch, array)    the stretch of an array of the caller's
    add(stretch, array, rows, first)  put rows there, or add them
    sides(cell, d, stretch, room)     of a cell, in its own order of time
    taps(side)              where errors within a stretch are asked for, shorter sides
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bptt import _zigzag
from bptt._forms import Rectangle
from bptt._inputs import as_steps
from bptt._leaves import Leaves, starting
from bptt._parts import Flow, Layout

Array = NDArray[Any]


class Cell(NamedTuple):
    """A layer in one direction.

    Attributes
    ----------
    W, V, b : ndarray
    leaves : Leaves or Parts
        In its own order of time, with the layout of the states it starts from.
    z_end : ndarray of shape (S, H)
        The last state of each sequence.
    """

    W: Array
    V: Array
    b: Array | None
    leaves: Any
    z_end: Array


class Stretch(NamedTuple):
    """The steps from t0 up to t1, counted from the first one, of T."""

    t0: int
    t1: int
    T: int

    @classmethod
    def of(cls, d: int, u0: int, u1: int, T: int) -> Stretch:
        """Return the steps that are those from u0 up to u1 of a direction."""
        return cls(*cls(u0, u1, T).own(d), T)  # what turns round turns back

    def own(self, d: int) -> tuple[int, int]:
        """Return where it begins and ends in the order of time of a direction."""
        return (self.T - self.t1, self.T - self.t0) if d else (self.t0, self.t1)


class Side(Protocol):
    """A cell in a stretch, or in a part of one.

    Attributes
    ----------
    number : int
        Which of the cell's leaves it is, where its errors are found.
    rows : int
        Of its first step.
    ends : bool
        Whether the run ends with it.
    states : ndarray
        With the one before, in the cell's own order of time.
    layout : Layout or None
    """

    number: int
    rows: int
    ends: bool
    states: Array
    layout: Layout | None

    def begin(self, kept: Array) -> None:
        """Put the state before it in its place, from the table of the cell's."""

    def end(self, kept: Array) -> None:
        """Keep the state behind it."""

    def turned(self, array: Array | None) -> Any:
        """Return an array of the stretch as the kernels read and write it."""

    def errors(self, dz: Array | None, dz_last: Array | None) -> Array | None:
        """Return its columns of the errors of both directions, likewise, which may get
        those of ends that the layout does not tell of.
        """

    def da_next(self, da: Array | None) -> Array | None:
        """Return of da in the steps behind it what comes back into it."""

    def da_first(self, da: Array, layout: Layout | None) -> Array:
        """Return da that goes on to the step before, from what the kernels gave."""

    def behind(self, kept: Array) -> Array | None:
        """Return what is kept behind it; None where the run ends."""

    def before(self, kept: Array) -> Array:
        """Return the place of what is kept before it."""

    def flow(self, flow: Flow | None) -> Flow | None:
        """Return where the error is measured."""

    def measured(self, flow: Flow | None, all_steps: Flow | None) -> None:
        """Take over what was measured."""


class Even:
    """The ground of a rectangle: see the top of this file.

    Borders are those of the leaves of both directions.
    """

    def __init__(self, form: Rectangle, steps: int) -> None:
        self.form, self.steps = form, steps
        self.borders = _zigzag.borders_of(form.T, steps)

    def leaves_of(
        self, d: int, events: Layout | None, z0: Array, reset_state: Array | None
    ) -> Leaves:
        return Leaves(self.form, starting(events, z0, reset_state), self.steps)

    def start(self, kept: Array, d: int, z0: Array) -> None:
        kept[0] = z0

    def stretches(self, d: int) -> Iterator[Stretch]:
        for u0, u1 in pairwise(map(int, self.borders)):
            yield Stretch.of(d, u0, u1, self.form.T)

    def leaf(self, i: int, d: int) -> Stretch:
        u0 = i * self.steps
        return Stretch.of(d, u0, min(self.form.T, u0 + self.steps), self.form.T)

    def border(self, u: int) -> int:
        """Return the number of a border."""
        return int(np.searchsorted(self.borders, u))

    def table(self, cells: int, H: int, dtype: Any) -> Array:
        return np.empty((cells, len(self.borders), self.form.B, H), dtype)

    def room(self, H: int, dtype: Any) -> Array:
        # With the steps before and behind.
        steps = min(self.steps, self.form.T) + 2
        return np.empty((steps, self.form.B, 2 * H), dtype)

    def cells(self, stretch: Stretch, room: Array) -> Array:
        return room[1 : stretch.t1 - stretch.t0 + 1]

    def places(self, stretch: Stretch) -> slice:
        """Return in which rows of the caller's arrays the stretch stands."""
        return slice(stretch.t0 * self.form.B, stretch.t1 * self.form.B)

    def rows(self, stretch: Stretch, array: Array) -> Array:
        return array[stretch.t0 : stretch.t1]

    def add(self, stretch: Stretch, array: Array, rows: Array, first: bool) -> None:
        mine = self.rows(stretch, array)
        if first:
            mine[...] = rows
        else:
            mine += rows

    def sides(self, cell: Cell, d: int, stretch: Stretch, room: Array) -> list[Side]:
        u0, u1 = stretch.own(d)
        room, H = room[: u1 - u0 + 2], room.shape[-1] // 2
        states = room[:0:-1, :, H:] if d else room[:-1, :, :H]
        return [_EvenSide(self, cell, d, u0, u1, states)]

    def taps(self, side: Any) -> list[Side]:
        inner = self.borders[self.border(side.u0) + 1 : self.border(side.u1)]
        return [side.from_step(u) for u in map(int, inner)]


class _EvenSide:
    """A `Side` of an even ground: its own steps from u0 up to u1."""

    def __init__(
        self,
        ground: Even,
        cell: Cell,
        d: int,
        u0: int,
        u1: int,
        states: Array,
        skipped: int = 0,
    ) -> None:
        self.ground, self.cell, self.d = ground, cell, d
        self.u0, self.u1, self.states, self.skipped = u0, u1, states, skipped
        self.number, self.rows = u0 // ground.steps, ground.form.B
        self.ends = u1 == ground.form.T
        whole = cell.leaves.whole
        self.layout = None if whole is None else whole.between(u0, u1)

    def from_step(self, u: int) -> _EvenSide:
        """Return the same without the steps before u."""
        n = u - self.u0
        states = self.states[n:]
        return _EvenSide(self.ground, self.cell, self.d, u, self.u1, states, n)

    def begin(self, kept: Array) -> None:
        self.states[0] = self.before(kept)

    def end(self, kept: Array) -> None:
        kept[self.ground.border(self.u1)] = self.states[-1]
        if self.ends:
            self.cell.z_end[...] = self.states[-1]

    def turned(self, array: Array | None) -> Any:
        if array is None:
            return None
        return (array[::-1] if self.d else array)[self.skipped :]

    def errors(self, dz: Array | None, dz_last: Array | None) -> Array | None:
        if dz is None:
            return None
        H = dz.shape[-1] // 2
        dz = dz[..., self.d * H : (self.d + 1) * H]
        return as_steps(self.turned(dz), back=bool(self.d))

    def da_next(self, da: Array | None) -> Array | None:
        return da

    def da_first(self, da: Array, layout: Layout | None) -> Array:
        return da

    def behind(self, kept: Array) -> Array | None:
        part: Array = kept[self.ground.border(self.u1)]
        return None if self.ends else part

    def before(self, kept: Array) -> Array:
        part: Array = kept[self.ground.border(self.u0)]
        return part

    def flow(self, flow: Flow | None) -> Flow | None:
        if flow is None or flow.dead is None or not self.d:
            mine: Flow | None = self.cell.leaves.flow(self.number, flow)
            return mine
        return room_for(flow, self.u1 - self.u0, self.ground.form.B)

    def measured(self, flow: Flow | None, all_steps: Flow | None) -> None:
        if self.d:
            T = self.ground.form.T
            put_back(flow, all_steps, slice(T - self.u1, T - self.u0))


def room_for(flow: Flow, T: int, B: int) -> Flow:
    """Return a flow with room for the measures of some steps, turned round in time."""
    norms, saturated = np.empty((T, B)), np.empty((T, B), np.int32)
    return flow._replace(norms=norms, saturated=saturated)


def put_back(flow: Flow | None, all_steps: Flow | None, rows: slice) -> None:
    """Put measures, turned round in time, into these rows of those of all steps."""
    if flow is None or all_steps is None or flow.dead is None:
        return
    for name in ("norms", "saturated"):
        turned, whole = getattr(flow, name)[::-1], getattr(all_steps, name)
        whole[rows] = turned.reshape(-1, whole.shape[-1])
