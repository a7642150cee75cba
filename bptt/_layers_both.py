"""Layers in both directions on top of each other whose states are not all kept, or that
read sequences of different lengths.

`_errors_both.py` runs them back.

(a) What is kept is the state of each cell, a layer in one direction, at each border of
    a leaf, and backwards its da there: `_zigzag.py` says in which order they are found.
(b) A leaf is run from its borders through the layers that are needed, both directions
    of one into the same rows, side by side, as in `_both_ways.py`.
(c) A cell counts steps in its own order of time, in which its leaves are whole chunks:
    `_sides.py` says how the two directions stand to each other in a leaf.
(d) What dropout keeps is drawn once, in the order of such a run, and kept as bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt import _backend, _halves, _zigzag
from bptt._at_once import both
from bptt._dropout import Bits, bytes_of_row, drop
from bptt._forms import Form, Ragged
from bptt._ids import addresses
from bptt._inputs import as_cells, as_layer, as_reset_state, as_starts
from bptt._leaves import layout_of
from bptt._parts import Layout
from bptt._recompute import Schedule, Sizes
from bptt._sides import Cell, Even, Side, Stretch
from bptt._sides_ragged import Uneven, from_the_end
from bptt.activations import Activation

Array = NDArray[Any]
Weights = tuple[Array, Array, Array | None]
Ground = Even | Uneven
R = TypeVar("R")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class LayersBoth:
    """What a forward pass through layers in both directions leaves for a backward one.

    Attributes
    ----------
    x : ndarray of shape (T, B, I), or as `as_cells` returns it
    form : Rectangle or Ragged
    ground : Even or Uneven
        Which stretches there are, and what stands where.
    activation : Activation
    cells : list of Cell
        Layer by layer, the direction from the first step first.
    masks : list of Bits
        What dropout kept of the states of each layer but the last; none without it.
    dropout : float
    schedule : Schedule or None
        None where all states are kept, in a single leaf.
    z : ndarray, a table of the ground's
        The states at the borders, of each cell in its own order of time.
    rooms : list of ndarray
        Of each layer for the states of a leaf, with those around it.
    held : list of (Stretch, set of int)
        Whose states the rooms hold, of which cells; or nothing.
    """

    x: Array
    form: Form
    ground: Ground
    activation: Activation
    cells: list[Cell]
    masks: list[Bits]
    dropout: float
    schedule: Schedule | None
    z: Array
    rooms: list[Array]
    held: list[tuple[Stretch, set[int]]]

    @property
    def z_last(self) -> Array:
        """The last states, (L, B, H), or (L, H) of one sequence."""
        last = np.array([cell.z_end for cell in self.cells])
        return last if self.form.batched else last[:, 0]

    @property
    def layers(self) -> int:
        return len(self.rooms)

    @property
    def leaves(self) -> int:
        return 1 if self.schedule is None else self.schedule.leaves

    def __repr__(self) -> str:
        (I, H), L, form = self.cells[0].W.shape, len(self.cells), self.form
        sizes = f"L={L}, T={form.T}, B={form.S}, I={I}, H={H}"
        return f"LayersBoth({sizes}, {self.z.dtype}, {self.activation.name})"

    def run(self, stretch: Stretch, needed: set[int]) -> None:
        """Run cells through a stretch, from the states that they find at its border."""
        if self.held and self.held[0][0] == stretch and needed <= self.held[0][1]:
            return
        self.held.clear()  # a signal may come on the way
        for k in range(self.layers):
            cells = [cell for cell in (2 * k, 2 * k + 1) if cell in needed]
            if not cells:
                continue
            x = self.inputs(k, stretch)
            sides = [self.sides(cell, stretch) for cell in cells]
            if all(len(each) == 1 for each in sides):
                self._run_sides(cells, [each[0] for each in sides], x)
                continue

            def run(i: int, cells: Any = cells, sides: Any = sides, x: Any = x) -> None:
                for side in sides[i]:
                    self._run_sides([cells[i]], [side], x)

            self.each(run, cells, x)
        self.held.append((stretch, needed))

    def _run_sides(self, cells: list[int], sides: list[Side], x: Array) -> None:
        """Run a side of one cell, or of both of a layer at once."""
        calls = []
        for cell, side in zip(cells, sides, strict=True):
            side.begin(self.z[cell])
            W, V, b = self.cells[cell][:3]
            calls.append(
                (side.turned(x), W, V, b, side.states, self.activation, side.layout)
            )
        if len(calls) == 2:
            _backend.kernels.forward_both(*calls)
        else:
            _backend.kernels.forward(*calls[0])
        for cell, side in zip(cells, sides, strict=True):
            side.end(self.z[cell])

    def each(self, run: Callable[[int], R], cells: list[int], x: Array) -> list[R]:
        """Return what a function gives for each of the cells of a layer that read x, at
        once where two threads are better spent so.
        """
        if len(cells) < 2:
            return [run(0)]
        I, H = self.cells[cells[0]].W.shape
        rows = len(x) * x.shape[1]
        return both(run, self.form.B, H, float(rows) * H * (H + I))

    def sides(self, cell: int, stretch: Stretch) -> list[Side]:
        """Return the sides of a cell in a stretch, in its own order of time."""
        room = self.rooms[cell // 2]
        return self.ground.sides(self.cells[cell], cell % 2, stretch, room)

    def states(self, k: int, stretch: Stretch) -> Array:
        """Return those of a layer, both directions side by side."""
        return self.ground.cells(stretch, self.rooms[k])

    def inputs(self, k: int, stretch: Stretch, *, dropped: bool = True) -> Array:
        """Return what layer k reads: x, or the states of the layer below, if dropped
        after dropout.
        """
        if k == 0:
            told: Array = addresses(self.ground.rows(stretch, self.x))
            return told
        z = self.states(k - 1, stretch)
        if not (self.masks and dropped):
            return z
        return drop(z, self.mask(k - 1, stretch), self.dropout)

    def all_states(self) -> Array:
        """Return those of the last layer, where all are kept, in the caller's form."""
        rows = self.form.empty(self.rooms[-1].shape[-1], self.z.dtype)
        if self.held:
            stretch = self.held[0][0]
            self.ground.add(stretch, rows, self.states(self.layers - 1, stretch), True)
        rows.flags.writeable = False
        z: Array = self.form.shaped(rows)
        return z

    def all_masks(self, shape: tuple[int, ...]) -> tuple[Array | None, ...]:
        """Return what dropout kept as masks of the shape of the states."""
        masks = [mask.rows(slice(None)).reshape(shape) for mask in self.masks]
        return tuple(masks) or (None,) * (self.layers - 1)

    def mask(self, k: int, stretch: Stretch) -> Array:
        """Return what dropout kept of the states of layer k."""
        rows = self.masks[k].rows(self.ground.places(stretch))
        return rows.reshape(self.states(k, stretch).shape)


def forward(
    x: Any,
    cells: Sequence[Weights],
    z0: Sequence[ArrayLike] | Array | None,
    *,
    activation: Activation,
    dropout: float = 0.0,
    generator: np.random.Generator | None = None,
    lengths: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    resets: Any = None,
    reset_states: Sequence[ArrayLike] | Array | None = None,
    memory: int | None = None,
    checkpoint: int | None = None,
) -> LayersBoth:
    """Run the layers, each cell from its z0, with dropout from a generator.

    Parameters
    ----------
    x, activation, lengths, offsets, resets, memory, checkpoint
        As in `bptt.forward`.
    cells : sequence of (W, V, b)
        Layer by layer, the direction from the first step first.
    z0, reset_states : sequence of array_like, optional
        z0 and reset_state of each cell, as in `bptt.forward`.
    dropout : float
    generator : numpy.random.Generator, optional
        Without one there is no dropout.
    """
    weights = [as_layer(*cell) for cell in cells]
    (I, H), dtype, L = weights[0][0].shape, weights[0][0].dtype, len(cells) // 2
    within = memory is not None or checkpoint is not None
    x, form = as_cells(x, I, dtype, lengths, offsets, narrow=within)
    flags = None if resets is None else form.flags("resets", resets)
    if reset_states is not None and flags is None:
        raise ValueError("reset_state needs resets, got None")
    events = events_of(form, flags, apart=reset_states is not None)
    del flags  # as many as there are cells
    drops = generator is not None and dropout > 0
    sizes = _sizes(form, L, I, H, dtype.itemsize, drops)
    sizes = sizes.with_ids(x).with_events(*events)
    schedule, steps = None, max(1, form.T)
    if within:
        shared = isinstance(form, Ragged)
        schedule = _zigzag.plan(
            sizes, memory=memory, checkpoint=checkpoint, shared=shared
        )
        steps = schedule.steps
    masks = []
    for _ in range(L - 1 if drops else 0):
        assert generator is not None
        masks.append(Bits(generator, form.caller_rows, 2 * H, dropout))
    ground: Ground
    if isinstance(form, Ragged):
        ground = Uneven(form, steps, sizes.chunk)
    else:
        ground = Even(form, steps)
    z = ground.table(2 * L, H, dtype)
    made = []
    for cell, (W, V, b) in enumerate(weights):
        start = as_starts(None if z0 is None else z0[cell], form, H, dtype)
        again = None if reset_states is None else reset_states[cell]
        again = as_reset_state(again, form, H, dtype)
        leaves = ground.leaves_of(cell % 2, events[cell % 2], start, again)
        ground.start(z[cell], cell % 2, start)
        made.append(Cell(W, V, b, leaves, start.copy()))
    run = LayersBoth(
        x, form, ground, activation, made, masks, dropout, schedule, z,
        [ground.room(H, dtype) for _ in range(L)], [],
    )  # fmt: skip
    if form.T and form.B:
        for walk in _zigzag.passes(L, run.leaves):
            for stretch in ground.stretches(walk.direction):
                run.run(stretch, walk.needed)
    return run


def events_of(
    form: Form, flags: Array | None, *, apart: bool
) -> tuple[Layout | None, Layout | None]:
    """Return the layout of each direction, in its own order of time, where rows that
    read from the first step start anew at flags.
    """
    first = layout_of(form, flags, apart=apart)
    if isinstance(form, Ragged):
        assert first is not None
        other = from_the_end(form, flags, apart=apart)
        return first._replace(place=None, sequence=None), other
    if flags is None:
        return None, None
    # A reset keeps a step from the one before it: now that one starts anew.
    turned = np.zeros_like(flags)
    turned[1:] = flags[:0:-1]
    return first, layout_of(form, turned, apart=apart)


def _sizes(form: Form, L: int, I: int, H: int, itemsize: int, drops: bool) -> Sizes:
    """Return the sizes of a run: with the errors of a layer, and those that both of its
    directions send down, states after dropout, rows of a ragged batch, and what dropout
    keeps.
    """
    T, B, ragged = max(1, form.T), max(1, form.B), isinstance(form, Ragged)
    wide = max(I, 2 * H)
    chunks = [_backend.kernels.chunk_steps(T, B, n, H, itemsize) for n in (I, 2 * H)]
    between = 2 * H + 2 * wide + 4 * H * drops + (3 * I + 2 * H) * ragged
    beside = form.known_bytes + (L - 1) * form.caller_rows * bytes_of_row(2 * H) * drops
    # First and last states, those of resets, gradients, and the borders of rooms.
    beside += (8 * form.S + B) * 2 * L * H * itemsize
    chunk = min(T, lcm(*chunks))
    parts = _halves.sizes(form, H)
    sizes = Sizes(T, B, wide, H, itemsize, chunk, 2 * L, between, beside, **parts)
    # All rows of a part start anew that is walked through from the end.
    return sizes._replace(beside=beside + ragged * B * sizes.start_bytes)
