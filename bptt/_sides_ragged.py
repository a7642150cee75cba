"""The ground of sequences of different lengths, in both directions: see `_sides.py`.

(a) Leaves are those of the slots of the direction that reads from the first step
    (`_forms.Ragged`), for both directions: each covers the same cells with both, and
    ends at the same borders. That direction runs through them as layers in one
    direction do.
(b) The direction that reads from the end walks through the slots backwards, where rows
    would have to begin late: that of a slot which has ended already. So it goes in
    parts in which no slot ends, each a rectangle of rows: the steps turned round, and
    every row starts anew, from the state behind the part or from one of its own.
(c) Parts end with whole chunks, or where slots do. So the order of its sums does not
    depend on the leaves, of which there is one where all states are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt._forms import Ragged, ascending
from bptt._leaves import Leaves, starting
from bptt._parts import Flow, Layout, events_between
from bptt._sides import Cell, Side, Stretch, put_back, room_for

Array = NDArray[Any]


class Parts:
    """The parts of the slots that are walked through from the end: what `Leaves` are to
    the other direction. They count from the first step too.

    Parameters
    ----------
    form : Ragged
    cuts : ndarray of int
        Where the parts begin, and the last one ends.
    layout : Layout
        That of `from_the_end`, with its starts.
    known : dict, optional
        The layouts of parts that all cells share, where they are kept.

    Attributes
    ----------
    behind : int
        How many starts there are, before the states that rows of a part go on from.
    """

    first = None  # no row starts but by the layout

    def __init__(
        self,
        form: Ragged,
        cuts: Array,
        layout: Layout,
        known: dict[int, Layout] | None = None,
    ) -> None:
        self.form, self.cuts, self.count = form, cuts, len(cuts) - 1
        self._known = known
        assert layout.starts is not None
        self.whole, self.behind = layout, len(layout.starts)

    def bounds(self, i: int) -> tuple[int, int]:
        return int(self.cuts[i]), int(self.cuts[i + 1])

    def rows(self, step: int) -> int:
        """Return how many slots have not ended before a step."""
        offsets, T = self.form.offsets, self.form.T
        return int(offsets[step + 1] - offsets[step]) if step < T else 0

    def layout(self, i: int) -> Layout:
        """Return the layout of a part without its starts: all rows start anew."""
        if self._known is None:
            return self._layout(i)
        if i not in self._known:
            self._known[i] = self._layout(i)
        return self._known[i]

    def _layout(self, i: int) -> Layout:
        (t0, t1), T, B = self.bounds(i), self.form.T, self.form.B
        n = self.rows(t0)
        restarts, ends = (
            events_between(events, T - t1, T - t0, B - n)
            for events in (self.whole.restarts, self.whole.ends)
        )
        # Rows without a start of their own go on from the state behind the part.
        anew = np.zeros((n, 3), np.intp)
        anew[:, 1] = np.arange(n)
        anew[:, 2] = self.behind + anew[:, 1]
        if restarts is not None:
            own = restarts[: np.searchsorted(restarts[:, 0], 1)]
            anew[own[:, 1]] = own
            anew = np.concatenate([anew, restarts[len(own) :]])
        return Layout(restarts=anew, ends=ends)


def cuts_of(form: Ragged, steps: int, chunk: int) -> Array:
    """Return where parts begin, and where the last one ends: at the borders of leaves,
    where slots end, and at the chunk in which they do.
    """
    rows = np.diff(form.offsets)
    ends = 1 + np.flatnonzero(np.diff(rows, append=0))
    leaves = np.arange(0, form.T, steps)
    cuts: Array = np.unique(np.concatenate([leaves, ends // chunk * chunk, ends]))
    return cuts


def from_the_end(form: Ragged, flags: Array | None, *, apart: bool) -> Layout:
    """Return what happens to slots that are walked through from the end; the flags are
    those of the direction that reads from the first step.
    """
    layout, S, T = form.layout(flags, apart=True), form.S, form.T
    if layout.ends is None:
        return Layout()
    # What begins ends now.
    restarts, first = [layout.ends], np.zeros((form.B, 3), np.intp)
    first[:, 1], first[:, 2] = np.arange(form.B), form.first
    ends = [first]
    if layout.restarts is not None:
        of_resets = layout.restarts[:, 2] >= S
        ends.append(layout.restarts[~of_resets])
        # A reset keeps a step from the one before it: now that one starts anew.
        restarts.append(layout.restarts[of_resets] - [1, 0, 0 if apart else S])
    turned = [np.concatenate(events) for events in (restarts, ends)]
    for events in turned:
        events[:, 0] = T - 1 - events[:, 0]
    return Layout(restarts=ascending(turned[0]), ends=ascending(turned[1]))


class Uneven:
    """The ground of sequences of different lengths: see the top of this file."""

    def __init__(self, form: Ragged, steps: int, chunk: int) -> None:
        self.form = form
        self.leaves = Leaves(form, None, steps)
        self.cuts = cuts_of(form, steps, chunk)
        # Where all is one leaf it is not long, or there is room.
        self._known: dict[int, Layout] | None = {} if self.leaves.count == 1 else None
        # Of what is kept at the borders, in one array for all.
        starts = range(0, form.T, steps)
        rows = [self.leaves.rows(t) for t in starts]
        self._at = np.concatenate([[0], np.cumsum(rows, dtype=np.intp)])

    def leaves_of(
        self, d: int, events: Layout | None, z0: Array, reset_state: Array | None
    ) -> Leaves | Parts:
        layout = starting(events, z0, reset_state)
        assert layout is not None
        if d:
            return Parts(self.form, self.cuts, layout, self._known)
        return Leaves(self.form, layout, self.leaves.steps)

    def start(self, kept: Array, d: int, z0: Array) -> None:
        if not d:
            self.kept(kept, 0)[...] = z0[self.form.first]

    def stretches(self, d: int) -> Iterator[Stretch]:
        for i in range(self.leaves.count):
            yield self.leaf(i, d)

    def leaf(self, i: int, d: int) -> Stretch:
        i = self.leaves.count - 1 - i if d else i
        return Stretch(*self.leaves.bounds(i), self.form.T)

    def kept(self, table: Array, t: int) -> Array:
        """Return the part of the table of a cell that is kept at a border."""
        i = -(-t // self.leaves.steps)
        part: Array = table[self._at[i] : self._at[min(i + 1, len(self._at) - 1)]]
        return part

    def table(self, cells: int, H: int, dtype: Any) -> Array:
        return np.empty((cells, self._at[-1], H), dtype)

    def room(self, H: int, dtype: Any) -> Array:
        # Behind the last step there may stand anything: all rows start anew.
        return np.empty((self.leaves.room() + self.form.B, 1, 2 * H), dtype)

    def cell(self, stretch: Stretch, t: int) -> int:
        """Return how many cells of the stretch there are before a step."""
        return int(self.form.offsets[t] - self.form.offsets[stretch.t0])

    def cells(self, stretch: Stretch, room: Array) -> Array:
        first = self.leaves.rows(stretch.t0)
        return room[first : first + self.cell(stretch, stretch.t1)]

    def places(self, stretch: Stretch) -> Array:
        """Return in which rows of the caller's arrays the cells stand."""
        place: Array = self._part(stretch, self.form.place)
        return place

    def _part(self, stretch: Stretch, array: Array) -> Array:
        return array[self.form.offsets[stretch.t0] : self.form.offsets[stretch.t1]]

    def rows(self, stretch: Stretch, array: Array) -> Array:
        if array.ndim == 2:  # token ids are cells already
            return self._part(stretch, array)
        return np.take(array[:, 0], self.places(stretch), axis=0)[:, np.newaxis]

    def add(self, stretch: Stretch, array: Array, rows: Array, first: bool) -> None:
        where = self.places(stretch)
        array[where] = rows if first else array[where] + rows

    def sides(self, cell: Cell, d: int, stretch: Stretch, room: Array) -> list[Side]:
        if not d:
            return [_FromFirst(self, cell, stretch, room)]
        cuts = cell.leaves.cuts
        first, end = np.searchsorted(cuts, [stretch.t0, stretch.t1])
        return [
            _FromLast(self, cell, stretch, room, i)
            for i in range(end - 1, first - 1, -1)
        ]

    def taps(self, side: Side) -> list[Side]:
        return []


class _FromFirst:
    """A `Side` of the direction that reads from the first step: a whole leaf."""

    def __init__(
        self, ground: Uneven, cell: Cell, stretch: Stretch, room: Array
    ) -> None:
        self.ground, self.cell, self.stretch = ground, cell, stretch
        self.number = stretch.t0 // ground.leaves.steps
        self.ends = stretch.t1 == stretch.T
        self.rows = ground.leaves.rows(stretch.t0)
        cells = self.rows + ground.cell(stretch, stretch.t1)
        self.states = room[:cells, :, : room.shape[-1] // 2]
        leaves = cell.leaves
        self.layout = leaves.whole if leaves.count == 1 else leaves.layout(self.number)

    def begin(self, kept: Array) -> None:
        before = self.before(kept)
        self.states[: len(before), 0] = before

    def end(self, kept: Array) -> None:
        leaves = self.cell.leaves
        leaves.take_ends(self.number, self.states, self.cell.z_end)
        if not self.ends:
            after = leaves.last(self.number + 1, self.states)
            self.ground.kept(kept, self.stretch.t1)[...] = after

    def turned(self, array: Array | None) -> Any:
        return array

    def errors(self, dz: Array | None, dz_last: Array | None) -> Array | None:
        return None if dz is None else dz[..., : dz.shape[-1] // 2]

    def da_next(self, da: Array | None) -> Array | None:
        return da

    def da_first(self, da: Array, layout: Layout | None) -> Array:
        return da

    def behind(self, kept: Array) -> Array | None:
        return None if self.ends else self.ground.kept(kept, self.stretch.t1)

    def before(self, kept: Array) -> Array:
        return self.ground.kept(kept, self.stretch.t0)

    def flow(self, flow: Flow | None) -> Flow | None:
        mine: Flow | None = self.cell.leaves.flow(self.number, flow)
        return mine

    def measured(self, flow: Flow | None, all_steps: Flow | None) -> None:
        """Do nothing: it has been measured in its place."""


class _FromLast:
    """A `Side` of the direction that reads from the end: a part of a leaf."""

    def __init__(
        self, ground: Uneven, cell: Cell, stretch: Stretch, room: Array, number: int
    ) -> None:
        self.ground, self.cell, self.stretch = ground, cell, stretch
        self.number, self.parts = number, cell.leaves
        self.t0, self.t1 = self.parts.bounds(number)
        self.rows, self.ends = self.parts.rows(self.t0), self.t0 == 0
        layout = self.parts.layout(number)
        # Errors of ends are added here: the kernels find those of their rows no place
        # in steps that stand one before the other.
        self.layout, self.last = layout._replace(ends=None), layout.ends
        H = room.shape[-1] // 2
        self.room = room[ground.leaves.rows(stretch.t0) :, 0, H:]
        c0, c1 = (ground.cell(stretch, t) for t in (self.t0, self.t1))
        states = self.room[c0 : c1 + self.rows].reshape(-1, self.rows, H)
        self.states, self.part = states[::-1], slice(c0, c1)

    def begin(self, kept: Array) -> None:
        rows = self.parts.rows(self.t1)
        behind = np.zeros_like(self.states[0])  # of slots that have ended there as well
        if self.t1 == self.stretch.t1:
            behind[self.rows - rows :] = self.before(kept)
        else:
            first = self.part.stop
            behind[self.rows - rows :] = self.room[first : first + rows]
        starts = np.concatenate([self.parts.whole.starts, behind])
        self.layout = self.layout._replace(starts=starts)

    def end(self, kept: Array) -> None:
        if self.last is not None:
            step, row, sequence = self.last.T
            self.cell.z_end[sequence] = self.states[step + 1, row]
        if self.t0 == self.stretch.t0:
            self.ground.kept(kept, self.t0)[...] = self.states[-1]

    def turned(self, array: Array | None) -> Any:
        if array is None:
            return None
        mine = array[self.part]
        return mine.reshape(-1, self.rows, *mine.shape[2:])[::-1]

    def errors(self, dz: Array | None, dz_last: Array | None) -> Array | None:
        mine: Array | None = None
        H = self.states.shape[-1]
        if dz is not None:
            mine = self.turned(dz)[..., H:]
        if dz_last is None or self.last is None:
            return mine
        if mine is None:
            steps, rows, _ = self.states.shape
            mine = np.zeros((steps - 1, rows, H), dz_last.dtype)[::-1]
        step, row, sequence = self.last.T
        mine[step, row] += dz_last[sequence]
        return mine

    def da_next(self, da: Array | None) -> Array | None:
        return None if da is None else da[len(da) - self.rows :]

    def da_first(self, da: Array, layout: Layout | None) -> Array:
        assert layout is not None
        assert layout.restarts is not None
        assert layout.da_starts is not None
        da[...] = layout.da_starts[: self.rows]
        da[layout.restarts[: self.rows, 2] < self.parts.behind] = 0
        return da

    def behind(self, kept: Array) -> Array | None:
        return None if self.ends else self.ground.kept(kept, self.t0)

    def before(self, kept: Array) -> Array:
        return self.ground.kept(kept, self.stretch.t1)

    def flow(self, flow: Flow | None) -> Flow | None:
        if flow is None or flow.dead is None:
            return flow
        return room_for(flow, self.t1 - self.t0, self.rows)

    def measured(self, flow: Flow | None, all_steps: Flow | None) -> None:
        offsets = self.ground.form.offsets
        put_back(flow, all_steps, slice(offsets[self.t0], offsets[self.t1]))
