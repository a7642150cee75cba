"""Runs that are not one plain call: rows that end or start anew, states not all kept.

A run is walked leaf by leaf, forward to keep what its schedule says, and backward from
the last leaf to the first, with the error carried from each to the one before. A run
whose states are all kept has a single leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt import _backend, _halves, _recompute, _reuse
from bptt._asked import asked, asked_at_once, cells_of
from bptt._forms import Form, Ragged, Rectangle
from bptt._ids import addresses
from bptt._leaves import Leaves, layout_of, starting, take_ends, with_room
from bptt._parts import Flow, Layout
from bptt._recompute import Schedule
from bptt._tape import ErrorFlow, Gradients, Tape
from bptt._totals import Totals
from bptt.activations import Activation

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Run(Tape):
    """The tape of a run that is not a plain one.

    Attributes
    ----------
    form : Rectangle or Ragged
    layout : Layout or None
    z0 : ndarray of shape (S, H)
        The initial state of each sequence.
    z_end : ndarray of shape (S, H)
    schedule : Schedule or None
        How its states are kept and recomputed; None where all are kept.
    kept : list of (int, ndarray)
        The leaves whose first state is kept, and that state, or those of all layers.
    held : list of one int
        The leaf whose states z holds.
    written : ndarray of int of shape (S,), or None
        How many steps of each sequence stand in z, or more: where that is padded what
        is not written is zero. One array for all runs that use the same memory.
    """

    form: Form
    layout: Layout | None
    z0: Array
    z_end: Array
    schedule: Schedule | None
    kept: list[tuple[int, Any]]
    held: list[int]
    written: Array | None

    def __post_init__(self) -> None:
        pass

    @property
    def cells(self) -> tuple[int, int]:
        """The shape of an array of one entry per cell: (T, B), or (N, 1)."""
        return self.form.shape

    @property
    def z_last(self) -> Array:
        """The last state of each sequence, (B, H), or (H,)."""
        return self.z_end if self.batched else self.z_end[0]

    def check_reusable(self) -> None:
        """Refuse to have the states overwritten by those of a later run."""
        if self.schedule is not None:
            raise ValueError(f"out must be a tape that keeps all states, got {self!r}")

    def gradient_shapes(self, need_x_grad: bool) -> tuple[Any, ...]:
        """Return the shapes of the `Gradients`."""
        dx = self.form.shape_of(len(self.W)) if need_x_grad and self.features else None
        b = None if self.b is None else self.b.shape
        return self.W.shape, self.V.shape, b, self.z_last.shape, dx

    @property
    def features(self) -> bool:
        """Whether x is none of token ids."""
        return isinstance(self.x, list) or self.x.ndim == 3

    def inputs(self, leaves: Leaves, leaf: int) -> Any:
        """Return what the layer reads in a leaf."""
        return addresses(leaves.part(leaf, self.x))

    def check_rows(self) -> None:
        """Refuse to go back where dz would not stand as the states do."""

    def apart(self) -> Run:
        """Return the run with room of its own for the states that it recomputes."""
        if self.schedule is None:
            return self
        z, z_end = np.empty_like(self.z), self.z_end.copy()
        return replace(self, z=z, z_end=z_end, held=[-1])

    def runner(self, leaves: Leaves) -> Callable[[int, Any], Any]:
        """Return what runs a leaf into z, and returns what the next one begins with."""

        def run_leaf(leaf: int, state: Array) -> Array:
            states = leaves.begin(leaf, self.z, state)
            _halves.forward(
                self.inputs(leaves, leaf), self.W, self.V, self.b, states,
                self.activation, leaves.layout(leaf),
            )  # fmt: skip
            leaves.take_ends(leaf, states, self.z_end)
            return leaves.last(leaf + 1, states)

        return run_leaf

    def __repr__(self) -> str:
        I, H = self.W.shape
        T = self.form.T if self.form.name == "array" else self.form.cells
        kind = {"array": "T", "padded": "N", "list": "N", "values": "N"}
        text = f"{kind[self.form.name]}={T}, B={self.form.S}, I={I}, H={H}"
        return f"Tape({text}, {self.W.dtype}, {self.activation.name})"


def forward(
    x: Any,
    W: Array,
    V: Array,
    b: Array | None,
    z0: Array,
    activation: Activation,
    form: Form,
    flags: Array | None,
    reset_state: Array | None,
    memory: int | None,
    checkpoint: int | None,
    out: Tape | None,
) -> tuple[Any, Run]:
    """Run forward over x in cells, from z0 (S, H); return the states, and the tape."""
    if out is not None:
        z0 = z0.copy()  # which may be among the states that are overwritten
    layout = layout_of(form, flags, apart=reset_state is not None)
    layout = starting(layout, z0, reset_state)
    T, B, (I, H) = form.T, form.B, W.shape
    z_end = z0.copy()
    arguments = (x, W, V, b)
    keeps = memory is None and checkpoint is None
    if keeps or T == 0 or B == 0:
        z, written = _reuse.states_of(form, H, W.dtype, out)
        if isinstance(form, Rectangle):
            z[0] = z0
            rows = z[1:]
        else:
            rows = z
            assert layout is not None
            layout = _halves.halved(layout._replace(first=form.first), V)
        if T and B:
            _halves.forward(x, W, V, b, z, activation, layout)
            take_ends(z_end, rows.reshape(-1, H), layout)
        z.flags.writeable = rows.flags.writeable = False
        run = Run(
            *arguments, z, activation, form.batched, form, layout, z0, z_end,
            None, [], [0], written,
        )  # fmt: skip
        return form.shaped(rows) if keeps else run.z_last, run

    chunk = _backend.kernels.chunk_steps(T, B, I, H, W.itemsize)
    sizes = _recompute.Sizes(
        T, B, I, H, W.itemsize, chunk,
        beside=form.known_bytes, **_halves.sizes(form, H),
    )  # fmt: skip
    sizes = sizes.with_ids(x, form.name == "list").with_events(layout)
    schedule = _recompute.plan(sizes, memory=memory, checkpoint=checkpoint)
    leaves = Leaves(form, layout, schedule.steps)
    buffer = np.empty((leaves.room(), H), W.dtype)
    kept = [(0, z0[form.first])]
    run = Run(
        *arguments, buffer, activation, form.batched, form, layout, z0, z_end,
        schedule, kept, [-1], None,
    )  # fmt: skip
    _recompute.reach(
        leaves.count - 1, schedule.slots, kept, run.held, run.runner(leaves)
    )
    return run.z_last, run


def in_cells(run: Run) -> Run:
    """Return a run whose arrays stand cell after cell, as its leaves do."""
    form, layout, z = run.form, run.layout, run.z
    if not isinstance(form, Ragged) or layout is None or layout.place is None:
        return run
    if layout.first is not None:
        assert layout.starts is not None
        rows = layout.starts[layout.first], z.reshape(-1, z.shape[-1])[layout.place]
        z = np.concatenate(rows)[:, np.newaxis]
    x = run.x
    if isinstance(x, list) or x.ndim == 3:
        x = form.cells_of(x if isinstance(x, list) else x[:, 0])
    layout = layout._replace(place=None, first=None, sequence=None, halves=None)
    return replace(run, x=x, z=z, layout=layout)


def leaves_of(run: Run) -> Leaves:
    steps = max(1, run.form.T) if run.schedule is None else run.schedule.steps
    return Leaves(run.form, run.layout, steps)


def walk_forward(
    run: Run, leaves: Leaves, first: int = 0, end: int | None = None
) -> Iterator[tuple[int, Array]]:
    """Yield each leaf from `first` up to `end`, and its states with the one before.

    The run itself holds then what it held before.
    """
    end = leaves.count if end is None else end
    there = run.held[0] == first and first + 1 == end
    return walk_over(run if there else run.apart(), leaves, first, end)


def walk_over(
    run: Run, leaves: Leaves, first: int, end: int
) -> Iterator[tuple[int, Array]]:
    """Do what `walk_forward` does, with a run that may hold other leaves afterwards."""
    if run.schedule is None or (run.held[0] == first and first + 1 == end):
        for leaf in range(first, end):
            yield leaf, leaves.states(leaf, run.z.reshape(-1, run.z.shape[-1]))
        return
    run_leaf = run.runner(leaves)
    leaf, state = [kept for kept in run.kept if kept[0] <= first][-1]
    for i in range(leaf, end):
        run.held[0] = -1  # a signal may come on the way
        state = run_leaf(i, state)
        run.held[0] = i
        if i >= first:
            yield i, leaves.states(i, run.z)


def walk_back(run: Run, leaves: Leaves) -> Iterator[tuple[int, Array]]:
    """Yield each leaf from the last to the first, and its states."""
    if run.schedule is None:
        for i in range(leaves.count):  # one, or none
            yield i, run.z
        return
    run_leaf, slots = run.runner(leaves), run.schedule.slots
    for i in _recompute.reach_back(leaves.count, slots, run.kept, run.held, run_leaf):
        yield i, leaves.states(i, run.z)


class Sums:
    """The gradients of a layer, summed up from the last leaf to the first.

    Parameters
    ----------
    W, V, b : ndarray
        The parameters of the layer; b may be None.
    activation : Activation
    form : Rectangle or Ragged
    leaves : Leaves
        Of the layer, for its layout is that of its starts.
    dz_last : ndarray of shape (S, H), or None
    """

    def __init__(
        self,
        W: Array,
        V: Array,
        b: Array | None,
        activation: Activation,
        form: Form,
        leaves: Leaves,
        dz_last: Array | None,
    ) -> None:
        dtype, (I, H) = W.dtype, W.shape
        self.W, self.V, self.activation = W, V, activation
        self.form, self.leaves, self.dz_last = form, leaves, dz_last
        self.totals = Totals(W, V, b, form.B)
        self.dz0 = np.zeros((form.S, H), dtype)
        self.steps = _backend.kernels.chunk_steps(form.T, form.B, I, H, dtype.itemsize)
        self.dz_start: Array | None = None

    def back(
        self,
        i: int,
        x: Any,
        states: Array,
        dz: Any,
        dx: Array | None,
        layout: Layout | None,
        flow: Flow | None,
    ) -> None:
        """Run back over leaf i, of which everything but the sums is given."""
        leaves = self.leaves
        layout = with_room(layout, len(self.V), self.V.dtype)
        layout, last = self.at_ends(layout, end=i == leaves.count - 1)
        rows = leaves.rows(leaves.bounds(i)[0])
        da_first = np.empty((rows, len(self.V)), self.V.dtype)
        self.dz_start = np.empty_like(da_first)
        _halves.backward(
            x, self.W, self.V, states, self.activation, dz, last,
            *self.totals.first, self.dz_start, dx, layout,
            self.totals.segment(self.steps, da_first), flow,
        )  # fmt: skip
        add_starts(self.dz0, self.V, layout)

    def at_ends(
        self, layout: Layout | None, *, end: bool
    ) -> tuple[Layout | None, Array | None]:
        """Return the layout of a part, and dz_last if there is an end for it within:
        of one of the sequences, or of the run where all end with it.
        """
        whole, last = self.leaves.whole, self.dz_last
        if whole is None or whole.ends is None:
            return layout, last if end else None
        if layout is None or layout.ends is None:
            return layout, None
        return layout if last is not None else layout._replace(ends=None), last

    def gradients(self, dx: Any) -> Gradients:
        """Return the sums, z0 in the caller's form, with a gradient of x."""
        form, dz0, last = self.form, self.dz0, self.dz_last
        if self.dz_start is not None and self.leaves.first is not None:
            if self.leaves.whole is None:
                dz0 = self.dz_start
            else:
                np.add.at(dz0, self.leaves.first, self.dz_start)
        if last is not None:
            never = np.zeros(form.S, bool) if form.T else np.ones(form.S, bool)
            if isinstance(form, Ragged):
                never = form.lengths == 0
            dz0[never] = last[never]
        dz0 = dz0 if form.batched else dz0[0]
        return Gradients(*self.totals.added(), dz0, dx)


def backward(
    run: Run,
    dz: Array | list[Array] | Callable[[int, Array], Any] | None,
    dz_last: Array | None,
    need_x_grad: bool,
    flow: Flow | None,
    out: Gradients | None,
) -> tuple[Gradients, ErrorFlow | None]:
    """Run backward, from dz in cells or given leaf by leaf, and dz_last (S, H)."""
    run.check_rows()
    form, dtype = run.form, run.W.dtype
    if out is not None:
        dx = _reuse.gradient_of_x(out, run, need_x_grad)
    else:
        wanted = need_x_grad and run.features
        dx = form.empty(len(run.W), dtype) if wanted else None
    leaves = leaves_of(run)
    sums = Sums(run.W, run.V, run.b, run.activation, form, leaves, dz_last)
    if callable(dz) and run.schedule is None and isinstance(form, Ragged):
        dz = asked_at_once(dz, form, run.z, dtype)
    if form.T and form.B:
        for i, states in walk_back(run, leaves):
            x, below = run.inputs(leaves, i), leaves.part(i, dx)
            layout = run.layout if run.schedule is None else leaves.layout(i)
            place = None if layout is None or not callable(dz) else layout.place
            if layout is not None and place is not None:
                # What it returns stands cell after cell, and so must x and dx.
                assert isinstance(form, Ragged)
                x = cells_of(x, place, form.before)
                layout = layout._replace(place=None, sequence=None)
                below = None if dx is None else np.empty(x.shape, dtype)
            error = leaf_of(dz, form, leaves, i, states)
            sums.back(i, x, states, error, below, layout, leaves.flow(i, flow))
            if dx is not None and place is not None:
                dx[place] = below
    grads = sums.gradients(None if dx is None else form.shaped(dx))
    if out is not None:
        grads = _reuse.overwrite(out, grads)
    return grads, as_recorded(flow, form)


def leaf_of(dz: Any, form: Form, leaves: Leaves, i: int, states: Array) -> Any:
    """Return dz of a leaf, from cells or from a function of its states."""
    if not callable(dz):
        return leaves.part(i, dz)
    return asked(dz, form, leaves.bounds(i), leaves.after(i, states), states.dtype)


def add_starts(dz0: Array, V: Array, layout: Layout | None) -> None:
    """Add the gradients of the starts of a leaf, from its last to its first."""
    if layout is None or layout.restarts is None or layout.da_starts is None:
        return
    # Those of z0: a state of resets is a constant.
    mine = layout.restarts[:, 2] < len(dz0)
    if not mine.any():
        return
    da = layout.da_starts[mine]
    dz = np.empty_like(da)
    _backend.kernels.state_backward(V, da, dz)
    # One after another in this order, which is that of a run in one piece.
    np.add.at(dz0, layout.restarts[mine][::-1, 2], dz[::-1])


def as_recorded(flow: Flow | None, form: Form) -> ErrorFlow | None:
    """Return what was recorded in the caller's form."""
    if flow is None or flow.dead is None:
        return None
    assert flow.norms is not None
    assert flow.saturated is not None
    return ErrorFlow(form.scatter(flow.norms), form.scatter(flow.saturated), flow.dead)
