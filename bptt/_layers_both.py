"""Layers in both directions on top of each other whose states are not all kept.

`_errors_both.py` runs them back.

(a) What is kept is the state of each cell, a layer in one direction, at each border of
    a leaf, and backwards its da there: `_zigzag.py` says in which order they are found.
(b) A leaf is run from its borders through the layers that are needed, both directions
    of one into the same rows, side by side, as in `_both_ways.py`.
(c) A cell counts steps in its own order of time, in which its leaves are whole chunks.
(d) What dropout keeps is drawn once, in the order of such a run, and kept as bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend, _zigzag
from bptt._dropout import Bits, bytes_of_row, drop
from bptt._forms import Ragged, Rectangle
from bptt._inputs import (
    as_cells,
    as_layer,
    as_reset_state,
    as_starts,
    budget_given,
)
from bptt._leaves import Leaves
from bptt._parts import Layout
from bptt._recompute import Schedule, Sizes
from bptt._runs import layout_of
from bptt.activations import Activation

Array = NDArray[Any]
Weights = tuple[Array, Array, Array | None]


class Cell(NamedTuple):
    """A layer in one direction.

    Attributes
    ----------
    W, V, b : ndarray
    leaves : Leaves
        In its own order of time, with the layout of the states it starts from.
    """

    W: Array
    V: Array
    b: Array | None
    leaves: Leaves

    def layout(self, u0: int, u1: int) -> Layout | None:
        """Return the layout of its own steps from u0 up to u1."""
        whole = self.leaves.whole
        return None if whole is None else whole.between(u0, u1)


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


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class LayersBoth:
    """What a forward pass through layers in both directions leaves for a backward one.

    Attributes
    ----------
    x : ndarray of shape (T, B, I), or of token ids of shape (T, B)
    form : Rectangle
    activation : Activation
    cells : list of Cell
        Layer by layer, the direction from the first step first.
    masks : list of Bits
        What dropout kept of the states of each layer but the last; none without it.
    dropout : float
    schedule : Schedule
    borders : ndarray of int of shape (N,)
        The steps before which states are kept, T among them, in either order of time.
    z : ndarray of shape (L, N, B, H)
        The states there, of each cell in its own order of time.
    rooms : list of ndarray of shape (steps + 2, B, 2 H)
        Of each layer for the states of a leaf, with those before and behind.
    held : list of (Stretch, set of int)
        Whose states the rooms hold, of which cells; or nothing.
    """

    x: Array
    form: Rectangle
    activation: Activation
    cells: list[Cell]
    masks: list[Bits]
    dropout: float
    schedule: Schedule
    borders: Array
    z: Array
    rooms: list[Array]
    held: list[tuple[Stretch, set[int]]]

    @property
    def z_last(self) -> Array:
        """The last states, (L, B, H), or (L, H) of one sequence."""
        last = self.z[:, -1].copy()
        return last if self.form.batched else last[:, 0]

    @property
    def layers(self) -> int:
        return len(self.rooms)

    def __repr__(self) -> str:
        (I, H), L, form = self.cells[0].W.shape, len(self.cells), self.form
        sizes = f"L={L}, T={form.T}, B={form.S}, I={I}, H={H}"
        return f"LayersBoth({sizes}, {self.z.dtype}, {self.activation.name})"

    def border(self, u: int) -> int:
        """Return the number of a border."""
        return int(np.searchsorted(self.borders, u))

    def run(self, stretch: Stretch, needed: set[int]) -> None:
        """Run cells through a stretch, from the states that they find at its border."""
        if self.held and self.held[0][0] == stretch and needed <= self.held[0][1]:
            return
        self.held.clear()  # a signal may come on the way
        for k in range(self.layers):
            directions = [d for d in (0, 1) if 2 * k + d in needed]
            if not directions:
                continue
            x = self.inputs(k, stretch)
            calls = []
            for d in directions:
                cell, states = self.cells[2 * k + d], self.states(k, d, stretch)
                u0, u1 = stretch.own(d)
                states[0] = self.z[2 * k + d, self.border(u0)]
                calls.append(
                    (x[::-1] if d else x, cell.W, cell.V, cell.b, states,
                     self.activation, cell.layout(u0, u1))
                )  # fmt: skip
            if len(calls) == 2:
                _backend.kernels.forward_both(*calls)
            else:
                _backend.kernels.forward(*calls[0])
            for d in directions:
                behind = self.border(stretch.own(d)[1])
                self.z[2 * k + d, behind] = self.states(k, d, stretch)[-1]
        self.held.append((stretch, needed))

    def room(self, k: int, stretch: Stretch) -> Array:
        """Return the room of a layer for a stretch, with the steps around it."""
        return self.rooms[k][: stretch.t1 - stretch.t0 + 2]

    def states(self, k: int, d: int, stretch: Stretch) -> Array:
        """Return those of a cell, with the one before, in its own order of time."""
        room, H = self.room(k, stretch), self.z.shape[-1]
        return room[:0:-1, :, H:] if d else room[:-1, :, :H]

    def inputs(self, k: int, stretch: Stretch, *, dropped: bool = True) -> Array:
        """Return what layer k reads: x, or the states of the layer below, if dropped
        after dropout.
        """
        if k == 0:
            return self.x[stretch.t0 : stretch.t1]
        z = self.room(k - 1, stretch)[1:-1]
        if not (self.masks and dropped):
            return z
        return drop(z, self.mask(k - 1, stretch), self.dropout)

    def mask(self, k: int, stretch: Stretch) -> Array:
        """Return what dropout kept of the states of layer k."""
        B = self.form.B
        rows = self.masks[k].rows(slice(stretch.t0 * B, stretch.t1 * B))
        return rows.reshape(-1, B, rows.shape[-1])


def forward(
    x: Any,
    cells: Sequence[Weights],
    z0: Sequence[ArrayLike] | Array | None,
    *,
    activation: Activation,
    dropout: float = 0.0,
    generator: np.random.Generator | None = None,
    options: Sequence[Mapping[str, Any]],
    reset_states: Sequence[ArrayLike] | Array | None = None,
    memory: int | None = None,
    checkpoint: int | None = None,
) -> LayersBoth:
    """Run the layers, each cell from its z0, with dropout from a generator.

    Parameters
    ----------
    x, activation, memory, checkpoint
        As in `bptt.forward`.
    cells : sequence of (W, V, b)
        Layer by layer, the direction from the first step first.
    z0, reset_states : sequence of array_like, optional
        z0 and reset_state of each cell, as in `bptt.forward`.
    dropout : float
    generator : numpy.random.Generator, optional
        Without one there is no dropout.
    options : sequence of two dicts
        lengths, offsets and resets of each direction, as in `bptt.forward`.
    """
    weights = [as_layer(*cell) for cell in cells]
    (I, H), dtype, L = weights[0][0].shape, weights[0][0].dtype, len(cells) // 2
    first, _ = turned = [dict(one) for one in options]
    flags = [one.pop("resets", None) for one in turned]
    x, form = as_cells(x, I, dtype, first.get("lengths"), first.get("offsets"))
    if isinstance(form, Ragged):
        name, came = budget_given(memory, checkpoint)
        raise ValueError(
            f"{name} must be None for sequences of different lengths in bidirectional "
            f"layers on top of each other, got {came}"
        )
    flags = [None if one is None else form.flags("resets", one) for one in flags]
    if reset_states is not None and flags[0] is None:
        raise ValueError("reset_state needs resets, got None")
    drops = generator is not None and dropout > 0
    schedule = _zigzag.plan(
        _sizes(form, L, I, H, dtype.itemsize, drops),
        memory=memory,
        checkpoint=checkpoint,
    )
    masks = []
    for _ in range(L - 1 if drops else 0):
        assert generator is not None
        masks.append(Bits(generator, form.cells, 2 * H, dropout))
    borders = _zigzag.borders_of(form.T, schedule.steps)
    z = np.empty((2 * L, len(borders), form.B, H), dtype)
    made = []
    for cell, (W, V, b) in enumerate(weights):
        z[cell, 0] = start = as_starts(None if z0 is None else z0[cell], form, H, dtype)
        again = None if reset_states is None else reset_states[cell]
        again = as_reset_state(again, form, H, dtype)
        layout = layout_of(form, flags[cell % 2], start, again)
        made.append(Cell(W, V, b, Leaves(form, layout, schedule.steps)))
    room = (min(schedule.steps, form.T) + 2, form.B, 2 * H)
    run = LayersBoth(
        x, form, activation, made, masks, dropout, schedule, borders, z,
        [np.empty(room, dtype) for _ in range(L)], [],
    )  # fmt: skip
    if form.T and form.B:
        for walk in _zigzag.passes(L, schedule.leaves):
            for u0, u1 in pairwise(map(int, borders)):
                stretch = Stretch.of(walk.direction, u0, u1, form.T)
                run.run(stretch, walk.needed)
    return run


def _sizes(
    form: Rectangle, L: int, I: int, H: int, itemsize: int, drops: bool
) -> Sizes:
    """Return the sizes of a run: with the errors of a layer, and those that both of its
    directions send down, states after dropout, and what dropout keeps.
    """
    T, B = max(1, form.T), max(1, form.B)
    wide = max(I, 2 * H)
    chunks = [_backend.kernels.chunk_steps(T, B, n, H, itemsize) for n in (I, 2 * H)]
    between = 2 * H + 2 * wide + 4 * H * drops
    beside = (L - 1) * form.cells * bytes_of_row(2 * H) * drops
    # First and last states, their gradients, and the borders of leaves' rooms.
    beside += 5 * 2 * L * B * H * itemsize
    chunk = min(T, lcm(*chunks))
    return Sizes(T, B, wide, H, itemsize, chunk, 2 * L, between, beside)
