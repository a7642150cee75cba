"""The states of a tape step after step, whatever its kind: a row for each sequence.

Rows are in descending order of length, so that the sequences that have a step are the
first ones. Where a sequence starts anew its state comes from none before: nothing that
is carried along its path crosses such a step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _runs
from bptt._forms import Form, Ragged, Rectangle
from bptt._inputs import as_rows
from bptt._leaves import Leaves
from bptt.flow._arguments import as_tape
from bptt.recurrence import Tape

Array = NDArray[Any]

_NONE = np.empty(0, np.intp)

# Entries of the states of a stretch, at most, where that leaves 32 steps: the caches
# hold them.
_ENTRIES = 1 << 14


class Stretch(NamedTuple):
    """Steps t0 + 1 to t1, between which no sequence ends or starts anew.

    Attributes
    ----------
    t0, t1 : int
    z : ndarray of float64 of shape (t1 - t0 + 1, n, H)
        The states of the n sequences that have these steps; z[0] are those that step
        t0 + 1 begins with.
    cut : ndarray of int
        The rows that start anew with step t0 + 1.
    """

    t0: int
    t1: int
    z: Array
    cut: Array


def form_of(tape: Tape) -> Form:
    """Return the form of the batch a tape is of."""
    if isinstance(tape, _runs.Run):
        return tape.form
    T, B = tape.x.shape[:2]
    return Rectangle(T, B, tape.batched)


class Path:
    """A walk along the states of a tape.

    Attributes
    ----------
    T, B, H : int
        The longest sequence, the number of sequences, units.
    order : ndarray of int of shape (B,)
        The sequence in each row.
    lengths : ndarray of int of shape (B,)
        Of each row, descending.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape = as_tape(tape)
        self.run = tape if isinstance(tape, _runs.Run) else None
        self.form = form_of(tape)
        self.B, self.H = self.form.S, len(tape.V)
        if isinstance(self.form, Ragged):
            if self.run is not None and self.run.schedule is not None:
                raise ValueError(
                    "tape must hold its states where sequences have lengths of their "
                    f"own; run forward without memory and checkpoint, got {tape!r}"
                )
            self.order = np.argsort(-self.form.lengths, kind="stable")
            self.lengths = self.form.lengths[self.order]
        else:
            self.order = np.arange(self.B)
            self.lengths = np.full(self.B, self.form.T, np.intp)
        self.T = int(self.lengths[0]) if self.B else self.form.T
        self.row = np.argsort(self.order)
        self._ascending = self.lengths[::-1]
        self._cuts = self._find_cuts()
        cuts = np.array(list(self._cuts), np.intp) - 1
        self._borders = np.unique(np.concatenate([[0], self.lengths, cuts]))
        self._limit = max(32, _ENTRIES // max(1, self.B * self.H))

    def check_sequences(self) -> None:
        """Refuse a tape of no sequence."""
        if self.B == 0:
            raise ValueError("tape must have a sequence, got B=0")

    def rows(self, t: int) -> int:
        """Return how many sequences have a step t."""
        return self.B - int(np.searchsorted(self._ascending, t))

    def cuts(self, t: int) -> Array:
        """Return the rows that start anew with step t."""
        return self._cuts[t][0] if t in self._cuts else _NONE

    def at(self, cells: Array, t: int) -> Array:
        """Return the rows (n, ...) of step t from an array of one entry per cell."""
        if isinstance(self.form, Rectangle):
            rows: Array = cells[t - 1]
            return rows
        which = self.form.cells_at(self.order[: self.rows(t)], t)
        return np.take(cells[:, 0], which, axis=0)

    def put(self, values: Array, axis: int = 0) -> Array:
        """Return rows as the sequences were; without that axis where it was one."""
        if isinstance(self.form, Ragged):
            return np.take(values, self.row, axis=axis)
        return values if self.tape.batched else np.take(values, 0, axis=axis)

    def states(self) -> Array:
        """Return the states of steps 1 to T, (T, B, H) in float64; 0 where none is."""
        z = np.zeros((self.T, self.B, self.H))
        for stretch in self.forward(0, self.T):
            z[stretch.t0 : stretch.t1, : stretch.z.shape[1]] = stretch.z[1:]
        return z

    def spread(self, values: Array) -> Any:
        """Return values (T, B, K) of the rows of every step in the caller's form."""
        if isinstance(self.form, Rectangle):
            return self.form.scatter(values)
        cells = np.empty((self.form.cells, 1, values.shape[-1]), values.dtype)
        for t in range(1, self.T + 1):
            rows = self.order[: self.rows(t)]
            cells[self.form.cells_at(rows, t), 0] = values[t - 1, : len(rows)]
        return self.form.scatter(cells)

    def back(self, at: ArrayLike = ()) -> Iterator[Stretch]:
        """Yield stretches from the last to the first; one ends at each step of `at`."""
        if self.T == 0 or self.B == 0:
            return
        borders = np.union1d(self._borders, np.asarray(at, np.intp))
        for start, t1, states in self._pieces(_runs.walk_back):
            while t1 > start:
                t0 = max(start, int(borders[np.searchsorted(borders, t1) - 1]))
                t0 = max(t0, t1 - self._limit)
                yield self._stretch(t0, t1, states, start)
                t1 = t0

    def forward(self, i: int, t: int) -> Iterator[Stretch]:
        """Yield the stretches of the steps from i + 1 up to t."""
        if i == t or self.B == 0:
            return
        walk = functools.partial(self._walk_forward, i, t)
        for start, end, states in self._pieces(walk):
            t0 = max(start, i)
            while t0 < min(end, t):
                after = np.searchsorted(self._borders, t0, "right")
                t1 = min(end, t, int(self._borders[after]), t0 + self._limit)
                yield self._stretch(t0, t1, states, start)
                t0 = t1

    def gap(self, i: int, t: int) -> tuple[Array, Array]:
        """Return the rows whose state t comes from their state i, and those states.

        Of shape (t - i + 1, n, H), in float64; the first is of no meaning where i = t.
        """
        n = self.rows(t)
        linked = np.ones(n, bool)
        for s in range(i + 1, t + 1):
            linked[[row for row in self.cuts(s) if row < n]] = False
        rows = np.flatnonzero(linked)
        z = np.zeros((t - i + 1, len(rows), self.H))
        for stretch in self.forward(i, t):
            z[stretch.t0 - i : stretch.t1 - i + 1] = stretch.z[:, rows]
        return rows, z

    def _stretch(self, t0: int, t1: int, states: Array | None, start: int) -> Stretch:
        n, cut = self.rows(t1), self.cuts(t0 + 1)
        if states is not None:
            z = states[t0 - start : t1 - start + 1].astype(np.float64)
        else:
            z = np.empty((t1 - t0 + 1, n, self.H))
            for t in range(t0, t1 + 1):
                z[t - t0] = self._state(t)[:n]
        if len(cut):
            z[0, cut] = self._cuts[t0 + 1][1]
        return Stretch(t0, t1, z, cut)

    def _state(self, t: int) -> Array:
        """Return the states of step t of a ragged run."""
        assert self.run is not None
        if t == 0:
            return self._starts()
        return self.at(self.run.z[self.form.B :], t)

    def _starts(self) -> Array:
        """Return the initial state of each row."""
        z0 = self.tape.z[0] if self.run is None else self.run.z0
        starts: Array = z0[self.order]
        return starts

    def _walk_forward(
        self, i: int, t: int, run: _runs.Run, leaves: Leaves
    ) -> Iterator[tuple[int, Array]]:
        """Yield the leaves of the steps from i + 1 up to t."""
        first, end = i // leaves.steps, (t - 1) // leaves.steps + 1
        return _runs.walk_forward(run, leaves, first, end)

    def _pieces(
        self, walk: Callable[[_runs.Run, Leaves], Iterator[tuple[int, Array]]]
    ) -> Iterator[tuple[int, int, Array | None]]:
        """Yield the states of parts of the path, or None where they are looked up."""
        if self.run is None:
            yield 0, self.T, self.tape.z
        elif isinstance(self.form, Ragged):
            yield 0, self.T, None
        else:
            leaves = _runs.leaves_of(self.run)
            for leaf, states in walk(self.run, leaves):
                yield *leaves.bounds(leaf), states

    def _find_cuts(self) -> dict[int, tuple[Array, Array]]:
        """Return the rows that start anew, and the states they start from, by step."""
        layout = None if self.run is None else self.run.layout
        if layout is None or layout.restarts is None:
            return {}
        assert layout.starts is not None
        step, _, start = layout.restarts.T
        sequence = start % self.B  # states that resets have of their own come behind z0
        if isinstance(self.form, Ragged):
            t = self.form.step_of(step, sequence)
        else:
            t = step + 1
        # With its first step and from z0 a sequence only begins, in its slot.
        anew = np.flatnonzero((t > 1) | (start >= self.B))
        anew = anew[np.argsort(t[anew], kind="stable")]
        together = np.split(anew, np.flatnonzero(np.diff(t[anew])) + 1)
        return {
            int(t[e[0]]): (self.row[sequence[e]], layout.starts[start[e]])
            for e in together
            if len(e)
        }


class Loss:
    """The gradient of a loss by each state of a path, taken directly.

    Parameters
    ----------
    path : Path
    dz : array_like in the form of x, or None
    dz_last : array_like of shape (B, H) or (H,), or None

    Attributes
    ----------
    steps : ndarray of int
        At which some sequence has a loss, ascending.
    """

    def __init__(
        self, path: Path, dz: ArrayLike | None, dz_last: ArrayLike | None
    ) -> None:
        if dz is None and dz_last is None:
            raise ValueError("dz or dz_last must be given: a loss needs a gradient")
        if callable(dz):
            raise TypeError("dz must be an array, got a function")
        dtype, batched = path.tape.W.dtype, path.tape.batched
        self.path, self.every, self.last = path, None, None
        if dz is not None:
            self.every = path.form.gather_cells("dz", dz, path.H, dtype)
        if dz_last is not None:
            last = as_rows("dz_last", dz_last, path.B, path.H, dtype, batched)
            self.last = last[path.order].astype(np.float64)
        steps = [t for t in range(1, path.T + 1) if self.at(t).any()]
        self.steps = np.array(steps, np.intp)

    def at(self, t: int) -> Array:
        """Return the gradient by the states of step t, (n, H) in float64."""
        path = self.path
        n = path.rows(t)
        if self.every is not None and t > 0:
            g = path.at(self.every, t).astype(np.float64)
        else:
            g = np.zeros((n, path.H))
        if self.last is not None:
            longer = path.rows(t + 1)
            g[longer:] += self.last[longer:n]
        return g

    def between(self, t0: int, t1: int) -> Array | None:
        """Return the gradients by steps t0 + 1 to t1, or None where all are 0."""
        first, end = np.searchsorted(self.steps, [t0 + 1, t1 + 1])
        if end == first:
            return None
        return np.array([self.at(t) for t in range(t0 + 1, t1 + 1)])
