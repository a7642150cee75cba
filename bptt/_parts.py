"""What a call of the kernels takes beside its arrays, where it is not a plain one.

A plain call has T steps of B rows, from the initial state to the end of the loss. Three
tuples say otherwise, each None where it has nothing to say: `Layout` for rows that end
early or start anew, `Segment` for a part of a longer run, `Flow` for what is done with
the error on its way back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Half(NamedTuple):
    """A half of the rows of each step, see `_halves.py`.

    Attributes
    ----------
    offsets, place, sequence
        As in `Layout`; place is never None.
    cells : ndarray of intp of shape (N,)
        The number of each of its cells in the whole layout.
    rows : ndarray of intp of shape (B,)
        The same of the rows of step 0.
    """

    offsets: Array
    cells: Array
    rows: Array
    place: Array
    sequence: Array | None


class Layout(NamedTuple):
    """Rows of a batch that end early, or start anew.

    With offsets, arrays of one entry per step, (T, B, ...), have one per cell instead,
    (N, 1, ...), step after step. Rows end from the first on: the rows of a step are the
    last ones of the step before, so that z[t-1] stands just before z[t] all the same.
    Row numbers count from the first row of step 0, ended or not.

    Attributes
    ----------
    offsets : ndarray of intp of shape (T + 1,), or None
        The cells before each step; None where every step has B rows.
    restarts : ndarray of intp of shape (E, 3), or None
        (step, row, start): before this step, counted from 0, the row's state is that
        row of `starts`. In ascending order.
    starts : ndarray of shape (S, H), or None
    da_starts : ndarray of shape (E, H), or None
        OUT of `backward`: da of the step after each restart. Its product with V^T is
        the gradient of the start, and nothing of it goes further back.
    ends : ndarray of intp of shape (F, 3), or None
        (step, row, n): after this step a sequence ends, and row n of dz_last is the
        gradient of its last state. In ascending order. dz_last is then (S, H).
    place : ndarray of intp of shape (N,), or None
        Which row of x, dz and dx belongs to each cell, where these arrays do not stand
        step after step: (M, B, ...) with rows for all cells, or more. Token ids and
        what is measured are cells all the same.
    sequence : ndarray of intp of shape (N,), or None
        With place, x and dz may be lists of arrays (T, K), of which the rows count one
        array after another: the number of the array with each cell's row.
    first : ndarray of intp of shape (B,), or None
        Where given, z is (M, B, H) as well, without the initial states: those of step 0
        are these rows of `starts`. Rows of z and dz may then be any distance apart.
    z_place : ndarray of intp of shape (N,), or None
        With first, `place` for z alone.
    halves : (Half, Half), or None
        If they are known already.
    """

    offsets: Array | None = None
    restarts: Array | None = None
    starts: Array | None = None
    da_starts: Array | None = None
    ends: Array | None = None
    place: Array | None = None
    sequence: Array | None = None
    first: Array | None = None
    z_place: Array | None = None
    halves: tuple[Half, Half] | None = None

    def rows(self, step: int) -> int:
        """Return how many rows a step has; only where there are offsets."""
        assert self.offsets is not None
        return int(self.offsets[step + 1] - self.offsets[step])

    @property
    def event_bytes(self) -> int:
        """The bytes of what says which rows start anew and which end."""
        events = self.restarts, self.ends
        return sum(array.nbytes for array in events if array is not None)

    def most_restarts(self, steps: int) -> int:
        """Return how many there are in a chunk of so many steps, at most."""
        if self.restarts is None:
            return 0
        return int(np.bincount(self.restarts[:, 0] // steps).max(initial=0))

    def between(self, t0: int, t1: int) -> Layout:
        """Return the layout of the steps from t0 up to t1."""
        offsets, skipped = self.offsets, 0
        place, sequence = self.place, self.sequence
        if offsets is not None:
            skipped = self.rows(0) - self.rows(t0)
            cells = slice(offsets[t0], offsets[t1])
            place = None if place is None else place[cells]
            sequence = None if sequence is None else sequence[cells]
            offsets = offsets[t0 : t1 + 1] - offsets[t0]
        return Layout(
            offsets,
            events_between(self.restarts, t0, t1, skipped),
            self.starts,
            None,
            events_between(self.ends, t0, t1, skipped),
            place,
            sequence,
        )


class Segment(NamedTuple):
    """A part of a longer run, backwards.

    The segments of a run, from the last to the first, give bit for bit what one call
    gives, where each begins at a multiple of `steps`, the length of the run's chunks.

    Attributes
    ----------
    steps : int
        `chunk_steps` of the run.
    add : bool
        Whether dW, dV and db hold sums already, of the segments behind this one.
    da_next : ndarray of shape (B, H), or None
        da of the step behind this segment; None at the end of the run. Fewer rows
        where some have ended. This and not e is carried: a product is rounded with what
        it is added to.
    da_first : ndarray of shape (B, H), or None
        OUT: da of the first step, for the segment before.
    beside : (dW, dV, db), or None
        Where gradients are summed up in two halves of the rows, those of the second:
        both are carried from segment to segment, and added at the end.
    """

    steps: int
    add: bool = False
    da_next: Array | None = None
    da_first: Array | None = None
    beside: tuple[Array, Array, Array | None] | None = None


class Flow(NamedTuple):
    """What is done with the error e[t], and measured, before sigma' multiplies it.

    Attributes
    ----------
    clip_norm, clip_value : float
        The largest norm of a row, and the largest entry; infinity for none.
    threshold : float
        A unit is saturated where |sigma'| is below this.
    norms : ndarray of float64 of shape (T, B), or None
        OUT: ||e[t]||, before it is clipped.
    saturated : ndarray of int32 of shape (T, B), or None
        OUT: how many units are saturated.
    dead : ndarray of int64 of shape (H,), or None
        Added to: at how many steps and rows sigma' is 0. All three or none are given.
    """

    clip_norm: float = np.inf
    clip_value: float = np.inf
    threshold: float = 0.0
    norms: Array | None = None
    saturated: Array | None = None
    dead: Array | None = None


def events_between(
    events: Array | None, t0: int, t1: int, skipped: int
) -> Array | None:
    """Return the events of the steps from t0 up to t1, counted from there."""
    if events is None:
        return None
    first, end = np.searchsorted(events[:, 0], [t0, t1])
    if first == end:
        return None
    shifted: Array = events[first:end] - np.array([t0, skipped, 0])
    return shifted
