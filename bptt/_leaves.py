"""The leaves of a run: the stretches of time that are run, and run again, as one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt._forms import Form, Ragged
from bptt._parts import Flow, Layout

Array = NDArray[Any]


class Leaves:
    """The steps of a run in leaves, and which part of each array belongs to one."""

    def __init__(self, form: Form, layout: Layout | None, steps: int) -> None:
        self.T, self.B, self.steps = form.T, form.B, steps
        self.offsets = form.offsets if isinstance(form, Ragged) else None
        self.whole = layout
        self.placed = layout is not None and layout.place is not None
        self.count = -(-self.T // steps)
        self.first: Array | None = form.first  # the sequences that step 0 starts

    def bounds(self, i: int) -> tuple[int, int]:
        return i * self.steps, min(self.T, (i + 1) * self.steps)

    def rows(self, step: int) -> int:
        if self.offsets is None:
            return self.B
        return int(self.offsets[step + 1] - self.offsets[step])

    def part(self, i: int, array: Any) -> Any:
        """Return leaf i of an array of one entry per step, or per cell; all of an array
        of which the layout has the places.
        """
        if array is None or isinstance(array, list):
            return array
        if self.placed and array.ndim == 3:
            return array
        t0, t1 = self.bounds(i)
        if self.offsets is not None:
            t0, t1 = self.offsets[t0], self.offsets[t1]
        return array[t0:t1]

    def flow(self, i: int, flow: Flow | None) -> Flow | None:
        """Return what is done with the error of leaf i, and where it is recorded."""
        if flow is None or flow.dead is None:
            return flow
        norms, saturated = self.part(i, flow.norms), self.part(i, flow.saturated)
        return flow._replace(norms=norms, saturated=saturated)

    def states(self, i: int, flat: Array) -> Array:
        """Return the place of leaf i's states, with the one before, in a buffer."""
        t0, t1 = self.bounds(i)
        H = flat.shape[-1]
        if self.offsets is None:
            return flat[: (t1 - t0 + 1) * self.B].reshape(-1, self.B, H)
        cells = int(self.offsets[t1] - self.offsets[t0])
        return flat[: self.rows(t0) + cells].reshape(-1, 1, H)

    def begin(self, i: int, flat: Array, state: Array) -> Array:
        """Return the place of leaf i's states in a buffer, behind the state before."""
        states = self.states(i, flat)
        states.reshape(-1, states.shape[-1])[: len(state)] = state
        return states

    def take_ends(self, i: int, states: Array, z_end: Array) -> None:
        """Copy the last states of the sequences that end within leaf i."""
        if self.offsets is not None or i + 1 == self.count:
            flat = states.reshape(-1, states.shape[-1])
            take_ends(z_end, flat, self.layout(i))

    def room(self) -> int:
        """Return the rows of a buffer for the states of any leaf."""
        if self.offsets is None:
            return (min(self.steps, self.T) + 1) * self.B
        starts = np.arange(0, self.T, self.steps)
        ends = np.minimum(starts + self.steps, self.T)
        cells = self.offsets[ends] - self.offsets[starts]
        rows = self.offsets[starts + 1] - self.offsets[starts]
        return int((cells + rows).max(initial=0))

    def after(self, i: int, states: Array) -> Array:
        """Return leaf i's states without the one before."""
        return states[1 if self.offsets is None else self.rows(self.bounds(i)[0]) :]

    def last(self, i: int, states: Array) -> Array:
        """Return the last of the leaf before i's states, as leaf i begins with them;
        nothing where there is no leaf i.
        """
        flat = states.reshape(-1, states.shape[-1])
        rows = self.rows(self.bounds(i)[0]) if i < self.count else 0
        return flat[len(flat) - rows :].copy()

    def layout(self, i: int) -> Layout | None:
        return None if self.whole is None else self.whole.between(*self.bounds(i))


def take_ends(z_end: Array, states: Array, layout: Layout | None) -> None:
    """Copy the last states of the sequences that end within these, of (rows, H)."""
    if layout is None or layout.offsets is None:
        z_end[...] = states[len(states) - len(z_end) :]
    elif layout.ends is not None:
        step, row, sequence = layout.ends.T
        rows = layout.offsets[step + 1] - layout.offsets[step]
        cell = layout.offsets[step] + row + rows
        if layout.first is not None and layout.place is not None:
            cell = layout.place[cell - layout.rows(0)]
        z_end[sequence] = states[cell]


def layout_of(form: Form, flags: Array | None, *, apart: bool) -> Layout | None:
    """Return the layout of a layer, with the starts of resets apart from others."""
    return form.layout(flags, 0 if apart else 1, apart=apart)


def starting(
    layout: Layout | None, z0: Array, reset_state: Array | None
) -> Layout | None:
    """Return a layout with the states that its sequences start from."""
    if layout is None:
        return None
    starts = z0 if reset_state is None else np.concatenate([z0, reset_state])
    return layout._replace(starts=starts)


def with_room(layout: Layout | None, H: int, dtype: Any) -> Layout | None:
    """Return a layout with room for da of the steps after its restarts."""
    if layout is None or layout.restarts is None or layout.da_starts is not None:
        return layout
    return layout._replace(da_starts=np.empty((len(layout.restarts), H), dtype))
