"""How the arrays of a caller stand to those of the kernels: one class for each form.

A batch may come as an array (T, B, I), as one sequence (T, I), padded with lengths, as
a list of sequences, or as values with offsets. The kernels walk through cells, step
after step, and look up in which row of the caller's array each stands (`Layout.place`).
`gather` checks an array of a form and returns its rows, `shaped` goes back; what has
one number or id per cell is brought in the order of the cells and back (`cells_of`,
`scatter`).

Sequences of different lengths are packed into slots, each as long as the longest of
all, several short ones one after another: then a step has as many rows as there are
slots that have not ended, and the number of cells is the sum of the lengths. Where a
sequence follows another in a slot, the row starts anew (`_parts.Layout`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _aligned, _backend
from bptt._parts import Layout
from bptt._validation import as_array, as_real, check_shape

Array = NDArray[Any]


class Rectangle:
    """T steps of B sequences, or one sequence without the axis B.

    With lengths it came as a padded batch, of which no step is padding.
    """

    name = "array"
    known_bytes = 0

    def __init__(
        self, T: int, B: int, batched: bool, *, with_lengths: bool = False
    ) -> None:
        self.T, self.B, self.S, self.batched = T, B, B, batched
        self.with_lengths = with_lengths
        self.cells, self.shape = T * B, (T, B)
        self.caller_rows = self.cells
        self.rows = (B,) if batched else ()

    def gather(
        self, name: str, value: ArrayLike, K: int, dtype: Any, letter: str = "H"
    ) -> Array:
        """Return an array of one row of K entries per cell as (T, B, K)."""
        array = as_real(name, value, dtype)
        letters = f"(T, B, {letter})" if self.batched else f"(T, {letter})"
        check_shape(name, array, letters, self.shape_of(K))
        return array.reshape(self.T, self.B, K)

    gather_cells = gather

    def shape_of(self, K: int) -> tuple[int, ...]:
        """Return the shape of a caller's array of rows of K entries."""
        return self.T, *self.rows, K

    def clear(self, rows: Array) -> None:
        """Write zeros into the padding, of which there is none."""

    @property
    def row_axes(self) -> tuple[int, ...]:
        """The first axes of an array as `gather` returns it."""
        return self.T, self.B

    def empty(self, K: int, dtype: Any) -> Array:
        """Return a new array for rows of K entries, as `gather` returns them."""
        return np.empty((*self.row_axes, K), dtype)

    def shaped(self, rows: Array) -> Array:
        """Return rows as `gather` returns them in the caller's form."""
        return rows.reshape(self.shape_of(rows.shape[-1]))

    def scatter(self, cells: Array) -> Array:
        return cells.reshape(self.T, *self.rows, *cells.shape[2:])

    def flags(self, name: str, value: ArrayLike) -> Array:
        """Return booleans per cell as (T, B); (T,) stands for every sequence."""
        array = _as_flags(name, value)
        if array.shape == (self.T,):
            return np.broadcast_to(array[:, np.newaxis], (self.T, self.B))
        letters = "(T, B)" if self.batched else "(T,)"
        check_shape(name, array, letters, (self.T, *self.rows))
        return array.reshape(self.T, self.B)

    def layout(
        self, flags: Array | None, first: int = 1, *, apart: bool = False
    ) -> Layout | None:
        """Return the layout of the steps, or None where there is nothing to say.

        A run starts at its first step anyway; with first = 0 it goes on from another.
        With apart the starts of resets are S rows of their own after the initial ones.
        """
        if flags is None or not flags[first:].any():
            return None
        step, row = np.nonzero(flags[first:])
        start = row + apart * self.S
        restarts = np.stack([step + first, row, start], axis=1)
        return Layout(restarts=restarts.astype(np.intp, copy=False))

    @property
    def first(self) -> Array:
        """The sequence in each row of step 0."""
        return np.arange(self.B)


class Ragged:
    """Sequences of their own lengths, packed into slots.

    Parameters
    ----------
    name : {"list", "padded", "values"}
    lengths : ndarray of shape (S,)
    steps : int
        T of a padded array.

    Attributes
    ----------
    offsets : ndarray of shape (T + 1,)
        The cells before each step of the slots.
    place : ndarray of shape (N,)
        Where each cell stands in the caller's array, its first axes taken as one; a
        list is taken as its arrays one after another.
    sequence : ndarray of shape (N,)
        To which sequence each cell belongs.
    before : ndarray of shape (S + 1,)
        The steps of all sequences before each one.
    """

    batched = True

    def __init__(self, name: str, lengths: Array, steps: int = 0) -> None:
        self.name, self.lengths, self.steps = name, lengths, steps
        self.S, self.cells = len(lengths), int(lengths.sum())
        self.shape = (self.cells, 1)
        # Of an array of the caller's, padding among them.
        self.caller_rows = steps * self.S if name == "padded" else self.cells
        slot, start, ends = _slots(lengths)
        self.T, self.B = int(ends.max(initial=0)), len(ends)
        rank = np.zeros(max(1, self.B), np.intp)
        order = np.argsort(ends, kind="stable")
        rank[order] = np.arange(len(order))
        left = self.B - np.searchsorted(ends[order], np.arange(self.T), "right")
        self.offsets = np.concatenate([[0], np.cumsum(left)]).astype(np.intp)
        self._ended = self.B - left

        self._row, self._start = rank[slot], start
        self.before = np.concatenate([[0], np.cumsum(lengths)]).astype(np.intp)
        padded = name == "padded"
        first = np.arange(self.S) if padded else self.before[:-1]
        self.place = np.empty(self.cells, np.intp)
        self.sequence = np.empty(self.cells, np.intp)
        _backend.kernels.place_cells(
            lengths, start, self._row, self.offsets, first, self.S if padded else 1,
            self.place, self.sequence,
        )  # fmt: skip

    @property
    def kind(self) -> str:
        """What an array of the form is called, in errors."""
        kinds = {"list": "a list", "padded": "a padded array"}
        return kinds.get(self.name, "an array of values")

    @property
    def known_bytes(self) -> int:
        """The bytes of what says where each cell stands: two numbers for each, and two
        for each step.
        """
        known = self.place, self.sequence, self.offsets, self._ended
        return sum(array.nbytes for array in known)

    def gather(
        self, name: str, value: Any, K: int, dtype: Any, letter: str = "H"
    ) -> Any:
        """Return an array of the form, of rows of K entries, as (M, 1, K), or as a list
        of arrays (T, K).
        """
        if self.name == "list":
            return self._items(name, value, K, dtype, letter)
        array = as_real(name, value, dtype)
        letters = f"(T, B, {letter})" if self.name == "padded" else f"(N, {letter})"
        check_shape(name, array, letters, self.shape_of(K))
        return array.reshape(-1, 1, K)

    def shape_of(self, K: int) -> tuple[int, ...]:
        """Return the shape of a caller's array of rows of K entries; not of a list."""
        if self.name == "padded":
            return self.steps, self.S, K
        return self.cells, K

    def clear(self, rows: Array, written: Array | None = None) -> None:
        """Write zeros into the padding, or into what of it may be `written`: the first
        so many steps of each sequence.
        """
        if self.name != "padded":
            return
        if written is None:
            written = np.full(self.S, self.steps)
        steps = rows.reshape(self.shape_of(rows.shape[-1]))
        _backend.kernels.clear(steps, self.lengths, written)

    def cells_of(self, rows: Array | list[Array]) -> Array:
        """Return the caller's rows, (M, ...) or lists of them, as cells (N, 1, ...)."""
        if isinstance(rows, list):
            rows = np.concatenate(rows)
        return np.take(rows, self.place, axis=0)[:, np.newaxis]

    def gather_cells(
        self, name: str, value: Any, K: int, dtype: Any, letter: str = "H"
    ) -> Array:
        """Return an array of the form, of rows of K entries, as cells (N, 1, K)."""
        rows = self.gather(name, value, K, dtype, letter)
        return self.cells_of(rows if isinstance(rows, list) else rows[:, 0])

    @property
    def row_axes(self) -> tuple[int, ...]:
        """The first axes of an array as `gather` returns it, but for a list."""
        return self.caller_rows, 1

    def empty(self, K: int, dtype: Any) -> Array:
        """Return a new array for rows of K entries; zeros in the padding."""
        if self.name != "padded":
            return np.empty((*self.row_axes, K), dtype)
        return _aligned.zeros((*self.row_axes, K), np.dtype(dtype))

    def shaped(self, rows: Array) -> Any:
        """Return rows as `gather` returns them in the caller's form."""
        rows = rows.reshape(len(rows), *rows.shape[2:])
        if self.name == "padded":
            return rows.reshape(self.steps, self.S, *rows.shape[1:])
        if self.name == "values":
            return rows
        b = self.before
        return [rows[b[i] : b[i + 1]] for i in range(self.S)]

    def _items(
        self, name: str, value: Any, K: int, dtype: Any, letter: str
    ) -> list[Array]:
        items = as_list(name, value, self.S)
        arrays = [as_real(f"{name}[{i}]", a, dtype) for i, a in enumerate(items)]
        for i, array in enumerate(arrays):
            shape = (int(self.lengths[i]), K)
            check_shape(f"{name}[{i}]", array, f"(T, {letter})", shape)
        return arrays

    def scatter(self, cells: Array) -> Any:
        """Return cells (N, 1, ...) in the caller's form; zeros in the padding."""
        cells = cells.reshape(self.cells, *cells.shape[2:])
        placed = np.zeros((self.caller_rows, *cells.shape[1:]), cells.dtype)
        placed[self.place] = cells
        return self.shaped(placed[:, np.newaxis])

    def cells_at(self, sequences: Array, t: int) -> Array:
        """Return the cell of step t = 1.. of each of these sequences."""
        step = self._start[sequences] + t
        cells: Array = self.offsets[step] - self.offsets[1] + self._row[sequences]
        return cells

    def step_of(self, step: Array, sequence: Array) -> Array:
        """Return which step, 1.., of its sequence a step of the slots, 0.., is."""
        t: Array = step - self._start[sequence] + 1
        return t

    def flags(self, name: str, value: Any) -> Array:
        """Return booleans per cell, (N,), from the caller's form."""
        if self.name == "list":
            items = [_as_flags(name, a) for a in as_list(name, value, self.S)]
            for i, item in enumerate(items):
                check_shape(f"{name}[{i}]", item, "(T,)", (int(self.lengths[i]),))
            flat = np.concatenate(items) if items else np.empty(0, bool)
        else:
            flat = _as_flags(name, value)
            if self.name == "padded" and flat.shape == (self.steps,):
                flat = np.broadcast_to(flat[:, np.newaxis], (self.steps, self.S))
            elif self.name == "padded":
                check_shape(name, flat, "(T, B)", (self.steps, self.S))
            else:
                check_shape(name, flat, "(N,)", (self.cells,))
        return np.take(flat.reshape(-1), self.place)

    def layout(
        self, flags: Array | None, first: int = 1, *, apart: bool = False
    ) -> Layout:
        """Return the layout of the steps: slots that end, and rows that start anew.

        With first = 0 a sequence may start anew at its first step too.
        """
        sequences = np.flatnonzero(self.lengths)
        row, start = self._row[sequences], self._start[sequences]
        last = start + self.lengths[sequences] - 1
        later = start > 0
        restarts = np.stack([start, row, sequences], axis=1)[later]
        if flags is not None:
            cell = np.flatnonzero(flags)
            step = np.searchsorted(self.offsets, cell, "right") - 1
            index = step - self._start[self.sequence[cell]]
            if first == 0:
                # A sequence that follows another in its slot starts once.
                anew = self.sequence[cell[index == 0]]
                restarts = restarts[~np.isin(restarts[:, 2], anew)]
            cell, step = cell[index >= first], step[index >= first]
            rows = cell - self.offsets[step] + self._ended[step]
            more = np.stack([step, rows, self.sequence[cell] + apart * self.S], axis=1)
            restarts = np.concatenate([restarts, more])
        ends = np.stack([last, row, sequences], axis=1)
        return Layout(
            self.offsets,
            restarts=ascending(restarts),
            ends=ascending(ends),
            place=self.place,
            sequence=self.sequence if self.name == "list" else None,
        )

    @property
    def first(self) -> Array:
        """The sequence in each row of step 0."""
        first = np.zeros(self.B, np.intp)
        starting = np.flatnonzero((self._start == 0) & (self.lengths > 0))
        first[self._row[starting]] = starting
        return first


Form = Rectangle | Ragged


def is_list(x: Any) -> bool:
    """Whether x is a list of sequences: of arrays, not of numbers."""
    return isinstance(x, (list, tuple)) and all(map(_is_sequence, x))


def _is_sequence(a: Any) -> bool:
    """Whether a is an array, be it of another library: a tensor, or a data frame."""
    if isinstance(a, np.ndarray):
        return a.ndim > 0
    return hasattr(a, "__array__") and np.ndim(a) > 0


def _slots(lengths: Array) -> tuple[Array, Array, Array]:
    """Return the slot of each sequence, where in it it starts, and the slots' ends.

    Best fit, the longest first: a sequence goes where the least room is left.
    """
    slot, start = np.zeros(len(lengths), np.intp), np.zeros(len(lengths), np.intp)
    capacity = int(lengths.max(initial=0))
    room: list[tuple[int, int]] = []
    ends: list[int] = []
    for i in np.argsort(-lengths, kind="stable"):
        length = int(lengths[i])
        if length == 0:
            break
        at = bisect_left(room, (length, -1))
        if at < len(room):
            left, slot[i] = room.pop(at)
        else:
            left, slot[i] = capacity, len(ends)
            ends.append(0)
        start[i] = capacity - left
        ends[slot[i]] = int(start[i]) + length
        if left > length:
            insort(room, (left - length, int(slot[i])))
    return slot, start, np.array(ends, np.intp)


def ascending(events: Array) -> Array | None:
    if not len(events):
        return None
    order = np.lexsort((events[:, 1], events[:, 0]))
    return np.ascontiguousarray(events[order], np.intp)


def as_list(name: str, value: Any, count: int) -> Sequence[Any]:
    """Return a list of as many arrays as there are sequences."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        came = (
            f"{len(value)}"
            if isinstance(value, (list, tuple))
            else type(value).__name__
        )
        raise ValueError(f"{name} must be a list of {count} arrays, like x; got {came}")
    return value


def _as_flags(name: str, value: ArrayLike) -> Array:
    array = as_array(name, value)
    if array.dtype != bool:
        raise TypeError(f"{name} must have dtype bool, got {array.dtype}")
    return array
